"""P-IQL: its losses by hand, its size, and IQL on a problem whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.errors import UserError
from cpl_bench.core.seeds import episode_seeds
from cpl_bench.learning.algos.piql import PAPER, PIQL, PIQLConfig
from cpl_bench.learning.interface import PreferenceBatch
from cpl_bench.learning.loop import fit
from cpl_bench.preferences.file import load_preferences
from cpl_bench.runs.assess import assess
from cpl_bench.runs.feeds import Source, make_feeds

CPU = torch.device("cpu")
SMALL = replace(PAPER, hidden=(16, 16), dropout=0.0, reward="true")


def test_parameter_count_is_the_papers():
    learner = PIQL(PAPER, 35, 4, [0], CPU)
    networks = [learner.policy, learner.value, *learner.critics.values()]
    networks += learner.reward.networks.values()
    count = sum(each[0].numel() for network in networks for each in network.parameters.values())
    assert count == 1_415_688


def batch_of(members=1, segments=4, steps=5):
    draw = torch.Generator().manual_seed(3)
    none = torch.zeros(members, 0, dtype=torch.int64)
    return PreferenceBatch(
        step=torch.tensor(0),
        observations=torch.randn(members, segments, steps, 3, generator=draw),
        actions=torch.rand(members, segments, steps, 2, generator=draw) * 1.8 - 0.9,
        first=none,
        second=none,
        prefers_second=torch.zeros(members, 0),
        rewards=torch.rand(members, segments, steps, generator=draw),
    )


def by_hand(network, x):
    """A network's only output in float64."""
    for i in range(3):
        weights = network.parameters[f"w{i}"][0], network.parameters[f"b{i}"][0]
        weight, bias = (each.detach().double().numpy() for each in weights)
        x = x @ weight + bias
        x = np.maximum(x, 0) if i < 2 else x
    return x[..., 0]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_first_losses(scale):
    config = replace(
        SMALL, temperature=0.1, largest_weight=1.0, expectile=0.8, gamma=0.9, value_scale=scale
    )
    learner, batch = PIQL(config, 3, 2, [0], CPU), batch_of()
    with torch.no_grad():  # targets that differ from the critics, and spread-out values
        for target in learner.targets.values():
            target.parameters["b2"] += 0.2
            target.parameters["w2"] *= 100

    def judged_by(network, x):
        return scale * by_hand(network, x)

    observations = batch.observations[0].double().numpy()
    actions = batch.actions[0].double().numpy()
    pairs = np.concatenate([observations, actions], -1)[:, :-1]
    value = judged_by(learner.value, observations)
    judged = np.minimum(*(judged_by(target, pairs) for target in learner.targets.values()))
    error = judged - value[:, :-1]
    value_loss = (np.where(error < 0, 0.2, 0.8) * error**2).mean()
    goal = batch.rewards[0, :, :-1].double().numpy() + 0.9 * value[:, 1:]
    critic_loss = sum(
        ((judged_by(critic, pairs) - goal) ** 2).mean() for critic in learner.critics.values()
    )
    weight = np.minimum(np.exp(error / 0.1), 1.0)
    mean = learner.act(batch.observations.flatten(1, 2)).view(batch.actions.shape)[0]
    log_prob = -((mean.double().numpy() - actions) ** 2).sum(-1)[:, :-1]
    policy_loss = -(weight * log_prob).mean()

    metrics = learner.phases(10)[-1].update(batch)
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-5)
    assert metrics["critic_loss"].item() == pytest.approx(critic_loss, rel=1e-5)
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-5)
    assert (weight == 1.0).any() and (weight < 1.0).any()


@pytest.mark.parametrize(("wanted", "count"), [(0, 7), (8, 2), (12, 3), (36, 7), (3, 1)])
def test_steps_of_a_segment_are_spread_evenly(wanted, count):
    learner = PIQL(replace(SMALL, transitions_per_batch=wanted), 3, 2, [0], CPU)
    whole, drawn = batch_of(segments=4, steps=8), []
    for step in range(7):
        batch = replace(whole, step=torch.tensor(step))
        chosen, after = learner._transitions(batch)
        steps = [
            int((batch.observations[0, 0] == row).all(1).nonzero())
            for row in chosen.observations[0, 0]
        ]
        assert len(steps) == count and all(np.diff(steps) >= 7 // count)
        assert torch.equal(chosen.observations, batch.observations[:, :, steps])
        assert torch.equal(chosen.actions, batch.actions[:, :, steps])
        assert torch.equal(chosen.rewards, batch.rewards[:, :, steps])
        following = batch.observations[:, :, [each + 1 for each in steps]]
        assert torch.equal(after, following.flatten(1, 2))
        drawn += steps
    assert np.bincount(drawn).tolist() == [count] * 7


def test_transitions_are_drawn_one_by_one_from_the_segments(dots, pool):
    preferences = load_preferences(dots[2])
    config = replace(SMALL, transitions_per_batch=4000)
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    source = Source(preferences, load_task("pointmass"), pool, [0, 1], [0, 1], CPU)
    within = np.zeros(len(preferences.observations), bool)  # rows that a segment goes on from
    for start in preferences.segment_starts:
        within[start : start + preferences.info.segment_length - 1] = True
    expected = {tuple(row) for row in preferences.observations[within].tolist()}
    for reward in ("learned", "true"):
        learner = PIQL(replace(config, reward=reward, reward_steps=1), *widths, [0, 1], CPU)
        phases = learner.phases(2)
        feed = make_feeds(source, phases, learner, config)[phases[-1].feed]
        batch = feed(torch.tensor(0))
        assert batch.observations.shape == (2, 4000, 2, widths[0])
        first = batch.observations[0, :, 0].numpy()
        assert {tuple(row) for row in first.tolist()} <= expected
        rows = [np.flatnonzero((preferences.observations == row).all(1))[0] for row in first[:50]]
        after = preferences.observations[np.array(rows) + 1]
        np.testing.assert_array_equal(batch.observations[0, :50, 1], after)
        if reward == "learned":
            assert batch.rewards is None
        else:
            np.testing.assert_array_equal(batch.rewards[0, :50, 0], preferences.rewards[rows])


@pytest.mark.parametrize("settings", [{"reward": "true"}, {"reward": "learned"}])
def test_segments_of_one_step_are_refused(dots, pool, settings):
    preferences = load_preferences(dots[2])
    short = replace(preferences, info=replace(preferences.info, segment_length=1))
    config = replace(SMALL, **settings)
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = PIQL(config, *widths, [0], CPU)
    source = Source(short, load_task("pointmass"), pool, [0], [0], CPU)
    with pytest.raises(UserError, match="segments of 1 step, and this method needs at least 2"):
        make_feeds(source, learner.phases(1000), learner, config)


def test_targets_follow_slowly():
    learner, batch = PIQL(replace(SMALL, polyak=0.25), 3, 2, [0], CPU), batch_of()
    before = learner.targets["target0"].parameters["w1"].clone()
    learner.phases(10)[-1].update(batch)
    critic = learner.critics["critic0"].parameters["w1"]
    expected = before + 0.25 * (critic - before)
    assert not torch.equal(critic, before)
    torch.testing.assert_close(learner.targets["target0"].parameters["w1"], expected)


def test_phases_depend_on_the_reward():
    learned = PIQL(replace(SMALL, reward="learned", reward_steps=30), 3, 2, [0], CPU).phases(100)
    assert [(each.name, each.steps, each.feed) for each in learned] == [
        ("reward", 30, "fitting"),
        ("iql", 70, "segments"),
    ]
    true = PIQL(SMALL, 3, 2, [0], CPU).phases(100)
    assert true[0][:2] == ("iql", 100) and true[0].feed == "rewarded segments" and len(true) == 1


def test_with_the_true_reward_it_solves_the_point_mass(dots, pool):
    members = [0, 1, 2]
    config = replace(
        SMALL, hidden=(64, 64), steps=1500, temperature=0.05, segments_per_batch=32,
        learning_rate=1e-3,
    )  # fmt: skip
    preferences, task = load_preferences(dots[2]), load_task("pointmass")
    widths = preferences.observations.shape[1], preferences.actions.shape[1]
    learner = PIQL(config, *widths, members, CPU)
    phases = learner.phases(config.steps)
    source = Source(preferences, task, pool, members, members, CPU)
    for _ in fit(phases, make_feeds(source, phases, learner, config), [], CPU):
        pass
    episodes = [episode_seeds("test", 30, member) for member in members]
    rows = assess(pool, task, learner.weights(), members, episodes, 0, "test")
    assert rows["success"].mean() >= 0.9


@pytest.mark.parametrize(
    ("setting", "value"),
    [("expectile", 1.0), ("temperature", 0.0), ("largest_weight", 0.0), ("gamma", 1.0),
     ("polyak", 0.0), ("value_scale", 0.0), ("transitions_per_batch", -1),
     ("transitions_per_batch", 1), ("reward_imitation", -1.0)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(setting, value):
    with pytest.raises(UserError, match=setting.replace("_", "-")):
        replace(PIQLConfig(), **{setting: value})
