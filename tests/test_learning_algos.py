"""Every method in ALGOS keeps the house's promises and learns a problem whose answer is known.

Golden curves: tests/golden/NAME.json holds the metrics of 30 steps. After a change that is meant to
change results, write them anew and say why in the changelog:

    CPL_BENCH_GOLDEN=write pytest tests/test_learning_algos.py -k golden
"""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.toml import replaced
from cpl_bench.learning.config import LAPTOP_POLICY, Optimiser, PolicyConfig
from cpl_bench.learning.interface import (
    BestEpisodes,
    Episodes,
    OnlinePhase,
    PreferenceBatch,
    RolloutBatch,
    Segments,
)
from cpl_bench.learning.loop import fit, stretch
from cpl_bench.learning.losses import of_comparisons, preference_nll, preferred, segment_score
from cpl_bench.learning.methods import ALGOS, Listed, configured, find_method, summaries
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.transitions import TransitionSampler
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import label
from cpl_bench.runs.assess import assess
from cpl_bench.runs.batches import PreferenceSampler, steps_of
from cpl_bench.runs.feeds import Source, stretches
from cpl_bench.runs.prepare import prepare
from cpl_bench.tasks.policies import mlp_action, planner
from cpl_bench.trajectories.collect import collect

GOLDEN = Path(__file__).parent / "golden"
ROUNDING = 1e-5  # other machines round otherwise: 5e-7 measured, in metrics that are differences
CPU = torch.device("cpu")
OBSERVATION, ACTION, SEGMENTS, LENGTH = 5, 2, 8, 6


def adam(rate, **others):
    """An optimiser's settings, complete."""
    plain = {"warmup_steps": 0, "cosine": False, "largest_gradient": 0.0}
    return {"rate": rate, **plain, **others}


def tiny():
    """By method, complete: no preset reaches the golden curves."""
    widths = (16, 16)
    policy = {"hidden": widths, "dropout": 0.25, "standardise": False, "average": 0.0}
    policy |= {"variance": "fixed"}
    clone = {"steps": 5, "optimiser": adam(1e-2), "transitions": 0}
    reward = {
        "source": "learned",
        "steps": 3,
        "optimiser": adam(1e-2),
        "hidden": widths,
        "ensemble": 2,
        "pessimism": 0.0,
        "bounded": True,
        "imitation": 0.1,
        "loss": "pairs",
    }
    shared = {"policy": policy, "steps": 12}
    contrast = {"clone": clone, "contrast": adam(1e-2, warmup_steps=3), "segments": SEGMENTS}
    cpl = {
        **shared,
        **contrast,
        "lam": 0.5,
        "alpha": 0.1,
        "bc_weight": 0.0,
        "reference": False,
        "objective": "logistic",
        "margin": 1.0,
        "smoothing": 0.0,
        "score": "alpha_times_sum",
        "temperature": 1.0,
    }
    dpo = {**cpl, "lam": 1.0, "reference": True}
    judged = {
        "value": {"hidden": widths, "optimiser": adam(1e-2)},
        "value_scale": 10.0,
        "expectile": 0.7,
        "temperature": 0.5,
        "largest_weight": 100.0,
        "gamma": 0.9,
        "polyak": 0.1,
    }
    return {
        "sft": {**shared, "clone": clone, "segments": SEGMENTS},
        "cpl": cpl,
        "dpo": dpo,
        "ipo": {**dpo, "objective": "ipo"},
        "rso": {
            **shared,
            **contrast,
            "beta": 2.0,
            "rejection": True,
            "labels": "hard",
            "alpha": 0.1,
            "lam": 1.0,
            "objective": "logistic",
            "margin": 1.0,
            "reference": True,
            "reward": reward,
            "candidates": SEGMENTS,
            "segments": SEGMENTS - 2,
        },
        "percent-bc": {**shared, "percent": 10.0, "optimiser": adam(1e-2), "transitions": 32},
        "piql": {
            **shared,
            "reward": reward,
            "standardise_rewards": True,
            "actor": adam(1e-2, cosine=True),
            **judged,
            "segments": SEGMENTS,
            "transitions": 32,
        },
        "ipl": {
            **shared,
            "regularisation": 0.3,
            "actor": adam(1e-2),
            **judged,
            "segments": SEGMENTS,
        },
        "ppo": {
            **shared,
            "reward": reward,
            "kl": {"weight": 0.1, "estimator": "k1"},
            "std": {"initial": 0.5, "lowest": 0.3, "highest": 1.5},
            "collection": {"transitions": 10, "epochs": 1, "minibatch": 4, "value_only": 1},
            "surrogate": {"objective": "clip", "clip": 0.2, "target_kl": 0.01},
            "gamma": 0.9,
            "gae_lambda": 0.95,
            "ptx_weight": 0.0,
            "clone": clone,
            "actor": adam(1e-2, largest_gradient=0.5),
            "value": {"hidden": widths, "optimiser": adam(1e-2, largest_gradient=0.5)},
            "segments": SEGMENTS,
        },
    }


def enough():
    """By method: what differs from the laptop preset where the point mass is to be learned."""
    widths, rate = (64, 64), {"rate": 1e-3}
    clone = {"steps": 300, "optimiser": rate}
    reward = {
        "steps": 500,
        "optimiser": rate,
        "hidden": widths,
        "bounded": True,
        "imitation": 0.0,
    }
    shared = {"policy": {"hidden": widths, "dropout": 0.0}, "steps": 1500}
    contrast = {"clone": clone, "contrast": {**rate, "warmup_steps": 100}, "segments": 32}
    short = {"steps": 600, "segments": 16}
    return {
        "sft": {**shared, "steps": 700, "clone": clone, "segments": 32},
        "cpl": {**shared, **contrast, "lam": 0.75, "alpha": 1.0},
        "dpo": {**shared, **contrast, **short, "steps": 900, "alpha": 3.0},
        "ipo": {**shared, **contrast, **short, "alpha": 0.3},
        "rso": {
            **shared,
            **contrast,
            "steps": 1400,
            "reward": reward,
            "beta": 30.0,  # rewards tell states apart, and few states would be left
            "alpha": 3.0,
            "lam": 0.9,
            "candidates": 20,
            "segments": 16,
        },
        "percent-bc": {**shared, "steps": 700, "optimiser": rate, "transitions": 256},
        "piql": {
            **shared,
            "reward": reward,
            "standardise_rewards": False,
            "actor": rate,
            "value": {"hidden": widths, "optimiser": rate},
            "value_scale": 1.0,
            "expectile": 0.7,
            "temperature": 0.3,
            "gamma": 0.99,
            "polyak": 0.005,
            "segments": 32,
            "transitions": 256,
            "steps": 1000,
        },
        "ipl": {
            **shared,
            "regularisation": 0.05,
            "actor": {**rate, "cosine": True},
            "value": {"hidden": widths, "optimiser": rate},
            "value_scale": 10.0,
            "expectile": 0.5,
            "temperature": 0.1,
            "gamma": 0.99,
            "polyak": 0.05,
            "segments": 8,
            "steps": 800,
        },
        "ppo": {
            **shared,
            "reward": reward,
            "kl": {"weight": 0.2},
            "collection": {"transitions": 2048, "epochs": 5, "minibatch": 256, "value_only": 0},
            "gamma": 0.99,
            "clone": clone,
            "actor": rate,
            "value": {"hidden": widths, "optimiser": rate},
            "segments": 32,
        },
    }


TINY, LEARNS, STEPS = tiny(), enough(), 12
IMITATORS = ("sft", "percent-bc")  # they are as good as their data, not better
TEACHES = {  # least success, and how far above imitation
    "cpl": (0.75, 0.2),
    "dpo": (0.75, 0.2),
    "ipo": (0.75, 0.2),
    "rso": (0.6, 0.1),
    "ipl": (0.55, 0.0),
    "piql": (0.55, 0.0),  # a learned reward is a detour; with the true one they must solve it
    "ppo": (0.55, 0.0),
}

LEARNED, CHUNKS = {"variance": "learned", "std_limits": [0.2, 1.5]}, {"chunk": 4}
OWN_LABELS = {"rejection": False, "reference": False}
VARIANTS = {  # of methods and their policies; they keep all promises, too
    "sft, chunks": {"policy": CHUNKS},
    "cpl, chunks": {"policy": CHUNKS | {"average": 0.9}},
    "cpl, learned variance": {"policy": LEARNED | {"average": 0.9}},
    "cpl, both": {"policy": CHUNKS | LEARNED | {"replan": 3}},
    "cpl, BC": {"lam": 1.0, "bc_weight": 1.0},
    "cpl, KL": {"reference": True},
    "cpl, not cloned": {"clone": {"steps": 0}},
    "cpl, hinge": {"lam": 1.0, "objective": "hinge", "margin": 0.5, "bc_weight": 1.0},
    "cpl, ranking": {"lam": 0.9, "objective": "ranking"},
    "cpl, mean score": {"score": "mean_over_temperature", "temperature": 0.5},
    "dpo, conservative": {"smoothing": 0.1},
    "rso, soft": {**OWN_LABELS, "labels": "soft", "lam": 0.6},
    "rso, hinge": {"objective": "hinge"},
    "percent-bc, both": {"policy": CHUNKS | LEARNED},
    "piql, learned variance": {"policy": LEARNED},
    "ipl, learned variance": {"policy": LEARNED},
    "ppo, reinforce": {"surrogate": {"objective": "reinforce"}, "gae_lambda": 1.0},
}

every_method = pytest.mark.parametrize("name", ALGOS)
every_learner = pytest.mark.parametrize("name", [*ALGOS, *VARIANTS])


def method_of(name):
    return name.partition(",")[0]


def config_of(name, **settings):
    """The tiny config with those of the settings that the method has."""
    config = configured(method_of(name), "laptop", TINY[method_of(name)])
    known = {key: value for key, value in settings.items() if hasattr(config, key)}
    return replaced(replaced(config, known, name), VARIANTS.get(name, {}), name)


def build(name, seeds, **settings):
    config = config_of(name, **settings)
    return find_method(method_of(name)).build(config, OBSERVATION, ACTION, seeds, CPU)


def draw_for(seeds):
    """A batch for each step: member and step decide it, with answers from a hidden score."""

    def draw(step):
        members = []
        for seed in seeds:
            rng = np.random.default_rng([seed, int(step)])
            observations = rng.normal(size=(SEGMENTS, LENGTH, OBSERVATION))
            actions = rng.uniform(-0.9, 0.9, (SEGMENTS, LENGTH, ACTION))
            scores = np.round((observations[..., :ACTION] * actions).sum((1, 2)))
            first, second = np.triu_indices(SEGMENTS, 1)
            answers = 0.5 + 0.5 * np.sign(scores[second] - scores[first])
            members.append((observations, actions, first, second, answers))
        observations, actions, first, second, answers = (
            np.stack(each) for each in zip(*members, strict=True)
        )
        return PreferenceBatch(
            step=torch.as_tensor(step),
            observations=torch.tensor(observations, dtype=torch.float32),
            actions=torch.tensor(actions, dtype=torch.float32),
            first=torch.tensor(first),
            second=torch.tensor(second),
            prefers_second=torch.tensor(answers, dtype=torch.float32),
            weight=torch.ones(answers.shape),
            ranked=SEGMENTS,  # all their pairs are there
        )

    return draw


def without(batch, kept):
    """The batch with only those comparisons that are `kept` (s, c), as many of each member."""
    names = ("first", "second", "prefers_second", "weight")
    values = {name: getattr(batch, name)[kept].view(len(kept), -1) for name in names}
    return replace(batch, **values)


def transitions_for(seeds):
    """Like `draw_for`, but single transitions: two steps each, no comparisons."""
    draw = draw_for(seeds)

    def first_two(step):
        batch = draw(step)
        batch = without(batch, torch.zeros_like(batch.first, dtype=torch.bool))
        return replace(
            batch, observations=batch.observations[:, :, :2], actions=batch.actions[:, :, :2]
        )

    return first_two


def rollouts_for(algorithm, feed, seeds, begins):
    """A feed of rollouts: a toy whose next observation and reward depend on what was done."""
    segments = draw_for(seeds)

    def draw(step):
        collection, update = divmod(int(step) - begins, feed.updates)
        offline = segments(step) if feed.offline else None
        if update:
            return RolloutBatch(torch.as_tensor(step), None, offline)
        episodes = -(-feed.transitions // LENGTH)
        members = []
        for seed, policy in zip(seeds, algorithm.behaviour().members(), strict=True):
            rng = np.random.default_rng([seed, collection, 1])
            seen, done, paid = [rng.normal(size=(episodes, OBSERVATION))], [], []
            for _ in range(LENGTH):
                noise = policy.arrays["std"] * rng.normal(size=ACTION)
                drawn = mlp_action(policy.arrays, seen[-1]) + noise
                done.append(drawn)
                paid.append(-np.abs(drawn - 0.3).sum(-1))
                seen.append(seen[-1] + 0.1 * np.resize(drawn.T, (OBSERVATION, episodes)).T)
            members.append([np.stack(each, 1) for each in (seen, done, paid)])
        seen, done, paid = (
            torch.tensor(np.stack(each), dtype=torch.float32) for each in zip(*members, strict=True)
        )
        never, whole = torch.zeros(paid.shape, dtype=torch.bool), torch.full(paid.shape[:2], LENGTH)
        fresh = Episodes(seen, done, paid, never, whole, paid.sum(-1) > 0)
        return RolloutBatch(torch.as_tensor(step), fresh, offline)

    return draw


def stretches_for(algorithm, seeds):
    """Every phase with toy batches, without true rewards: their shape is all that phases see."""
    found, begins = [], 0
    for phase in algorithm.phases():
        if isinstance(phase, OnlinePhase):
            draw = rollouts_for(algorithm, phase.feed, seeds, begins)
        elif isinstance(phase.feed, Segments | BestEpisodes):
            draw = draw_for(seeds)
        else:
            draw = transitions_for(seeds)
        found.append(stretch(phase, draw))
        begins += phase.steps
    return found


def train(algorithm, seeds, start=0, stop=STEPS):
    """Train from step `start` to `stop`; the metrics of every step."""
    phases, metrics = stretches_for(algorithm, seeds), []
    total = sum(phase.steps for phase in phases)
    for pause in fit(phases, range(total + 1), CPU, start):
        if pause.step > stop:
            break
        metrics.append((pause.phase, pause.metrics))
        if pause.step == stop:
            break
    return metrics


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name


# --- Promises to the loop ---


LAST = {
    "sft": "imitate",
    "cpl": "contrast",
    "dpo": "contrast",
    "ipo": "contrast",
    "rso": "contrast",
    "piql": "iql",
    "ppo": "ppo",
}
FIRST = {name: ["clone"] for name in LAST} | {"piql": ["reward"]}
FIRST |= {name: ["clone", "reward"] for name in ("rso", "ppo")}


@every_method
@pytest.mark.parametrize("total", [11, 12, 100])
def test_phases_add_up(name, total):
    phases = build(name, [0], steps=total).phases()
    assert sum(phase.steps for phase in phases) == total
    assert all(phase.steps >= 0 for phase in phases)
    names = [phase.name for phase in phases]
    assert len(set(names)) == len(names)


@every_method
@pytest.mark.parametrize("preset", ["paper", "laptop"])
def test_presets_plan_every_step(name, preset):
    entry = find_method(name)
    config = entry.presets[preset]
    assert entry.title(config)
    phases = entry.build(config, 3, 1, [0], CPU).phases()
    assert all(phase.steps > 0 for phase in phases)
    assert sum(phase.steps for phase in phases) == config.steps


@pytest.mark.parametrize("name", LAST)
def test_steps_that_leave_the_last_phase_none_are_refused(name):
    taken = sum(phase.steps for phase in build(name, [0]).phases()[:-1])
    for total in (1, taken):
        with pytest.raises(UserError, match=f"none to the phase '{LAST[name]}': before it come"):
            config_of(name, steps=total)
    if name != "ppo":  # whose policy waits for its value, too
        assert build(name, [0], steps=taken + 1).phases()[-1].steps == 1
    said = f"settings of {name}: steps = 1,000 leave none to the phase '{LAST[name]}'.*"
    with pytest.raises(UserError, match=said + ".*".join(f"'{each}'" for each in FIRST[name])):
        configured(name, "laptop", {"steps": 1000})


@pytest.mark.parametrize("name", ["sft", "cpl", "ppo"])
def test_no_steps_of_cloning_leave_the_phase_out(name, dots, pool):
    preferences, task, members = load_preferences(dots[2]), load_task("pointmass"), [0]
    learner = build(name, members, clone={"steps": 0})
    phases = learner.phases()
    assert phases[0][:2] == ("clone", 0)
    assert sum(phase.steps for phase in phases) == STEPS
    source = Source(preferences, task, pool, members, members, CPU)
    left = [each.name for each in stretches(source, phases, learner)]
    assert left == [phase.name for phase in phases[1:]]


@every_learner
def test_same_seed_same_bytes(name):
    results = []
    for _ in range(2):
        algorithm = build(name, [3, 7])
        metrics = train(algorithm, [3, 7])
        results.append((algorithm.weights().arrays, [values for _, values in metrics]))
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert_same(one, other)
    assert_same(results[0][0], results[1][0])


@every_learner
def test_other_seeds_learn_otherwise(name):
    algorithm = build(name, [3, 7])
    train(algorithm, [3, 7])
    weights = algorithm.weights().arrays
    assert not np.allclose(weights["w0"][0], weights["w0"][1], atol=1e-2)


@every_learner
def test_a_member_learns_the_same_alone_and_among_four(name):
    seeds = [4, 0, 9, 2]
    together = build(name, seeds)
    metrics_together = train(together, seeds)
    weights_together = together.weights().arrays
    for member, seed in enumerate(seeds):
        alone = build(name, [seed])
        metrics_alone = train(alone, [seed])
        for key, value in alone.weights().arrays.items():
            np.testing.assert_allclose(value[0], weights_together[key][member], atol=2e-5)
        for (_, one), (_, many) in zip(metrics_alone, metrics_together, strict=True):
            for key, value in one.items():
                assert value.shape == (1,)
                expected = pytest.approx(many[key][member].item(), rel=1e-3, abs=1e-6)
                assert value[0].item() == expected


@pytest.mark.parametrize("kind", ["segments", "transitions"])
def test_a_member_draws_the_same_batches_alone_and_among_four(dots, kind):
    preferences, seeds = load_preferences(dots[2]), [4, 0, 9, 2]

    def sampler(seeds):
        if kind == "segments":
            return PreferenceSampler(preferences, seeds, 16)
        rows = preferences.segment_starts
        return TransitionSampler(steps_of(preferences), seeds, 16, rows=rows, following=True)

    together = sampler(seeds)
    for member, seed in enumerate(seeds):
        alone = sampler([seed])
        for step in (0, 1, 77):
            one, many = alone.draw(step), together.draw(step)
            for field in ("observations", "actions", "first", "second", "prefers_second", "weight"):
                assert torch.equal(getattr(one, field)[0], getattr(many, field)[member]), field


@every_learner
@pytest.mark.parametrize("stop", [2, 5, 9])  # within the first phase, between two, in the second
def test_a_resumed_member_ends_where_an_uninterrupted_one_does(name, stop):
    seeds = [1, 6]
    whole = build(name, seeds)
    expected = train(whole, seeds)
    stopped = build(name, seeds)
    train(stopped, seeds, stop=stop)
    state = stopped.state()
    train(stopped, seeds, start=stop)  # what goes on afterwards must not reach the state
    resumed = build(name, [0, 0])  # other seeds: all that matters but the keys is in the state
    resumed.policy.keys.copy_(stopped.policy.keys)
    resumed.load_state(state)
    found = train(resumed, seeds, start=stop)
    for (_, one), (_, other) in zip(found, expected[stop:], strict=True):
        assert_same(one, other)
    assert_same(resumed.weights().arrays, whole.weights().arrays)
    assert_same(resumed.state(), whole.state())


@every_learner
def test_metrics_are_one_detached_number_a_member(name):
    for _, metrics in train(build(name, [0, 1, 2]), [0, 1, 2]):
        assert metrics
        for value in metrics.values():
            assert value.shape == (3,)
            assert not value.requires_grad
            assert value.isfinite().all()


@every_learner
def test_a_worker_acts_as_the_policy_does(name):
    algorithm = build(name, [0, 1])
    train(algorithm, [0, 1])
    observations = torch.randn(2, 50, OBSERVATION, generator=torch.Generator().manual_seed(0))
    actions = algorithm.act(observations)
    assert torch.equal(actions, algorithm.act(observations))  # no dropout
    for member, policy in enumerate(algorithm.weights().members()):
        found = planner(policy)([None] * 50, observations[member].numpy())  # (50, steps, a)
        np.testing.assert_allclose(found[:, 0], actions[member], atol=1e-6)
        wanted = algorithm.config.policy
        assert found.shape[1] == (wanted.replan or wanted.chunk)
        assert ("std" in policy.arrays) == (wanted.variance == "learned")


# --- The first losses, by hand ---


def numpy_log_probs(algorithm, batch):
    arrays = algorithm.weights().members()[0].arrays
    weights = {key: value.astype(np.float64) for key, value in arrays.items()}
    means = mlp_action(weights, batch.observations[0].numpy().astype(np.float64))
    return -((means - batch.actions[0].numpy()) ** 2).sum(-1)  # (m, k)


@pytest.mark.parametrize("bc_weight", [0.0, 1.0])
def test_the_first_contrast_loss_of_cpl(bc_weight):
    settings = {"policy": {"dropout": 0.0}, "clone": {"steps": 0}, "bc_weight": bc_weight}
    algorithm = build("cpl", [0], lam=0.5, alpha=0.2, **settings)
    batch = draw_for([0])(0)
    log_probs = numpy_log_probs(algorithm, batch)
    score = 0.2 * log_probs.sum(1)
    better = batch.prefers_second[0].numpy()
    pairs = list(zip(batch.first[0].tolist(), batch.second[0].tolist(), better, strict=True))
    expected = np.mean(
        [
            y * np.logaddexp(0, 0.5 * score[i] - score[j])
            + (1 - y) * np.logaddexp(0, 0.5 * score[j] - score[i])
            for i, j, y in pairs
        ]
    )
    decided = [(score[j] > score[i]) == (y > 0.5) for i, j, y in pairs if y != 0.5]
    (phase,) = [phase for phase in algorithm.phases() if phase.steps]
    metrics = phase.update(batch)
    assert metrics["contrast_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(np.mean(decided), rel=1e-6)
    assert metrics["log_prob"].item() == pytest.approx(log_probs.mean(), rel=1e-5)


def test_the_first_losses_of_sft():
    batch = draw_for([0])(0)
    algorithm = build("sft", [0], policy={"dropout": 0.0})
    cost = -numpy_log_probs(algorithm, batch).mean(1)  # (m,)
    better = batch.prefers_second[0].numpy()
    pairs = zip(batch.first[0].tolist(), batch.second[0].tolist(), better, strict=True)
    imitation = np.mean([y * cost[j] + (1 - y) * cost[i] for i, j, y in pairs])
    clone, imitate = build("sft", [0], policy={"dropout": 0.0}).phases(), algorithm.phases()
    assert clone[0].update(batch)["clone_loss"].item() == pytest.approx(cost.mean(), rel=1e-5)
    found = imitate[1].update(batch)["imitation_loss"].item()
    assert found == pytest.approx(imitation, rel=1e-5)


def test_bc_weight_pulls_towards_the_preferred_actions():
    batch = draw_for([0])(0)
    costs = []
    for bc_weight in (0.0, 20.0):
        settings = {"policy": {"dropout": 0.0}, "clone": {"steps": 0}, "bc_weight": bc_weight}
        algorithm = build("cpl", [0], steps=60, **settings)
        phase = algorithm.phases()[1]
        for _ in range(60):
            phase.update(batch)
        cost = torch.tensor(-numpy_log_probs(algorithm, batch).mean(1))
        ends = [cost[batch.first[0]], cost[batch.second[0]]]
        better = batch.prefers_second[0]
        costs.append((better * ends[1] + (1 - better) * ends[0]).mean().item())
    assert costs[1] < 0.9 * costs[0]


# --- What a comparison counts ---


def phase_of(algorithm, name):
    (phase,) = [phase for phase in algorithm.phases() if phase.name == name]
    return phase


def gradients_after(name, phase, batch, **settings):
    """The first update's metrics, and the policy's gradients."""
    algorithm = build(name, [0, 1], **settings)
    metrics = phase_of(algorithm, phase).update(batch)
    return metrics, {key: value.grad for key, value in algorithm.policy.parameters.items()}


COMPARING = [("sft", "imitate", {}), ("cpl", "contrast", {}), ("cpl", "contrast", {"bc_weight": 2})]


@pytest.mark.parametrize(("name", "phase", "settings"), COMPARING)
def test_a_comparison_of_weight_zero_is_as_good_as_absent(name, phase, settings):
    batch = draw_for([0, 1])(0)
    kept = torch.ones_like(batch.first, dtype=torch.bool)
    kept[0, ::3] = kept[1, 1::3] = kept[1, 0] = False  # other ones of each member, ten of each
    weighted = replace(batch, weight=kept.float())
    one, other = (
        gradients_after(name, phase, each, **settings) for each in (weighted, without(batch, kept))
    )
    everything = gradients_after(name, phase, batch, **settings)
    for found, expected, of_all in zip(one, other, everything, strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=key)
        key = next(iter(found))
        assert not torch.allclose(found[key], of_all[key], rtol=1e-4), "or it would say nothing"


@pytest.mark.parametrize(("name", "phase", "settings"), COMPARING)
def test_with_all_weights_one_a_loss_is_the_plain_mean(name, phase, settings):
    algorithm, batch = build(name, [0, 1], **settings), draw_for([0, 1])(0)
    log_probs, answers = algorithm.policy.log_probs(batch), batch.prefers_second

    def of(values):
        return of_comparisons(values, batch.first, batch.second)

    expected = preferred(*of(-log_probs.mean(2)), answers).mean(1)
    if name == "cpl":
        clone, lam = expected, algorithm.config.lam
        scores = segment_score(log_probs, algorithm.config.alpha)
        contrast = preference_nll(*of(scores), answers, lam).mean(1)
        expected = contrast
        if settings:
            expected = contrast + settings["bc_weight"] * clone
    expected.sum().backward()
    gradients = {key: value.grad for key, value in algorithm.policy.parameters.items()}
    metrics, found = gradients_after(name, phase, batch, **settings)
    loss = metrics["contrast_loss" if name == "cpl" else "imitation_loss"]
    assert torch.equal(loss, contrast if name == "cpl" else expected)
    assert_same(found, gradients)


@pytest.mark.parametrize(("name", "phase", "settings"), COMPARING)
def test_a_batch_in_which_nothing_counts_teaches_nothing(name, phase, settings):
    batch = draw_for([0, 1])(0)
    metrics, gradients = gradients_after(
        name, phase, replace(batch, weight=torch.zeros_like(batch.weight)), **settings
    )
    assert all(value.isfinite().all() for value in metrics.values())
    assert not any(value.any() for value in gradients.values())


# --- Settings ---


@pytest.mark.parametrize(
    "settings", [{"lam": 0.0}, {"lam": 1.1}, {"alpha": 0.0}, {"bc_weight": -1}]
)
def test_cpl_refuses_what_cannot_be(settings):
    with pytest.raises(UserError, match=next(iter(settings)) + " must be"):
        configured("cpl", "laptop", settings)


@every_method
def test_settings_come_from_toml(name):
    config = configured(name, "laptop", {"policy": {"dropout": 0, "hidden": [8, 8]}})
    assert config == configured(name, "laptop", {"policy": {"dropout": 0.0, "hidden": (8, 8)}})
    assert config.policy == replace(LAPTOP_POLICY, hidden=(8, 8), dropout=0.0)
    with pytest.raises(UserError, match="'steps' must be int, not 'many'"):
        configured(name, "laptop", {"steps": "many"})
    with pytest.raises(UserError, match=r"Did you mean 'policy\.dropout'"):
        configured(name, "laptop", {"policy": {"drop_out": 0.1}})
    with pytest.raises(UserError, match="Did you mean 'laptop'"):
        configured(name, "lapdog", {})


def test_a_wrong_setting_is_told_with_its_place():
    for settings, said in [
        ({"policy": {"hidden": ["a"]}}, r"settings of cpl: 'policy.hidden\[0\]' must be int"),
        ({"policy": {"hiden": [8]}}, r"called 'policy\.hiden'. Did you mean 'policy\.hidden'"),
        ({"policy": {"dropout": 0.999}}, r"cpl: policy\.dropout must be in \[0, 0.998\]"),
        ({"policy": 3}, r"'policy' must be PolicyConfig, not 3"),
        ({"clone": {"optimiser": {"rate": 0}}}, r"clone\.optimiser\.rate must be positive"),
    ]:
        with pytest.raises(UserError, match=said):
            configured("cpl", "laptop", settings)


@every_method
def test_the_golden_settings_are_complete(name):
    assert configured(name, "laptop", TINY[name]) == configured(name, "paper", TINY[name])


# --- Networks ---


def test_parameter_count_is_the_papers():
    entry = find_method("cpl")
    weights = entry.build(entry.presets["paper"], 35, 4, [0], CPU).weights()
    assert sum(value[0].size for value in weights.arrays.values()) == 283_140


def test_weights_begin_orthogonal_and_biases_at_zero():
    policy = Policy(35, 4, PolicyConfig((64, 32), 0.25), [0, 1], CPU)
    weights = policy.weights().arrays
    for i, (inputs, outputs) in enumerate(pairwise([35, 64, 32, 4])):
        weight = weights[f"w{i}"]
        assert weight.shape == (2, inputs, outputs)
        for member in weight:
            small = member.T @ member if inputs >= outputs else member @ member.T
            np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)
        assert not weights[f"b{i}"].any()
    assert not np.allclose(weights["w1"][0], weights["w1"][1])


def test_dropout_drops_a_quarter_and_keeps_the_mean():
    policy = Policy(3, 1, PolicyConfig((50, 50), 0.25), [0, 1], CPU)
    x, masks = torch.ones(2, 2000, 50), []
    for step in (0, 1):
        for layer in (0, 1):
            dropped, scale = policy._dropped(x, torch.tensor(step), layer)
            for member in dropped:
                share = member.float().mean().item()
                deviation = (0.25 * 0.75 / member.numel()) ** 0.5
                assert abs(share - 0.25) < 4 * deviation
                assert abs((1 - share) * scale - 1) < 4 * deviation * 4 / 3
                masks.append(member)
    for i, one in enumerate(masks):  # they differ in step, layer or member
        for other in masks[:i]:
            agreement = (one == other).float().mean().item()
            assert agreement == pytest.approx(0.25**2 + 0.75**2, abs=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_log_probs_and_gradients_with_dropout_written_out(dropout):
    policy = Policy(OBSERVATION, ACTION, PolicyConfig((16, 12), dropout), [0, 1], CPU)
    batch = draw_for([0, 1])(3)
    twins = {k: v.detach().double().requires_grad_() for k, v in policy.parameters.items()}
    x = batch.observations.flatten(1, 2).double()
    for i in range(3):
        x = x @ twins[f"w{i}"] + twins[f"b{i}"][:, None]
        if i < 2:
            dropped, scale = policy._dropped(x.float(), batch.step, i)
            assert dropped.any() == (dropout > 0)
            x = torch.relu(x) * ~dropped * scale
    expected = -(torch.tanh(x).view(batch.actions.shape) - batch.actions).square().sum(-1)
    found = policy.log_probs(batch)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    found.mean().backward()
    expected.mean().backward()
    for name, value in policy.parameters.items():
        torch.testing.assert_close(value.grad, twins[name].grad.float(), rtol=1e-4, atol=1e-7)


def test_training_drops_and_acting_does_not():
    policy = Policy(OBSERVATION, ACTION, PolicyConfig((256, 256), 0.5), [0], CPU)
    batch, twin = draw_for([0])(0), draw_for([0])(0)
    assert torch.equal(policy.log_probs(batch), policy.log_probs(twin))  # the step decides
    other = replace(batch, step=torch.tensor(1))
    assert not torch.equal(policy.log_probs(batch), policy.log_probs(other))
    means = policy.act(batch.observations.flatten(1, 2)).view(batch.actions.shape)
    kept = -(means - batch.actions).square().sum(-1)
    assert not torch.allclose(policy.log_probs(batch), kept, atol=1e-4)


def test_the_rate_warms_up_linearly():
    weight = torch.zeros(1, requires_grad=True)
    adam, moves = WarmAdam({"w": weight}, Optimiser(0.1, warmup_steps=4)), []
    for _ in range(6):
        before = weight.item()
        adam.step(weight.sum() * 3)  # a constant gradient: Adam moves by its rate
        moves.append(before - weight.item())
    assert moves == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rel=1e-4)


# --- Golden curves ---


@every_learner
def test_golden_curve(name):
    """The first 30 steps give the committed metrics; see the header to write them anew."""
    algorithm = build(name, [0, 1], clone={"steps": 8}, steps=30)
    curve = [
        {"phase": phase, **{key: value.tolist() for key, value in metrics.items()}}
        for phase, metrics in train(algorithm, [0, 1], stop=30)
    ]
    path = GOLDEN / f"{name.replace(', ', '-').replace(' ', '-')}.json"
    if os.environ.get("CPL_BENCH_GOLDEN") == "write":
        path.write_text("[\n" + ",\n".join(map(json.dumps, curve)) + "\n]\n")
    expected = json.loads(path.read_text())
    assert len(curve) == len(expected) == 30
    for step, (found, wanted) in enumerate(zip(curve, expected, strict=True)):
        assert found.keys() == wanted.keys(), step
        assert found.pop("phase") == wanted.pop("phase"), step
        for key, values in wanted.items():
            close = pytest.approx(values, rel=ROUNDING, abs=ROUNDING)
            assert found[key] == close, (step, key)


# --- Known answers, on the point mass ---


def success_of(name, path, pool):
    """Success rate of three members trained on a preference file of the point mass."""
    members, config = [0, 1, 2], configured(name, "laptop", LEARNS[name])
    preferences, task = load_preferences(path), load_task("pointmass")
    trainee = prepare(name, config, preferences, members, CPU, task, pool)
    for _ in fit(trainee.training, [], CPU):
        pass
    episodes = [episode_seeds("test", 30, seed) for seed in members]
    rows = assess(pool, task, trainee.weights(), members, episodes, config.steps, name)
    return rows["success"].mean()


@pytest.fixture(scope="module")
def imitation(dots, pool):
    """What behaviour cloning makes of the half-trained data."""
    return success_of("sft", dots[2], pool)


@pytest.mark.parametrize("name", TEACHES)
def test_preferences_teach_more_than_imitation_does(name, dots, pool, imitation):
    least, more = TEACHES[name]
    success = success_of(name, dots[2], pool)
    assert success >= least
    assert success >= imitation + more


def test_every_method_has_a_problem_it_must_solve():
    assert {*TEACHES, *IMITATORS} == set(ALGOS)


@pytest.mark.parametrize("name", IMITATORS)
def test_good_data_are_imitated_well(name, dots, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    card = dots[0]
    behaviour = replace(card.behaviour, levels=(1.0,), clone_steps=120, demonstrations=20)
    good = replace(card, name="good", behaviour=behaviour)
    collect(good, pool)
    assert success_of(name, label(good, pool), pool) >= 0.85


# --- A method of one's own: a file, and a line in ALGOS ---

HALVES = """
from dataclasses import dataclass

from cpl_bench.learning.config import COUNT, Optimiser, PolicyConfig, refuse
from cpl_bench.learning.interface import Entry, Phase, Segments
from cpl_bench.learning.losses import averaged, of_comparisons
from cpl_bench.learning.networks import Policy


@dataclass(frozen=True)
class Config:
    policy: PolicyConfig = PolicyConfig((8,), 0.0)
    optimiser: Optimiser = Optimiser(1e-2)
    steps: int = 7

    def __post_init__(self):
        refuse(self, {"steps": COUNT})


class Halves:
    def __init__(self, config, observation_size, action_size, seeds, device):
        self.config = config
        self.policy = Policy(observation_size, action_size, config.policy, seeds, device)
        self.policy.add_optimiser("halves", config.optimiser, config.steps)
        self.act, self.weights = self.policy.act, self.policy.weights
        self.state, self.load_state = self.policy.state, self.policy.load_state

    def phases(self):
        return [Phase("halves", self.config.steps, self._halve, Segments(8))]

    def _halve(self, batch):
        costs = -self.policy.log_probs(batch).mean(2)
        first, second = of_comparisons(costs, batch.first, batch.second)
        loss = averaged((first + second) / 2, batch.weight)
        self.policy.improve("halves", loss)
        return {"loss": loss.detach()}


ENTRY = Entry(Halves, {"laptop": Config()}, title=lambda config: "Halves")
"""


def test_a_method_is_added_by_a_file_and_a_line(dots, tmp_path, monkeypatch):
    (tmp_path / "halves_of_a_test.py").write_text(HALVES)
    monkeypatch.syspath_prepend(tmp_path)
    where = "halves_of_a_test:ENTRY"
    entry = find_method(where)
    monkeypatch.setitem(ALGOS, "halves", Listed(where, "clones both halves of a comparison"))
    assert find_method("halves") is entry
    assert summaries()["halves"] == "clones both halves of a comparison"
    config = configured("halves", "laptop", {"policy": {"hidden": [4]}, "steps": 30})
    assert config == configured(where, "laptop", {"policy": {"hidden": [4]}, "steps": 30})
    with pytest.raises(UserError, match="settings of halves: steps must be a whole number from 1"):
        configured("halves", "laptop", {"steps": 0})
    preferences, members = load_preferences(dots[2]), [0, 1]
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = entry.build(config, *widths, members, CPU)
    source = Source(preferences, None, None, members, members, CPU)
    pauses = list(fit(stretches(source, learner.phases(), learner), range(31), CPU))
    losses = [pause.metrics["loss"].mean().item() for pause in pauses]
    assert [pause.step for pause in pauses] == list(range(1, 31))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_what_is_no_method_is_refused(tmp_path, monkeypatch):
    (tmp_path / "nothing_of_a_test.py").write_text("ENTRY = 3")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"expected a cpl_bench\.learning\.interface\.Entry, got int"
    ):
        find_method("nothing_of_a_test:ENTRY")
    with pytest.raises(UserError, match="has no 'OTHER'"):
        find_method("nothing_of_a_test:OTHER")
    with pytest.raises(UserError, match="Did you mean 'cpl'"):
        find_method("cpll")
