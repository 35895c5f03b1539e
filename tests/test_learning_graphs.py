"""Updates replayed from a record are the updates: bit for bit, whatever the method."""

import numpy as np
import pytest
import torch
from recorder import record

from cpl_bench.core.cards import load_task
from cpl_bench.learning import loop
from cpl_bench.learning.graphs import FIRST_UPDATES, STEPS, Plain, Replayed
from cpl_bench.learning.loop import Stretch, fit
from cpl_bench.learning.methods import configured
from cpl_bench.preferences.arrays import preferences_from_arrays
from cpl_bench.runs.prepare import prepare

CPU = torch.device("cpu")
LASTS = 24  # steps of a phase: three as they are, then records of ten and single ones
POLICY = {"hidden": (8, 8), "standardise": True, "average": 0.9, "dropout": 0.25}
LEARNED = {"variance": "learned", "std_limits": (0.9, 1.0)}
CLONE = {"policy": POLICY, "clone": {"steps": LASTS}, "segments": 8, "steps": 2 * LASTS}
REWARD = {"steps": LASTS, "hidden": (8, 8)}
IQL = {"policy": POLICY, "reward": REWARD, "segments": 8, "steps": 2 * LASTS}
CASES = {
    "sft": CLONE,
    "cpl": CLONE,
    "cpl, single steps": CLONE | {"clone": {"steps": LASTS, "transitions": 16}},
    "cpl, all of Adam": CLONE
    | {"contrast": {"cosine": True, "largest_gradient": 0.1, "warmup_steps": 9}},
    "cpl, imitating": CLONE | {"bc_weight": 0.5},
    "cpl, learned variance": CLONE | {"policy": POLICY | LEARNED},
    "cpl, chunks": CLONE
    | {"policy": POLICY | {"chunk": 4}, "clone": {"steps": LASTS, "transitions": 16}},
    "cpl, of the clone": CLONE | {"reference": True, "score": "mean_over_temperature"},
    "cpl, ranking": CLONE | {"objective": "ranking"},
    "cpl, hinge": CLONE | {"objective": "hinge", "smoothing": 0.1},
    "dpo": CLONE,
    "ipo": CLONE,
    "rso": CLONE | {"reward": REWARD, "steps": 3 * LASTS, "candidates": 12},
    "rso, soft": CLONE
    | {"reward": REWARD, "steps": 3 * LASTS, "candidates": 12}
    | {"labels": "soft", "rejection": False, "reference": False, "lam": 0.5},
    "percent-bc": {"policy": POLICY, "transitions": 16, "steps": LASTS},
    "percent-bc, chunks": {"policy": POLICY | LEARNED | {"chunk": 3}, "steps": LASTS},
    "piql": IQL,
    "piql, laptop": IQL
    | {"transitions": 16, "standardise_rewards": True, "value_scale": 100.0}
    | {"reward": REWARD | {"imitation": 0.3, "bounded": True}},
    "piql, ensemble": IQL | {"reward": REWARD | {"ensemble": 2, "pessimism": 1.0}},
    "piql, ranking": IQL | {"reward": REWARD | {"loss": "ranking"}},
    "piql, true reward": IQL | {"reward": {"source": "true"}, "steps": LASTS},
    "ipl": {"policy": POLICY, "value": {"hidden": (8, 8)}, "segments": 8, "steps": LASTS},
    "ppo": CLONE | {"reward": REWARD, "steps": 3 * LASTS, "collection": {"transitions": 128}},
}


def data(pairs="dense"):
    """Thirty segments of six steps, some of which end their task."""
    draw = np.random.default_rng(0)
    ends = np.zeros((30, 6), bool)
    ends[::7, -1] = True
    answers = {"scores": draw.normal(size=30)}
    if pairs == "sparse":
        first, second = draw.integers(0, 15, 40), draw.integers(15, 30, 40)
        answers = {"first": first, "second": second, "prefers_second": draw.integers(0, 2, 40)}
    return preferences_from_arrays(
        draw.normal(size=(30, 6, 5)).astype(np.float32),
        draw.uniform(-1, 1, (30, 6, 2)).astype(np.float32),
        rewards=draw.normal(size=(30, 6)).astype(np.float32),
        terminations=ends,
        **answers,
    )


def learnt(case, updates_of, monkeypatch, pairs="dense", precision="fp32"):
    """Pauses and the last state of a method's offline phases."""
    name = case.partition(",")[0]
    config = configured(name, "paper", CASES[case])
    monkeypatch.setattr(loop, "updates_of", updates_of)
    task = load_task("pointmass")
    trainee = prepare(name, config, data(pairs), (0, 3), CPU, task, object(), "", precision)
    offline = [stretch for stretch in trainee.training if stretch.recordable]
    pauses = list(fit(offline, [5, 18, 23, 40], CPU))
    return pauses, trainee.learner.state()


def plain(stretch, device):
    return Plain(stretch.take, device)


def replayed(stretch, device):
    return Replayed(stretch.take, device, record)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_method_is_the_method(case, monkeypatch):
    expected, state = learnt(case, plain, monkeypatch)
    pauses, found = learnt(case, replayed, monkeypatch)
    assert [pause.step for pause in pauses] == [pause.step for pause in expected]
    for pause, other in zip(pauses, expected, strict=True):
        assert_same(pause.metrics, other.metrics)
    assert_same(found, state)


def test_replayed_in_other_precision_and_on_listed_comparisons(monkeypatch):
    for options in ({"precision": "bf16"}, {"pairs": "sparse"}):
        expected, state = learnt("cpl", plain, monkeypatch, **options)
        pauses, found = learnt("cpl", replayed, monkeypatch, **options)
        assert_same(pauses[-1].metrics, expected[-1].metrics)
        assert_same(found, state)


class Counted:
    """Counts how often an update is asked for by Python."""

    def __init__(self):
        self.asked, self.value = 0, torch.zeros(1, dtype=torch.int64)

    def __call__(self, step):
        self.asked += 1
        self.value.add_(step)  # in place, as every update
        return {"value": self.value.float()}


@pytest.mark.parametrize("count", [1, FIRST_UPDATES, FIRST_UPDATES + 1, 13, 14, 23, 57])
def test_steps_are_counted_on_the_device(count):
    take = Counted()
    updates = Replayed(take, CPU, record)
    for step in range(0, 3 * count, count):
        updates.advance(step, count)
        sums = np.cumsum(np.arange(3 * count))[step : step + count]
        assert updates.means()["value"].item() == pytest.approx(sums.mean())
    assert take.value.item() == sum(range(3 * count))
    assert take.asked <= FIRST_UPDATES + STEPS + 1


def test_an_update_that_looks_at_a_number_is_no_update_for_a_record():
    def looks(step):
        return {"value": torch.ones(1) * int(step)}

    updates = Replayed(looks, CPU, record)
    with pytest.raises(RuntimeError, match="a number of the device is asked for"):
        updates.advance(0, FIRST_UPDATES + 1)


def test_what_python_decides_stays_decided():
    """The stand-in notices what a graph would: this update goes wrong, and it must be seen here."""
    asked = []

    def decides(step):
        asked.append(step)
        return {"value": torch.full((1,), float(len(asked)))}

    updates = Replayed(decides, CPU, record)
    updates.advance(0, 23)
    assert updates.means()["value"].item() != np.arange(1, 24).mean()


def test_a_gpu_replays_whatever_it_can(monkeypatch):
    """Online phases ask for episodes, so they are asked step by step."""
    stretch = Stretch("s", 1, lambda step: {})
    gpu = torch.device("cuda")
    monkeypatch.setattr(loop, "Replayed", lambda take, device: (take, device))
    assert loop.updates_of(stretch, gpu) == (stretch.take, gpu)
    assert isinstance(loop.updates_of(stretch, CPU), Plain)
    assert isinstance(loop.updates_of(stretch._replace(recordable=False), gpu), Plain)
