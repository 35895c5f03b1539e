"""What networks see: standardised by the data, folded into the first layer for whoever acts."""

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.config import Optimiser, PolicyConfig, Stage
from cpl_bench.learning.inputs import Inputs, folded, inputs_of
from cpl_bench.learning.interface import Segments, Transitions
from cpl_bench.learning.loop import fit
from cpl_bench.learning.methods import ALGOS, configured, preset_of
from cpl_bench.learning.networks import Policy
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs import feeds
from cpl_bench.runs.feeds import segment_rows
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.prepare import prepare
from cpl_bench.runs.train import train
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.tasks.registry import make_task

CPU, TASK = torch.device("cpu"), load_task("pointmass")
PLACES = np.array([0.6, -3.0, 100.0, 0.25, 0.0])
"""Means far from 0, as positions have; the fourth number hardly varies, the fifth never does."""
WIDTHS = np.array([0.02, 0.005, 7.0, 0.0005, 0.0])


@pytest.fixture
def raw():
    draws = np.random.default_rng(0).normal(size=(5000, 5))
    return (PLACES + WIDTHS * draws).astype(np.float32)


def test_observations_get_mean_nothing_and_deviation_one(raw):
    seen = Inputs.of(raw).seen(raw)
    assert seen.dtype == np.float32
    assert np.abs(seen[:, :3].mean(0)).max() < 1e-3
    assert seen[:, :3].std(0) == pytest.approx([1, 1, 1], rel=1e-4)


def test_what_hardly_varies_is_left_alone(raw):
    assert np.array_equal(Inputs.of(raw).seen(raw)[:, 3:], raw[:, 3:])


def test_tensors_are_seen_as_arrays_are(raw):
    inputs = Inputs.of(raw)
    seen = inputs.seen(torch.tensor(raw).view(5, 1000, 5))
    assert seen.dtype == torch.float32
    assert np.allclose(seen.view(-1, 5).numpy(), inputs.seen(raw), atol=1e-5)


@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_a_folded_policy_does_the_same_on_raw_observations(raw, kind):
    inputs, seeds = Inputs.of(raw), [3, 4]
    policy = Policy(5, 2, PolicyConfig((16, 8)), seeds, CPU)
    arrays = policy.weights().arrays
    if kind == "gaussian":
        arrays["std"] = np.full((2, 2), 0.3, np.float32)
    outside = inputs.folded(PolicyWeights(kind, arrays)).members()
    seen = torch.tensor(inputs.seen(raw[:100])).expand(2, -1, -1)
    for member, expected in zip(outside, policy.act(seen), strict=True):
        assert member.kind == kind and member.arrays["w0"].dtype == np.float32
        found = mlp_action({k: v for k, v in member.arrays.items() if k != "std"}, raw[:100])
        assert found == pytest.approx(expected.numpy(), abs=2e-4)


def test_without_standardisation_nothing_changes(raw):
    weights = Policy(5, 2, PolicyConfig(), [0], CPU).weights()
    assert folded(weights, inputs_of(preset_of("cpl", "paper"), raw)) is weights


@pytest.mark.parametrize("name", ALGOS)
def test_the_laptop_presets_standardise_and_the_papers_do_not(raw, name):
    assert inputs_of(preset_of(name, "laptop"), raw) is not None
    assert inputs_of(preset_of(name, "paper"), raw) is None


def test_a_method_without_a_policy_config_sees_what_comes(raw):
    assert inputs_of(Stage(5), raw) is None  # pyright: ignore[reportArgumentType]


# --- In training ---

SMALL = {"policy": {"hidden": (16,), "standardise": True}, "segments": 4}
SETTINGS = {
    "sft": {**SMALL, "steps": 20, "clone": {"steps": 10}},
    "piql": {**SMALL, "steps": 20, "reward": {"steps": 10, "hidden": (16,)}},
    "ppo": {
        **SMALL,
        "steps": 18,
        "clone": {"steps": 8},
        "reward": {"steps": 8, "hidden": (16,)},
        "collection": {"transitions": 400, "epochs": 2, "minibatch": 400, "value_only": 0},
    },
}


@pytest.fixture(scope="module")
def data(dots):
    return load_preferences(dots[2])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_acts_on_raw_observations(name, data, pool, tmp_path):
    config = configured(name, "laptop", SETTINGS[name])
    options = TrainOptions(seeds=(0, 1), evaluate_every=config.steps, episodes=2, runs=tmp_path)
    run = train(data, "dots", name, config, options, pool, TASK)
    _, outside = RunFolder(run).at(None)
    trainee = prepare(name, config, data, (0, 1), CPU, TASK, pool)
    inputs = trainee.source.inputs
    assert inputs is not None
    trainee.learner.load_state(RunFolder(run).read_state()[1])
    observations = data.observations[:50]
    seen = torch.tensor(inputs.seen(observations)).expand(2, -1, -1)
    expected = trainee.learner.act(seen).numpy()
    for member, wanted in zip(outside.members(), expected, strict=True):
        assert mlp_action(member.arrays, observations) == pytest.approx(wanted, abs=1e-4)


def test_every_batch_is_standardised(data, pool, monkeypatch):
    """Of the data, of both sides of the split, and of a policy's own episodes."""
    config, met = configured("ppo", "laptop", SETTINGS["ppo"]), {}
    for name in ("PreferenceSampler", "RolloutFeed"):

        class Watched(getattr(feeds, name)):
            def draw(self, step, name=name):
                batch = super().draw(step)
                met[name] = (batch.fresh or met[name]) if name == "RolloutFeed" else batch
                return batch

        monkeypatch.setattr(feeds, name, Watched)
    trainee = prepare("ppo", config, data, (0, 1), CPU, TASK, pool)
    for _ in fit(trainee.training, [], CPU):
        pass
    inputs, task = trainee.source.inputs, make_task(TASK)
    assert inputs is not None and np.abs(inputs.centre).max() > 0.05
    assert np.allclose(trainee.source.data.observations, inputs.seen(data.observations))
    known = {row.tobytes() for row in inputs.seen(data.observations)}
    drawn = met["PreferenceSampler"].observations.flatten(0, 2)
    assert all(row.numpy().tobytes() in known for row in drawn)
    episodes = met["RolloutFeed"]
    seed = episode_seeds("rollouts", 1, 0, 0)[0]
    assert episodes.observations[0, 0, 0].numpy() == pytest.approx(
        inputs.seen(np.asarray(task.reset(seed=seed)[0], np.float32)), abs=1e-5
    )


# --- An average of the weights, single steps ---


def test_the_average_follows_and_acts():
    config = PolicyConfig((8,), dropout=0.0, average=0.75)
    policy = Policy(3, 2, config, [0, 1], CPU)
    policy.add_optimiser("clone", Optimiser())
    expected = {name: value.clone() for name, value in policy.network.state().items()}
    x = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        policy.improve("clone", policy.mean(x).square().mean((1, 2)))
        now = policy.network.state()
        expected = {name: 0.75 * value + 0.25 * now[name] for name, value in expected.items()}
    for name, value in policy.weights().arrays.items():
        assert value == pytest.approx(expected[name].numpy(), abs=1e-6)
        assert not np.array_equal(value, policy.network.state()[name].numpy())
    arrays = {name: value[1] for name, value in policy.weights().arrays.items()}
    assert policy.act(x)[1].numpy() == pytest.approx(mlp_action(arrays, x[1].numpy()), abs=1e-5)
    again = Policy(3, 2, config, [5, 6], CPU)
    again.add_optimiser("clone", Optimiser())
    again.load_state(policy.state())
    assert torch.equal(again.act(x), policy.act(x))


def test_an_average_keeps_less_than_all():
    with pytest.raises(UserError, match=r"average must be in \[0, 1\), not 1.0"):
        PolicyConfig(average=1.0)


def test_cloning_sees_segments_or_single_steps_of_them(dots):
    policy, whole = Policy(3, 2, PolicyConfig(), [0], CPU), Segments(8)
    assert policy.clone_phase(Stage(5), whole).feed is whole
    assert policy.clone_phase(Stage(5, transitions=64), whole).feed == Transitions(
        64, following=False
    )
    preferences = load_preferences(dots[2])
    rows, k = segment_rows(preferences), preferences.info.segment_length
    assert rows.reshape(-1, k)[:, 0].tolist() == preferences.segment_starts.tolist()
    assert (np.diff(rows.reshape(-1, k)) == 1).all()
    config = configured(
        "sft", "laptop", {**SETTINGS["sft"], "clone": {"steps": 10, "transitions": 64}}
    )
    learner = prepare("sft", config, preferences, (0, 1), CPU, None, None)
    feed = learner.phases[0].feed
    assert isinstance(feed, Transitions) and feed.count == 64 and not feed.following
    batch = feeds._draw(learner.source, feed)(torch.tensor(3))
    assert batch.observations.shape[:3] == (2, 64, 1) and batch.first.shape == (2, 0)
    known = {row.tobytes() for row in learner.source.data.observations}
    assert all(row.numpy().tobytes() in known for row in batch.observations[0, :, 0])
