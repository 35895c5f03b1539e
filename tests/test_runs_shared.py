"""A phase that several methods begin with is trained once, and nobody can tell afterwards."""

import dataclasses
import shutil

import pytest
from impatient import DyingPool

from cpl_bench.core.cards import load_task
from cpl_bench.core.files import write_atomically
from cpl_bench.learning.methods import configured
from cpl_bench.learning.networks import Policy
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs import shared
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.train import train

SMALL = {"policy": {"hidden": (8, 8), "standardise": True, "average": 0.9}, "segments": 8}
CLONE = {"steps": 24, "transitions": 16, "optimiser": {"rate": 1e-3}}
JUDGES = {"reward": {"steps": 4, "hidden": (8, 8)}, "value": {"hidden": (8, 8)}}
SETTINGS = {
    "sft": SMALL | {"clone": CLONE, "steps": 36},
    "cpl": SMALL | {"clone": CLONE, "steps": 36},
    "dpo": SMALL | {"clone": CLONE, "steps": 36},
    "rso": SMALL | {"clone": CLONE, "reward": JUDGES["reward"], "steps": 36},
    "ppo": SMALL
    | JUDGES
    | {
        "clone": CLONE,
        "steps": 36,
        "collection": {"transitions": 60, "minibatch": 20, "epochs": 1, "value_only": 0},
    },
    "piql": SMALL | JUDGES | {"steps": 10},
    "ipl": SMALL | {"value": JUDGES["value"], "steps": 10},
    "percent-bc": {"policy": SMALL["policy"], "steps": 10},
}


@pytest.fixture(scope="module")
def data(dots):
    return load_preferences(dots[2])


@pytest.fixture
def run(data, pool):
    """run(runs, algorithm, settings, **options): train on the point mass."""

    def made(runs, algorithm, settings=None, pool=pool, preferences=data, **options):
        options = {"seeds": (0, 3), "evaluate_every": 12, "episodes": 2} | options
        config = configured(algorithm, "laptop", SETTINGS[algorithm] | (settings or {}))
        options = TrainOptions(runs=runs, **options)
        return train(preferences, "dots", algorithm, config, options, pool, load_task("pointmass"))

    return made


@pytest.fixture(scope="module")
def sft_alone(data, pool, tmp_path_factory):
    """Where SFT has been, and has left its cloning; no test may change it."""
    runs = tmp_path_factory.mktemp("sft")
    options = TrainOptions((0, 3), evaluate_every=12, episodes=2, runs=runs)
    config = configured("sft", "laptop", SETTINGS["sft"])
    train(data, "dots", "sft", config, options, pool, load_task("pointmass"))
    return runs


@pytest.fixture
def after_sft(sft_alone, tmp_path):
    """A copy of it."""
    return shutil.copytree(sft_alone, tmp_path / "runs")


@pytest.fixture
def cloned(monkeypatch):
    """Counts the gradient steps of cloning."""
    taken = []
    clone = Policy.clone

    def counted(self, batch):
        taken.append(int(batch.step))
        return clone(self, batch)

    monkeypatch.setattr(Policy, "clone", counted)
    return taken


def contents(folder):
    """All that must be the same in two runs."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name != "run.json" and "tensorboard" not in path.parts
    }


def kept(runs):
    """The folders of shared starts."""
    return list((runs / "dots" / ".shared").glob("[0-9a-f]*"))


def test_one_cloning_serves_every_method_that_begins_with_it(run, cloned, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    cloning = ("sft", "cpl", "dpo", "rso", "ppo")
    for algorithm in cloning:
        run(together, algorithm)
    assert cloned == list(range(24))
    assert len(kept(together)) == 1
    for algorithm in cloning:
        expected = contents(run(alone / algorithm, algorithm))
        assert len([name for name in expected if "checkpoints" in name]) == 3
        assert contents(together / "dots" / algorithm) == expected
    assert cloned == list(range(24)) * (1 + len(cloning))


def test_methods_that_clone_nothing_leave_nothing(run, tmp_path):
    for algorithm in ("piql", "ipl", "percent-bc"):
        run(tmp_path, algorithm)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"clone": CLONE | {"steps": 23}}},
        {"settings": {"clone": CLONE | {"transitions": 15}}},
        {"settings": {"clone": CLONE | {"transitions": 0}}},
        {"settings": {"clone": CLONE | {"optimiser": {"rate": 2e-3}}}},
        {"settings": {"policy": SMALL["policy"] | {"hidden": (8, 9)}}},
        {"settings": {"policy": SMALL["policy"] | {"standardise": False}}},
        {"settings": {"policy": SMALL["policy"] | {"average": 0.0}}},
        {"settings": {"policy": SMALL["policy"] | {"dropout": 0.5}}},
        {"seeds": (0, 2)},
        {"seeds": (3, 0)},
        {"evaluate_every": 6},
        {"episodes": 1},
        {"threads": 3},
    ],
    ids=repr,
)
def test_another_beginning_is_trained_anew(run, cloned, after_sft, change):
    run(after_sft, "cpl", **change)
    assert len(cloned) in (23, 24)
    assert len(kept(after_sft)) == 2


def test_other_data_other_code_and_other_versions_begin_anew(
    run, data, cloned, tmp_path, monkeypatch
):
    run(tmp_path, "sft")
    info = dataclasses.replace(data.info, preferences_hash="0" * 64)
    run(tmp_path, "cpl", preferences=dataclasses.replace(data, info=info), note="data")
    monkeypatch.setattr(shared, "source_hash", lambda: "another")
    run(tmp_path, "cpl", note="code")
    monkeypatch.undo()
    monkeypatch.setattr("cpl_bench.runs.train.versions", lambda simulators: {"torch": "3.0"})
    run(tmp_path, "cpl", note="versions")
    assert len(kept(tmp_path)) == 4


def test_a_rate_that_falls_over_all_steps_is_shared_among_equals_alone(run, cloned, tmp_path):
    """SFT's cloning goes on with its optimiser; CPL's ends, and a cosine ends with it."""
    cosine = {"clone": CLONE | {"optimiser": {"rate": 1e-3, "cosine": True}}}
    run(tmp_path, "sft", cosine)
    run(tmp_path, "cpl", cosine)
    assert len(cloned) == 48
    run(tmp_path, "cpl", cosine | {"lam": 1.0}, note="plain")
    assert len(cloned) == 48


@pytest.mark.parametrize(
    "name",
    ["about.json", "state.safetensors", "metrics.csv", "evaluations.csv", "checkpoints/12"],
)
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_what_is_damaged_is_trained_anew_and_mended(run, cloned, after_sft, tmp_path, name, how):
    (folder,) = kept(after_sft)
    before = contents(folder)
    path = folder / (f"{name}.safetensors" if "/" in name else name)
    if how == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    mended = run(after_sft, "cpl")
    assert len(cloned) == 24
    assert contents(folder) == before
    assert contents(mended) == contents(run(tmp_path / "alone", "cpl"))


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_run_that_took_over_resumes_to_the_same_bytes(run, pool, tmp_path, asked):
    run(tmp_path, "sft")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "ppo", pool=DyingPool(pool, asked))
    shutil.rmtree(tmp_path / "dots" / ".shared")  # what it has is its own
    found = contents(run(tmp_path, "ppo", resume=True))
    assert found == contents(run(tmp_path / "alone", "ppo"))


def test_a_run_that_was_interrupted_before_leaves_nothing(run, pool, tmp_path, monkeypatch):
    """What it began with may have been of other code: no key of today's fits it."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "sft", pool=DyingPool(pool, 1))
    monkeypatch.setattr(shared, "source_hash", lambda: "another")
    run(tmp_path, "sft", resume=True)
    assert kept(tmp_path) == []


def test_somebody_elses_task_or_policy_is_not_shared(run, data, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "SUITES", {})
    run(tmp_path / "task", "sft")
    monkeypatch.undo()

    class Own(Policy):
        pass

    monkeypatch.setattr("cpl_bench.learning.algos.bc.Policy", Own)
    run(tmp_path / "policy", "sft")
    assert kept(tmp_path / "task") == kept(tmp_path / "policy") == []


def test_a_copy_that_fails_half_way_is_as_if_there_was_none(run, cloned, tmp_path, monkeypatch):
    run(tmp_path, "sft")
    copied = []

    def full(path, content):
        if "cpl" in str(path) and path.name == "evaluations.csv":
            copied.append(path)
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(shared, "write_atomically", full)
        found = run(tmp_path, "cpl")
    assert copied
    assert len(cloned) == 48
    assert contents(found) == contents(run(tmp_path / "alone", "cpl"))


def test_no_room_for_a_copy_costs_nothing_but_time(run, tmp_path):
    (tmp_path / "dots").mkdir(parents=True)
    (tmp_path / "dots" / ".shared").write_text("a file where the folder would be")
    assert contents(run(tmp_path, "sft")) == contents(run(tmp_path / "alone", "sft"))
