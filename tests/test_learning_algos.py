"""Every method in ALGOS keeps the house's promises and learns a problem whose answer is known.

Golden curves: tests/golden/NAME.json holds the metrics of 20 steps. After a change that is meant to
change results, write them anew and say why in the changelog:

    CPL_BENCH_GOLDEN=write pytest tests/test_algos.py -k golden
"""

import json
import os
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.interface import PreferenceBatch, RolloutBatch, Rollouts
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import ALGOS
from cpl_bench.learning.networks import Policy
from cpl_bench.learning.optimisers import WarmAdam
from cpl_bench.learning.presets import configured
from cpl_bench.learning.transitions import TransitionSampler
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import label
from cpl_bench.runs.assess import assess
from cpl_bench.runs.batches import PreferenceSampler
from cpl_bench.runs.feeds import Source, make_feeds
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.trajectories.collect import collect

GOLDEN = Path(__file__).parent / "golden"
ROUNDING = 1e-5  # other machines round otherwise: 5e-7 measured, in metrics that are differences
CPU = torch.device("cpu")
OBSERVATION, ACTION, SEGMENTS, LENGTH = 5, 2, 8, 6
TINY = {  # complete, so that no preset reaches the golden curves
    "hidden": (16, 16),
    "dropout": 0.25,
    "alpha": 0.1,
    "lam": 0.5,
    "bc_weight": 0.0,
    "learning_rate": 1e-2,
    "steps": 12,
    "clone_steps": 5,
    "warmup_steps": 3,
    "segments_per_batch": SEGMENTS,
    "percent": 10.0,
    "transitions_per_batch": 32,
    "reward": "learned",
    "reward_steps": 3,
    "reward_ensemble": 2,
    "reward_bounded": True,
    "reward_imitation": 0.1,
    "reward_loss": "pairs",
    "reward_standardised": True,
    "value_scale": 10.0,
    "expectile": 0.7,
    "temperature": 0.5,
    "largest_weight": 100.0,
    "gamma": 0.9,
    "polyak": 0.1,
    "kl_weight": 0.1,
    "kl_estimator": "k1",
    "objective": "clip",
    "clip": 0.2,
    "target_kl": 0.01,
    "gae_lambda": 0.95,
    "ptx_weight": 0.0,
    "initial_std": 0.5,
    "lowest_std": 0.3,
    "highest_std": 1.5,
    "transitions_per_collection": 10,
    "epochs": 1,
    "minibatch": 4,
    "clone_learning_rate": 1e-2,
    "policy_learning_rate": 1e-2,
    "value_learning_rate": 1e-2,
    "value_collections": 1,
}
LEARNS = {
    "hidden": (64, 64),
    "dropout": 0.0,
    "learning_rate": 1e-3,
    "steps": 1500,
    "clone_steps": 300,
    "warmup_steps": 100,
    "segments_per_batch": 32,
    "alpha": 1.0,
    "lam": 0.75,
    "transitions_per_batch": 512,
    "reward_steps": 500,
    "reward_bounded": True,
    "temperature": 0.15,
    "reward_standardised": False,
    "gamma": 0.99,
    "polyak": 0.005,
    "expectile": 0.7,
    "value_scale": 1.0,
    "clone_learning_rate": 1e-3,
    "policy_learning_rate": 1e-3,
    "value_learning_rate": 1e-3,
    "reward_imitation": 0.0,
    "value_collections": 0,
    "kl_weight": 0.2,
    "transitions_per_collection": 2048,
    "minibatch": 256,
    "epochs": 5,
}
IMITATORS = ("sft", "percent-bc")  # they are as good as their data, not better
TEACHES = {  # least success, and how far above imitation
    "cpl": (0.85, 0.15),
    "piql": (0.55, 0.0),  # a learned reward is a detour; with the true one they must solve it
    "ppo": (0.55, 0.0),
}

every_method = pytest.mark.parametrize("name", ALGOS)


def config_of(name, preset="laptop", **settings):
    """The preset with those of the settings that the method has."""
    known = asdict(ALGOS[name].presets[preset])
    return configured(name, preset, {k: v for k, v in settings.items() if k in known})


def build(name, seeds, **settings):
    config = config_of(name, **{**TINY, **settings})
    return ALGOS[name].build(config, OBSERVATION, ACTION, seeds, CPU)


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
        )

    return draw


def transitions_for(seeds):
    """Like `draw_for`, but single transitions: two steps each, no comparisons."""
    draw = draw_for(seeds)

    def first_two(step):
        batch = draw(step)
        none = batch.first[:, :0]
        return replace(
            batch,
            observations=batch.observations[:, :, :2],
            actions=batch.actions[:, :, :2],
            first=none,
            second=none,
            prefers_second=batch.prefers_second[:, :0],
        )

    return first_two


def rollouts_for(algorithm, seeds, total):
    """A feed of rollouts: a toy whose next observation and reward depend on what was done."""
    begins = sum(phase.steps for phase in algorithm.phases(total)[:-1])
    segments = draw_for(seeds)

    def draw(step):
        collection, update = divmod(int(step) - begins, algorithm.updates_per_collection)
        offline = segments(step) if algorithm.mixes_offline else None
        if update:
            return RolloutBatch(torch.as_tensor(step), None, offline)
        behaviour = algorithm.behaviour()
        episodes, steps = -(-algorithm.transitions_per_collection // LENGTH), LENGTH
        members = []
        for i, seed in enumerate(seeds):
            weights = {name: value[i] for name, value in behaviour.items()}
            rng = np.random.default_rng([seed, collection, 1])
            seen, done, paid = [rng.normal(size=(episodes, OBSERVATION))], [], []
            for _ in range(steps):
                drawn = mlp_action(weights, seen[-1]) + weights["std"] * rng.normal(size=ACTION)
                done.append(drawn)
                paid.append(-np.abs(drawn - 0.3).sum(-1))
                seen.append(seen[-1] + 0.1 * np.resize(drawn.T, (OBSERVATION, episodes)).T)
            members.append([np.stack(each, 1) for each in (seen, done, paid)])
        seen, done, paid = (
            torch.tensor(np.stack(each), dtype=torch.float32) for each in zip(*members, strict=True)
        )
        fresh = Rollouts(seen, done, paid, paid.sum(-1) > 0)
        return RolloutBatch(torch.as_tensor(step), fresh, offline)

    return draw


def feeds_for(algorithm, seeds, total):
    """Every feed that does without true rewards; the shape of a batch is all phases care for."""
    feeds = dict.fromkeys(("segments", "fitting", "best episodes"), draw_for(seeds))
    feeds["transitions"] = transitions_for(seeds)
    if hasattr(algorithm, "behaviour"):
        feeds["rollouts"] = rollouts_for(algorithm, seeds, total)
    return feeds


def train(algorithm, seeds, start=0, stop=TINY["steps"], total=TINY["steps"]):
    """Train from step `start` to `stop` of `total`; the metrics of every step."""
    phases, metrics = algorithm.phases(total), []
    for pause in fit(phases, feeds_for(algorithm, seeds, total), range(total + 1), CPU, start):
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


@every_method
@pytest.mark.parametrize("total", [1, 4, 5, 6, 100])
def test_phases_add_up(name, total):
    phases = build(name, [0]).phases(total)
    assert sum(phase.steps for phase in phases) == total
    assert all(phase.steps >= 0 for phase in phases)
    names = [phase.name for phase in phases]
    assert len(set(names)) == len(names)


@every_method
@pytest.mark.parametrize("preset", ["paper", "laptop"])
def test_presets_plan_every_step(name, preset):
    config = ALGOS[name].presets[preset]
    assert ALGOS[name].title(config)
    phases = ALGOS[name].build(config, 3, 1, [0], CPU).phases(config.steps)
    assert all(phase.steps > 0 for phase in phases)


@every_method
def test_same_seed_same_bytes(name):
    results = []
    for _ in range(2):
        algorithm = build(name, [3, 7])
        metrics = train(algorithm, [3, 7])
        results.append((algorithm.weights(), [values for _, values in metrics]))
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert_same(one, other)
    assert_same(results[0][0], results[1][0])


@every_method
def test_other_seeds_learn_otherwise(name):
    algorithm = build(name, [3, 7])
    train(algorithm, [3, 7])
    weights = algorithm.weights()
    assert not np.allclose(weights["w0"][0], weights["w0"][1], atol=1e-2)


@every_method
def test_a_member_learns_the_same_alone_and_among_four(name):
    seeds = [4, 0, 9, 2]
    together = build(name, seeds)
    metrics_together = train(together, seeds)
    weights_together = together.weights()
    for member, seed in enumerate(seeds):
        alone = build(name, [seed])
        metrics_alone = train(alone, [seed])
        for key, value in alone.weights().items():
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
        observations, actions = preferences.observations, preferences.actions
        rows = preferences.segment_starts
        return TransitionSampler(observations, actions, seeds, 16, rows=rows, steps=2)

    together = sampler(seeds)
    for member, seed in enumerate(seeds):
        alone = sampler([seed])
        for step in (0, 1, 77):
            one, many = alone.draw(step), together.draw(step)
            for field in ("observations", "actions", "first", "second", "prefers_second"):
                assert torch.equal(getattr(one, field)[0], getattr(many, field)[member]), field


@every_method
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
    resumed.policy.keys = stopped.policy.keys
    resumed.load_state(state)
    found = train(resumed, seeds, start=stop)
    for (_, one), (_, other) in zip(found, expected[stop:], strict=True):
        assert_same(one, other)
    assert_same(resumed.weights(), whole.weights())
    assert_same(resumed.state(), whole.state())


@every_method
def test_metrics_are_one_detached_number_a_member(name):
    for _, metrics in train(build(name, [0, 1, 2]), [0, 1, 2]):
        assert metrics
        for value in metrics.values():
            assert value.shape == (3,)
            assert not value.requires_grad
            assert value.isfinite().all()


@every_method
def test_a_worker_acts_as_the_policy_does(name):
    algorithm = build(name, [0, 1])
    train(algorithm, [0, 1])
    observations = torch.randn(2, 50, OBSERVATION, generator=torch.Generator().manual_seed(0))
    actions = algorithm.act(observations)
    assert torch.equal(actions, algorithm.act(observations))  # no dropout
    for member in range(2):
        weights = {key: value[member] for key, value in algorithm.weights().items()}
        found = mlp_action(weights, observations[member].numpy())
        np.testing.assert_allclose(found, actions[member], atol=1e-6)


# --- The first losses, by hand ---


def numpy_log_probs(algorithm, batch):
    weights = {key: value[0].astype(np.float64) for key, value in algorithm.weights().items()}
    means = mlp_action(weights, batch.observations[0].numpy().astype(np.float64))
    return -((means - batch.actions[0].numpy()) ** 2).sum(-1)  # (m, k)


@pytest.mark.parametrize("bc_weight", [0.0, 1.0])
def test_the_first_contrast_loss_of_cpl(bc_weight):
    algorithm = build("cpl", [0], dropout=0.0, clone_steps=0, lam=0.5, alpha=0.2)
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
    (phase,) = [phase for phase in algorithm.phases(3) if phase.steps]
    metrics = phase.update(batch)
    assert metrics["contrast_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(np.mean(decided), rel=1e-6)
    assert metrics["log_prob"].item() == pytest.approx(log_probs.mean(), rel=1e-5)


def test_the_first_losses_of_sft():
    batch = draw_for([0])(0)
    algorithm = build("sft", [0], dropout=0.0)
    cost = -numpy_log_probs(algorithm, batch).mean(1)  # (m,)
    better = batch.prefers_second[0].numpy()
    pairs = zip(batch.first[0].tolist(), batch.second[0].tolist(), better, strict=True)
    imitation = np.mean([y * cost[j] + (1 - y) * cost[i] for i, j, y in pairs])
    clone, imitate = build("sft", [0], dropout=0.0).phases(9), algorithm.phases(9)
    assert clone[0].update(batch)["clone_loss"].item() == pytest.approx(cost.mean(), rel=1e-5)
    found = imitate[1].update(batch)["imitation_loss"].item()
    assert found == pytest.approx(imitation, rel=1e-5)


def test_bc_weight_pulls_towards_the_preferred_actions():
    batch = draw_for([0])(0)
    costs = []
    for bc_weight in (0.0, 20.0):
        algorithm = build("cpl", [0], dropout=0.0, clone_steps=0, bc_weight=bc_weight)
        phase = algorithm.phases(60)[1]
        for _ in range(60):
            phase.update(batch)
        cost = torch.tensor(-numpy_log_probs(algorithm, batch).mean(1))
        ends = [cost[batch.first[0]], cost[batch.second[0]]]
        better = batch.prefers_second[0]
        costs.append((better * ends[1] + (1 - better) * ends[0]).mean().item())
    assert costs[1] < 0.9 * costs[0]


@pytest.mark.parametrize(
    "settings", [{"lam": 0.0}, {"lam": 1.1}, {"alpha": 0.0}, {"bc_weight": -1}]
)
def test_cpl_refuses_what_cannot_be(settings):
    with pytest.raises(UserError, match=next(iter(settings)).replace("_", "-")):
        configured("cpl", "laptop", settings)


@every_method
def test_settings_come_from_toml(name):
    config = configured(name, "laptop", {"dropout": 0, "hidden": [8, 8]})
    assert config == configured(name, "laptop", {"dropout": 0.0, "hidden": (8, 8)})
    with pytest.raises(UserError, match="'steps' must be of type int, not 'many'"):
        configured(name, "laptop", {"steps": "many"})
    with pytest.raises(UserError, match="Did you mean 'dropout'"):
        configured(name, "laptop", {"drop_out": 0.1})
    with pytest.raises(UserError, match="Did you mean 'laptop'"):
        configured(name, "lapdog", {})


# --- Networks ---


def test_parameter_count_is_the_papers():
    entry = ALGOS["cpl"]
    weights = entry.build(entry.presets["paper"], 35, 4, [0], CPU).weights()
    assert sum(value[0].size for value in weights.values()) == 283_140


def test_weights_begin_orthogonal_and_biases_at_zero():
    policy = Policy(35, 4, (64, 32), 0.25, [0, 1], CPU)
    for i, (inputs, outputs) in enumerate(pairwise([35, 64, 32, 4])):
        weight = policy.weights()[f"w{i}"]
        assert weight.shape == (2, inputs, outputs)
        for member in weight:
            small = member.T @ member if inputs >= outputs else member @ member.T
            np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)
        assert not policy.weights()[f"b{i}"].any()
    assert not np.allclose(policy.weights()["w1"][0], policy.weights()["w1"][1])


def test_dropout_drops_a_quarter_and_keeps_the_mean():
    policy = Policy(3, 1, (50, 50), 0.25, [0, 1], CPU)
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
    policy = Policy(OBSERVATION, ACTION, (16, 12), dropout, [0, 1], CPU)
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
    policy = Policy(OBSERVATION, ACTION, (256, 256), 0.5, [0], CPU)
    batch, twin = draw_for([0])(0), draw_for([0])(0)
    assert torch.equal(policy.log_probs(batch), policy.log_probs(twin))  # the step decides
    other = replace(batch, step=torch.tensor(1))
    assert not torch.equal(policy.log_probs(batch), policy.log_probs(other))
    means = policy.act(batch.observations.flatten(1, 2)).view(batch.actions.shape)
    kept = -(means - batch.actions).square().sum(-1)
    assert not torch.allclose(policy.log_probs(batch), kept, atol=1e-4)


def test_the_rate_warms_up_linearly():
    weight = torch.zeros(1, requires_grad=True)
    adam, moves = WarmAdam({"w": weight}, learning_rate=0.1, warmup_steps=4), []
    for _ in range(6):
        before = weight.item()
        adam.step(weight.sum() * 3)  # a constant gradient: Adam moves by its rate
        moves.append(before - weight.item())
    assert moves == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rel=1e-4)


# --- Golden curves ---


@every_method
def test_golden_curve(name):
    """The first 20 steps give the committed metrics; see the header to write them anew."""
    algorithm = build(name, [0, 1], clone_steps=8, steps=20)
    curve = [
        {"phase": phase, **{key: value.tolist() for key, value in metrics.items()}}
        for phase, metrics in train(algorithm, [0, 1], stop=20, total=20)
    ]
    path = GOLDEN / f"{name}.json"
    if os.environ.get("CPL_BENCH_GOLDEN") == "write":
        path.write_text("[\n" + ",\n".join(map(json.dumps, curve)) + "\n]\n")
    expected = json.loads(path.read_text())
    assert len(curve) == len(expected) == 20
    for step, (found, wanted) in enumerate(zip(curve, expected, strict=True)):
        assert found.keys() == wanted.keys(), step
        assert found.pop("phase") == wanted.pop("phase"), step
        for key, values in wanted.items():
            close = pytest.approx(values, rel=ROUNDING, abs=ROUNDING)
            assert found[key] == close, (step, key)


# --- Known answers, on the point mass ---


def success_of(name, path, pool, **settings):
    """Success rate of three members trained on a preference file of the point mass."""
    members, config = [0, 1, 2], config_of(name, **{**LEARNS, **settings})
    preferences, task = load_preferences(path), load_task("pointmass")
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    algorithm = ALGOS[name].build(config, *widths, members, CPU)
    phases = algorithm.phases(config.steps)
    source = Source(preferences, task, pool, members, members, CPU)
    for _ in fit(phases, make_feeds(source, phases, algorithm, config), [], CPU):
        pass
    episodes = [episode_seeds("test", 30, seed) for seed in members]
    rows = assess(pool, task, algorithm.weights(), members, episodes, config.steps, name)
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
