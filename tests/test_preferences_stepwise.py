"""Scores of steps: successes, distances to the goal, and advantages whose answers are known."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from cpl_bench.core.cards import load_task
from cpl_bench.core.dataset_cards import Labelling
from cpl_bench.core.errors import UserError
from cpl_bench.preferences.advantage import CriticSettings, advantages
from cpl_bench.preferences.file import load_preferences
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import planned_info, preference_path, with_options
from cpl_bench.preferences.scorers import check_scorer, goal_distance, partial_return, success
from cpl_bench.preferences.segments import SegmentSet
from cpl_bench.preferences.stepwise import goal_of, nearness
from cpl_bench.tasks.episodes import EXPERT, EpisodeRules, Trajectory
from cpl_bench.tasks.registry import make_task


def episode(observations, actions, rewards, terminated=False, successes=None):
    """A hand-made one of T steps."""
    count = len(rewards)
    return Trajectory(
        seed=0,
        policy=0,
        observations=np.asarray(observations, np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float64),
        successes=np.zeros(count, bool) if successes is None else np.asarray(successes, bool),
        states=np.zeros((0, 0)),
        terminated=terminated,
    )


def cut(trajectories, places, length):
    episodes, offsets = np.array(places).T
    return SegmentSet(trajectories, episodes, offsets, length)


# --- Success and distance ---


def test_success_counts_the_steps_at_which_the_condition_held():
    held = [0, 0, 1, 1, 0, 1]
    one = episode(np.zeros((7, 1)), np.zeros((6, 1)), np.zeros(6), successes=held)
    segments, task = cut([one], [(0, 0), (0, 2), (0, 3)], 3), load_task("pointmass")
    assert success(segments, task, Labelling(), None).tolist() == [1, 2, 2]
    myopic = success(segments, task, Labelling(discount=0.5), None)
    np.testing.assert_allclose(myopic, [1, 0.75, 1.25])
    none = replace(one, successes=np.zeros(6, bool))
    with pytest.raises(UserError, match=r"know no success.*partial_return"):
        success(cut([none], [(0, 0)], 3), task, Labelling(), None)


@pytest.mark.parametrize("name", ["pointmass", "fetch-reach", "fetch-push", "fetch-pick-and-place"])
def test_goal_distance_is_minus_the_reward_of_tasks_that_pay_it(name, pool):
    """These pay minus the distance to the goal: the card's entries are the right ones."""
    task = load_task(name)
    rules = EpisodeRules(0.5, keep_states=False)
    trajectories = pool.episodes(task, [1, 2], [EXPERT] * 2, [], rules)
    segments = cut(trajectories, [(0, 0), (1, 7), (1, 30)], 12)
    near = goal_distance(segments, task, Labelling(), None)
    paid = partial_return(segments, task, Labelling(), None)
    np.testing.assert_allclose(near, paid, atol=1e-4)
    assert len(set(near)) == 3 and near.max() < 0


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_the_mazes_cards_know_where_their_goal_stands(size):
    task = load_task(f"pointmaze-{size}")
    ours = make_task(task)
    theirs = gymnasium.make(task.source_id, disable_env_checker=True, **task.kwargs)
    observation, _ = ours.reset(seed=3)
    parts, _ = theirs.reset(seed=3)
    for name, entries in (("achieved", "achieved_goal"), ("desired", "desired_goal")):
        np.testing.assert_allclose(observation[task.goal[name]], parts[entries], atol=1e-6)
    assert not np.allclose(parts["achieved_goal"], parts["desired_goal"], atol=0.1)
    ours.close(), theirs.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "goal_distance must know which entries.*goal = .*got nothing"),
        ({"achieved": [0], "desired": [1, 2]}, "goal_distance must know"),
        ({"achieved": [-1], "desired": [1]}, "goal_distance must know"),
        ({"achieve": [0]}, "setting of goal_distance.*'achieve'. Did you mean 'achieved'"),
    ],
)
def test_goals_that_nobody_knows_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_scorer("goal_distance", settings, load_task("drawer-open"))


def test_settings_name_another_goal_than_the_card():
    task = load_task("pointmass")
    assert goal_of(task, {"achieved": [2], "desired": [3]}) == ([2], [3])
    one = episode([[0, 0, 3, 7, 0, 0]] * 3, np.zeros((2, 2)), np.zeros(2))
    assert nearness([one], task, {"achieved": [2], "desired": [3]})[0].tolist() == [-4, -4]
    with pytest.raises(UserError, match="at entry 9 of an observation that has 6"):
        nearness([one], task, {"achieved": [2], "desired": [9]})


# --- Advantage ---

QUICK = CriticSettings(steps=700, transitions=64, expectile=0.5, gamma=0.0, width=32)


def test_without_a_future_the_advantage_is_the_reward_less_its_mean():
    rng = np.random.default_rng(0)
    actions = rng.choice([-0.8, -0.2, 0.4], (40, 10, 1))
    paid = 5 * actions[:, :, 0]
    data = [episode(np.ones((11, 2)), a, r) for a, r in zip(actions, paid, strict=True)]
    found = np.stack(advantages(data, QUICK))
    np.testing.assert_allclose(found, paid - paid.mean(), atol=0.5)  # of 6


def test_the_last_step_is_followed_by_what_was_seen_last_unless_the_task_ended():
    """Two rooms: 'stay' ends the task or not with reward 1, 'go' pays nothing and leads there."""
    for terminated, worth in ((True, 1.0), (False, 1 / (1 - 0.5))):
        here, there = [1.0, 0.0], [0.0, 1.0]
        data = [
            episode([here, there, there], [[0.5], [-0.5]], [0.0, 1.0], terminated),
            episode([here, here], [[-0.5]], [0.0]),  # cut by time
        ]
        settings = replace(QUICK, gamma=0.5, steps=800, expectile=0.9)
        went, stayed = advantages(data * 20, settings)[:2]
        # in the first room going is worth γ·worth, staying γ·V of that room, V near the better
        better = 0.5 * worth
        assert went[1] == pytest.approx(0, abs=0.1)
        assert -0.5 * better - 0.1 < stayed[0] < -0.25 * better
        assert went[0] > -0.05


def test_the_same_fit_gives_the_same_bits_whatever_the_threads():
    rng = np.random.default_rng(1)
    data = [
        episode(rng.normal(size=(31, 3)), rng.uniform(-1, 1, (30, 2)), rng.normal(size=30))
        for _ in range(4)
    ]
    settings, before = CriticSettings(steps=30), torch.get_num_threads()
    once = advantages(data, settings)
    try:
        torch.set_num_threads(2)
        again = advantages(data, settings)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(np.concatenate(once), np.concatenate(again))
    other = advantages(data, replace(settings, seed=1))
    assert (np.concatenate(once) != np.concatenate(other)).all()
    for alike in (0.0, 0.1):  # thirty times 0.1 deviate from their mean by a rounding
        with pytest.raises(UserError, match=rf"All rewards of the data are {alike:g}"):
            advantages([replace(data[0], rewards=np.full(30, alike))], settings)


def test_advantage_labels_a_card_and_knows_better_from_worse(dots, pool, monkeypatch):
    """On the point mass it agrees with exact regret far more often than not."""
    card, root, exact = dots
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    settings = {"steps": 400, "gamma": 0.9, "width": 64}
    how = with_options(card, "advantage", scorer_settings=settings)
    found, regret = load_preferences(label(how, pool)), load_preferences(exact)
    assert found.info.scorer_settings == settings
    assert preference_path(how).name.startswith("advantage-gamma0.9-steps400-width64-600x12-")
    np.testing.assert_array_equal(found.segment_starts, regret.segment_starts)
    first, second = np.triu_indices(600, 1)
    decided = regret.scores[first] != regret.scores[second]
    ours, theirs = (s[second] > s[first] for s in (found.scores, regret.scores))
    assert (ours == theirs)[decided].mean() > 0.65
    assert planned_info(how).scorer_settings == settings


@pytest.mark.parametrize(
    ("scorer", "settings", "message"),
    [
        ("advantage", {"step": 5}, "No key is called 'step'. Did you mean 'steps'"),
        ("advantage", {"expectile": 1.5}, r"expectile must lie in \(0, 1\)"),
        ("advantage", {"steps": 0}, "steps, transitions and width must be at least 1"),
        ("regret", {"steps": 5}, "The scorer 'regret' has no settings; got steps"),
    ],
)
def test_scorers_refuse_settings_that_cannot_be(scorer, settings, message):
    with pytest.raises(UserError, match=message):
        check_scorer(scorer, settings, load_task("pointmass"))
