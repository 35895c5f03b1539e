"""Policies beside the plain one: a learned variance, and chunks of actions."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.core.toml import replaced
from cpl_bench.experiments.run import Run
from cpl_bench.learning.chunks import chunk_of
from cpl_bench.learning.config import Optimiser, PolicyConfig, Stage
from cpl_bench.learning.interface import BestEpisodes, PreferenceBatch, Segments, Transitions
from cpl_bench.learning.losses import fixed_variance_log_prob
from cpl_bench.learning.methods import configured, find_method
from cpl_bench.learning.networks import Policy
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.evaluate import evaluate
from cpl_bench.runs.feeds import Source, _draw, check_feeds
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.record import as_table, read_record
from cpl_bench.runs.train import train
from cpl_bench.tasks.alike import executed
from cpl_bench.tasks.episodes import EpisodeRules, run_episodes
from cpl_bench.tasks.policies import mlp_action
from cpl_bench.tasks.registry import make_task

CPU, POINTMASS = torch.device("cpu"), load_task("pointmass")
OBSERVATION, ACTION, MEMBERS = 5, 2, [0, 3]
LEARNED = PolicyConfig((8, 8), 0.0, variance="learned")


def policy_of(config=LEARNED, **settings):
    """Two members, each with weights and a σ of its own for each action dimension."""
    policy = Policy(OBSERVATION, ACTION, replace(config, **settings), MEMBERS, CPU)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in policy.parameters.values():
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
    return policy


def batch_of(k=6, m=4, seed=0):
    """m segments of k steps of each member, all pairs compared."""
    draw = np.random.default_rng(seed)
    first, second = np.triu_indices(m, 1)
    shape = (len(MEMBERS), m, k)
    answers = draw.integers(0, 2, (len(MEMBERS), len(first)))
    looks, acts = draw.normal(size=(*shape, OBSERVATION)), draw.uniform(-1, 1, (*shape, ACTION))
    return PreferenceBatch(
        step=torch.tensor(0),
        observations=torch.tensor(looks, dtype=torch.float32),
        actions=torch.tensor(acts, dtype=torch.float32),
        first=torch.tensor(first).expand(len(MEMBERS), -1),
        second=torch.tensor(second).expand(len(MEMBERS), -1),
        prefers_second=torch.tensor(answers, dtype=torch.float32),
        weight=torch.ones(answers.shape),
    )


def log_density(action, mean, std):
    """Of one number, in plain arithmetic."""
    return -0.5 * ((action - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


# --- The likelihood ---


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_each_action_counts_once_given_where_its_chunk_began(variance, chunk):
    policy, batch = policy_of(variance=variance, chunk=chunk), batch_of(k=6)
    found = policy.log_probs(batch).detach().numpy()
    for i, own in enumerate(policy.weights().members()):
        for j in range(4):
            for t in range(6):
                began = t - t % chunk
                outputs = mlp_action(own.arrays, batch.observations[i, j, began][None].numpy())[0]
                place = ACTION * (t % chunk)
                mean = outputs[place : place + ACTION]
                action = batch.actions[i, j, t].double().numpy()
                expected = -((mean - action) ** 2).sum()
                if variance == "learned":
                    std = own.arrays["std"][place : place + ACTION].astype(float)
                    expected = sum(map(log_density, action, mean, std))
                assert found[i, j, t] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_chunk_of_one_is_no_chunk_to_the_bit():
    policy, batch = policy_of(variance="fixed", dropout=0.25, chunk=1), batch_of()
    s, m, k, _ = batch.observations.shape
    mean = policy._forward(batch.observations.reshape(s, m * k, -1), batch.step)
    expected = fixed_variance_log_prob(mean.view(s, m, k, -1), batch.actions)
    assert torch.equal(policy.log_probs(batch), expected)
    assert policy.weights().chunk_length == policy.weights().executed_steps == 1


def test_what_is_said_beyond_the_segment_teaches_nothing():
    policy = policy_of(chunk=4)  # of six steps the second chunk has two
    policy.log_probs(batch_of(k=6, m=1))[0, 0, 4:].sum().backward()
    taught = policy.parameters["b2"].grad.abs()
    assert (taught[0, : 2 * ACTION] > 0).all()
    assert not taught[0, 2 * ACTION :].any() and not taught[1].any()


def test_a_method_looks_only_where_its_chunks_begin():
    policy, batch = policy_of(chunk=3), batch_of(k=6)
    other = batch.observations.clone()
    other[:, :, [1, 2, 4, 5]] = 100.0
    found = policy.log_probs(replace(batch, observations=other))
    assert torch.equal(found, policy.log_probs(batch))


# --- A learned variance ---


def noisy(std, count, seed):
    """Single steps whose action is a line of what is seen, and noise of that deviation."""
    draw = np.random.default_rng(seed)
    looks = draw.normal(size=(len(MEMBERS), count, 1, OBSERVATION))
    acts = 0.1 * looks[..., :ACTION] + draw.normal(size=(*looks.shape[:3], ACTION)) * std
    return replace(
        batch_of(k=1, m=count),
        observations=torch.tensor(looks, dtype=torch.float32),
        actions=torch.tensor(acts, dtype=torch.float32),
    )


def cloned(policy, std, steps=200):
    policy.add_optimiser("clone", Optimiser(2e-2), steps)
    for seed in range(steps):
        policy.clone(noisy(std, 256, seed))
    return policy.parameters["log_std"].detach().exp().numpy()


def test_the_deviation_of_the_data_is_learned_in_each_dimension():
    std = np.array([[[[0.1, 0.3]]], [[[0.2, 0.05]]]])  # (s, 1, 1, a)
    found = cloned(policy_of(), std)
    np.testing.assert_allclose(found, std[:, 0, 0], rtol=0.12)


def test_a_deviation_stays_within_its_limits():
    policy = policy_of(std_limits=(0.25, 0.4), average=0.5)
    found = cloned(policy, np.array([0.05, 3.0]), steps=80)
    np.testing.assert_allclose(found, [[0.25, 0.4]] * 2, rtol=1e-5)
    assert (policy.weights().arrays["std"] <= 0.4 + 1e-6).all()


@pytest.mark.parametrize(
    ("limits", "first"), [((0.0067, 7.39), 1.0), ((0.1, 0.5), 0.5), ((2.0, 3.0), 2.0)]
)
def test_a_deviation_begins_at_one_or_at_the_nearer_limit(limits, first):
    config = replace(LEARNED, std_limits=limits, chunk=3)
    policy = Policy(OBSERVATION, ACTION, config, MEMBERS, CPU)
    std = policy.weights().arrays["std"]
    np.testing.assert_allclose(std, np.full((2, 3 * ACTION), first), rtol=1e-6)


def test_workers_act_by_the_mean_and_can_draw():
    weights = policy_of().weights()
    assert weights.kind == "gaussian"
    assert weights.arrays["std"].shape == (2, ACTION)
    plain = policy_of(variance="fixed").weights()
    assert plain.kind == "deterministic" and "std" not in plain.arrays


# --- Windows of single steps ---


def test_windows_lie_within_their_segments(dots):
    data = load_preferences(dots[2])
    source = Source(data, POINTMASS, None, MEMBERS, MEMBERS, CPU)
    draw = _draw(source, Transitions(3000, following=False, window=5))
    batch = draw(torch.tensor(0))
    assert batch.observations.shape == (2, 3000, 5, 6) and batch.first.shape == (2, 0)
    k = data.info.segment_length
    windows = {
        data.observations[start + i : start + i + 5].tobytes()
        for start in data.segment_starts
        for i in range(k - 5 + 1)
    }
    drawn = {row.numpy().tobytes() for row in batch.observations[1]}
    assert drawn <= windows and len(drawn) > 1000
    lasts = {data.observations[start + k - 5].tobytes() for start in data.segment_starts}
    assert any(window[: 6 * 4] in lasts for window in drawn), "a segment's last window counts"


def test_windows_of_the_best_episodes_end_with_them(dots):
    data = load_preferences(dots[2])
    source = Source(data, POINTMASS, None, MEMBERS, MEMBERS, CPU)
    batch = _draw(source, BestEpisodes(20.0, 2000, window=9))(torch.tensor(0))
    index = {row.tobytes(): i for i, row in enumerate(data.observations)}
    rows = np.array(
        [[index[step.numpy().tobytes()] for step in each] for each in batch.observations[0]]
    )
    assert (np.diff(rows, axis=1) == 1).all()
    episode = np.searchsorted(data.episode_ends, rows, side="right")
    assert (episode == episode[:, :1]).all()
    assert np.isin(rows[:, -1], data.episode_ends - 1).any(), "up to the very end"


def test_episodes_shorter_than_a_chunk_are_no_use(dots):
    data = load_preferences(dots[2])
    source = Source(data, POINTMASS, None, MEMBERS, MEMBERS, CPU)
    with pytest.raises(UserError, match=r"None of the best 10 % .* has 500 steps, a chunk"):
        _draw(source, BestEpisodes(10.0, 8, window=500))


def test_cloning_asks_for_windows_of_its_chunk():
    policy = policy_of(chunk=4)
    assert policy.clone_phase(Stage(5, transitions=64), Segments(8)).feed == Transitions(
        64, following=False, window=4
    )
    (phase,) = method("percent-bc", {"policy": {"chunk": 4}}).phases()
    assert phase.feed == BestEpisodes(10.0, 512, 4)


def method(name, settings):
    config = configured(name, "laptop", settings)
    return find_method(name).build(config, OBSERVATION, ACTION, [0], CPU)


# --- Settings ---


@pytest.mark.parametrize("name", ["sft", "cpl", "percent-bc"])
def test_segments_shorter_than_a_chunk_are_refused(dots, name):
    info = replace(load_preferences(dots[2]).info, segment_length=3)
    learner = method(name, {"policy": {"chunk": 4}})
    assert chunk_of(learner.config) == 4
    if name == "percent-bc":  # it learns from whole episodes
        return check_feeds(learner.phases(), info, True, "X", chunk_of(learner.config))
    said = "segments of 3 steps, and X needs at least 4. .* or take chunks of at most 3"
    with pytest.raises(UserError, match=said):
        check_feeds(learner.phases(), info, True, "X", 4)
    whole = {"clone": {"transitions": 0}, "policy": {"chunk": 4}}
    with pytest.raises(UserError, match=said):
        check_feeds(method(name, whole).phases(), info, True, "X", 4)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("piql", {"chunk": 2}, "policy.chunk must be 1, not 2: P-IQL learns what single actions"),
        ("ipl", {"chunk": 2}, "policy.chunk must be 1, not 2: IPL learns what single actions"),
        ("ppo", {"chunk": 8}, "policy.chunk must be 1, not 8: preference-PPO learns what single"),
        ("ppo", {"variance": "learned"}, "preference-PPO has a σ of its own, see std"),
        ("sft", {"chunk": 0}, r"policy\.chunk must be a whole number from 1"),
        ("sft", {"chunk": 4, "replan": 5}, "replan must be a whole number from 0 to the chunk's 4"),
        ("sft", {"replan": 2}, "replan must be a whole number from 0 to the chunk's 1"),
        ("cpl", {"variance": "large"}, "'policy.variance' must be 'fixed' or 'learned'"),
        ("cpl", {"std_limits": [0.1, 1.0]}, "are for variance = 'learned'"),
        (
            "cpl",
            {"variance": "learned", "std_limits": [1.0, 0.1]},
            "std_limits must be two positive numbers, the lower first",
        ),
        (
            "cpl",
            {"variance": "learned", "std_limits": [0, 1]},
            "std_limits must be two positive numbers, the lower first",
        ),
    ],
)
def test_policies_that_cannot_be_are_refused(name, settings, said):
    with pytest.raises(UserError, match=said):
        configured(name, "laptop", {"policy": settings})


# --- Records ---


def test_a_record_says_only_what_departs_from_the_first_policies():
    plain = configured("cpl", "laptop", {})
    first = {"hidden": [256, 256], "dropout": 0.0, "standardise": True, "average": 0.995}
    assert as_table(plain)["policy"] == first
    config = replaced(plain, {"policy": {"chunk": 4, "variance": "learned"}}, "")
    told = as_table(config)
    assert told["policy"] == {**first, "variance": "learned", "chunk": 4}
    assert configured("cpl", "laptop", told) == config
    assert configured("cpl", "laptop", as_table(plain)) == plain


# --- Runs ---

SMALL = {
    "policy": {"hidden": (32, 32), "average": 0.0},
    "clone": {"steps": 60, "transitions": 128},
    "steps": 90,
}


@pytest.fixture
def run(dots, pool):
    def made(runs, name="sft", policy=None, **options):
        settings = SMALL | {"policy": SMALL["policy"] | (policy or {})}
        config = configured(name, "laptop", settings)
        options = {"seeds": (0, 3), "evaluate_every": 60, "episodes": 3} | options
        options = TrainOptions(runs=runs, **options)
        return train(load_preferences(dots[2]), "dots", name, config, options, pool, POINTMASS)

    return made


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json" and "tensorboard" not in path.parts
    }


def by_hand(weights, seed, replan):
    """The return of an episode: the environment alone, and plans of four steps."""
    task = make_task(POINTMASS)
    observation, _ = task.reset(seed=seed)
    rewards, plan = [], []
    for _ in range(POINTMASS.horizon_steps):
        if not plan:
            outputs = mlp_action(weights.arrays, observation[None])
            plan = list(executed(outputs.reshape(4, 2))[:replan])
        observation, reward, *_ = task.step(plan.pop(0))
        rewards.append(reward)
    return sum(rewards)


@pytest.mark.parametrize("replan", [0, 1, 3])
def test_a_run_of_chunks_is_rolled_out_as_it_says(run, pool, tmp_path, replan):
    path = run(tmp_path, policy={"chunk": 4, "replan": replan})
    weights = RunFolder(path).read_weights(90)
    assert (weights.kind, weights.chunk_length, weights.replan) == ("deterministic", 4, replan)
    rows = evaluate(path, pool, 2).rows
    for i, (seed, own) in enumerate(zip((0, 3), weights.members(), strict=True)):
        expected = [by_hand(own, each, replan or 4) for each in episode_seeds("test", 2, seed)]
        assert rows["return"][2 * i : 2 * i + 2].tolist() == expected
    plans = Run(path).policy(3)(np.zeros((5, 6)))
    assert plans.shape == (5, replan or 4, 2)
    frames, _ = pool.render(POINTMASS, 5, weights.members()[0], every=10)
    (same,) = run_episodes(POINTMASS, [5], 0, weights.members()[0], EpisodeRules())
    assert len(frames) == 1 + len(same.rewards) // 10


@pytest.mark.parametrize("policy", [{"chunk": 4, "replan": 2}, {"chunk": 4, "variance": "learned"}])
def test_a_run_goes_on_to_the_same_bytes_and_shares_its_cloning(run, tmp_path, policy, capsys):
    whole = run(tmp_path / "whole", policy=policy)
    assert read_record(whole).config["policy"] == {
        "hidden": [32, 32],
        "dropout": 0.0,
        "standardise": True,
        "average": 0.0,
        **policy,
    }
    again = run(tmp_path / "other", "cpl", policy=policy)
    capsys.readouterr()
    assert run(tmp_path / "other", policy=policy).name == "sft"
    assert "its first 60 steps are taken over" in capsys.readouterr().out
    assert bytes_of(tmp_path / "other" / "dots" / "sft") == bytes_of(whole)
    assert RunFolder(again).read_weights(60).arrays.keys() == (
        RunFolder(whole).read_weights(60).arrays.keys()
    )
    run(tmp_path / "other", "cpl", policy=policy | {"chunk": 5}, note="five")
    assert "taken over" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another 'config\.policy\.chunk' \(4, now 5\)"):
        run(tmp_path / "whole", policy=policy | {"chunk": 5})
    with pytest.raises(UserError, match=r"another 'config\.policy\.\w+' \(.*, now 'the default'\)"):
        run(tmp_path / "whole")


def test_plain_checkpoints_and_records_are_as_they_were(run, tmp_path):
    path = run(tmp_path)
    header = (path / "checkpoints" / "90.safetensors").read_bytes()
    about = json.loads(json.loads(header[8 : header.index(b"}}") + 2])["__metadata__"]["cpl_bench"])
    assert about["about"] == {"kind": "deterministic", "chunk_length": 1}
    record = read_record(path)
    assert "chunk" not in record.config["policy"]
    assert run(tmp_path) == path, "finished, and not taken for another"
