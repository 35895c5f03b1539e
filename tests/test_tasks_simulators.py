"""Tasks of Gymnasium and gymnasium-robotics that have cards: rolled out as they are, and forked."""

import tempfile
from dataclasses import replace
from functools import cache

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from cpl_bench.core.cards import TaskCard, load_task, task_cards
from cpl_bench.core.errors import UserError
from cpl_bench.core.policy import PolicyWeights
from cpl_bench.tasks.episodes import EpisodeRules, run_episodes
from cpl_bench.tasks.flat import flat, flat_space
from cpl_bench.tasks.plain import PlainTask
from cpl_bench.tasks.protocol import can_fork, has_expert
from cpl_bench.tasks.registry import find_task, make_task
from cpl_bench.tasks.simulators import MEMORIES, Memory, Simulator, tidy_up

SIZES = {
    "hopper": (11, 3),
    "walker2d": (17, 6),
    "halfcheetah": (17, 6),
    "ant": (105, 8),
    "adroit-door": (39, 28),
    "adroit-hammer": (46, 26),
    "adroit-pen": (45, 24),
    "adroit-relocate": (39, 30),
    "kitchen": (70, 9),
    "pointmaze-umaze": (6, 2),
    "pointmaze-medium": (6, 2),
    "pointmaze-large": (6, 2),
}
FALLING = ["hopper", "walker2d", "ant"]
FORGETFUL = ["hopper", "walker2d", "halfcheetah"]  # nothing to remember but physics


@cache
def instance(name, copy=0):
    """A task that the tests share, so that it comes to each with some other history."""
    return make_task(load_task(name))


@cache
def bare(name):
    """The environment as its own package makes it."""
    card = load_task(name)
    env = gymnasium.make(card.source_id, disable_env_checker=True, **card.kwargs)
    tidy_up(env.unwrapped)
    return env


def moves(task, seed, count, reach=1.0):
    return np.random.default_rng(seed).uniform(-reach, reach, (count, *task.action_space.shape))


def disturb(task, seed):
    """Some other history."""
    task.reset(seed=seed)
    for action in moves(task, seed, 6):
        task.step(action)


def row(observation):
    """What a policy sees, by hand."""
    if not isinstance(observation, dict):
        return observation
    assert set(observation) == {"observation", "achieved_goal", "desired_goal"}
    goal = observation["desired_goal"]
    if isinstance(goal, dict):
        goal = np.concatenate([goal[name] for name in sorted(goal)])
    return np.concatenate([observation["observation"], goal])


# --- As they are ---


def test_each_has_a_card():
    ours = {name for name, card in task_cards().items() if card.suite == "gymnasium"}
    assert ours == set(SIZES)
    for name in ours:
        card = load_task(name)
        assert card.simulators.keys() >= {"gymnasium", "mujoco"}
        robotics = card.source_id.startswith("gymnasium_robotics:")
        assert ("gymnasium-robotics" in card.simulators) == robotics
        assert card.horizon_steps == bare(name).spec.max_episode_steps
        assert find_task(name) == card


@pytest.mark.parametrize("name", SIZES)
def test_an_episode_is_that_of_the_environment_itself(name):
    task, env = instance(name), bare(name)
    assert (task.observation_space.shape[0], task.action_space.shape[0]) == SIZES[name]
    disturb(task, 9)
    look, seen = env.reset(seed=3)[0], task.reset(seed=3)[0]
    ended = False
    for i, action in enumerate(moves(task, 3, 30)):
        np.testing.assert_allclose(seen, row(look), atol=2.0**-24, rtol=1e-6)
        assert np.all(seen.astype(float) * 2.0**24 % 1 == 0)
        look, reward, ended, _, info = env.step(action.astype(env.action_space.dtype))
        seen, mine, terminated, cut, about = task.step(action)
        assert mine == pytest.approx(reward, abs=2.0**-20) and type(mine) is float
        assert (terminated, cut) == (ended, False), i
        assert about["success"] == bool(info.get("success", False))
        if ended:
            break
    assert ended == (name in ("hopper", "walker2d")), "random moves fell them, nobody else"


@pytest.mark.parametrize("name", FALLING)
def test_a_fall_terminates_and_is_recorded_so(name):
    task = instance(name)
    (o, a), card = SIZES[name], load_task(name)
    still = PolicyWeights("deterministic", {"w0": np.zeros((o, a)), "b0": np.zeros(a)})
    rules = EpisodeRules(action_noise=1.0, keep_states=True)
    (found,) = run_episodes(card, [4], 0, still, rules)
    steps = len(found.rewards)
    assert found.terminated and steps < card.horizon_steps
    assert len(found.states) == len(found.observations) == steps + 1
    look = task.set_state(found.states[-2])
    np.testing.assert_array_equal(look, found.observations[-2])
    look, reward, terminated, cut, _ = task.step(found.actions[-1])
    np.testing.assert_array_equal(look, found.observations[-1])
    assert (reward, terminated, cut) == (found.rewards[-1], True, False)
    (short,) = run_episodes(replace(card, horizon_steps=3), [4], 0, still, rules)
    assert len(short.rewards) == 3 and not short.terminated, "time is no fall"
    np.testing.assert_array_equal(short.rewards, found.rewards[:3])


def test_normalised_returns_are_d4rls():
    for name, random, expert in (("hopper", -20.272305, 3234.3), ("walker2d", 1.629008, 4592.3)):
        scores = load_task(name).scoring.of([0, 0, 0], [random, expert, 1000.0])
        np.testing.assert_allclose(scores, [0, 1, (1000 - random) / (expert - random)])
    scores = load_task("kitchen").scoring.of([0, 0, 1], [0, 3, 4])
    np.testing.assert_array_equal(scores, [0, 0.75, 1])


def test_the_kitchen_pays_each_task_once_and_ends_with_the_last():
    task = instance("kitchen")
    task.reset(seed=1)
    inner = task._env.unwrapped
    still = np.zeros(9)
    assert task.step(still)[1:4] == (0.0, False, False)
    inner.data.qpos[22] = -0.75  # the microwave stands open
    _, reward, terminated, _, info = task.step(still)
    assert (reward, terminated, info["success"]) == (1.0, False, False)
    assert task.step(still)[1] == 0.0
    inner.data.qpos[19], inner.data.qpos[17:19] = 0.37, (-0.69, -0.05)
    inner.data.qpos[23:30] = (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)
    state = task.get_state()
    after = task.step(still)
    assert after[1:4] == (3.0, True, False) and after[4]["success"]
    other = instance("kitchen", 1)
    other.set_state(state)
    again = other.step(still)
    np.testing.assert_array_equal(again[0], after[0])
    assert again[1:] == after[1:], "a task that was done is not paid again"


def test_a_goal_of_the_maze_stays_and_is_paid_at_each_step():
    task = instance("pointmaze-umaze")
    look, _ = task.reset(seed=2)
    inner = task._env.unwrapped
    inner.point_env.set_state(inner.goal.copy(), np.zeros(2))
    for _ in range(3):
        seen, reward, terminated, _, info = task.step(np.zeros(2))
        np.testing.assert_array_equal(seen[-2:], look[-2:])
        assert (reward, terminated, info["success"]) == (1.0, False, True)


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make_task(load_task("pointmaze-umaze"))
    assert not list(tmp_path.iterdir())


# --- Seeds decide ---


@pytest.mark.parametrize("name", SIZES)
def test_a_seed_decides_the_episode_whatever_came_before(name):
    starts, episodes = [], []
    for copy, before in ((0, 5), (0, 6), (1, 7)):
        task = instance(name, copy)
        disturb(task, before)
        rows = [np.append(task.reset(seed=7)[0], 0.0)]
        rows += [np.append(*task.step(action)[:2]) for action in moves(task, 7, 12)]
        episodes.append(np.stack(rows))
    for other in episodes[1:]:
        np.testing.assert_array_equal(other, episodes[0])
    starts = [instance(name).reset(seed=seed)[0] for seed in range(4)]
    assert len(np.unique(starts, axis=0)) == 4


# --- States are exact ---


def goes_on_alike(task, other, seed, before, after=15):
    """Whether `other` goes on from a state of `task` as that does itself, bit for bit."""
    disturb(other, seed + 50)
    look, _ = task.reset(seed=seed)
    for action in moves(task, seed, before, 0.3):
        look = task.step(action)[0]
    state, actions = task.get_state(), moves(task, seed + 1, after, 0.3)
    kept, wanted = state.copy(), [(task.step(each), task.get_state()) for each in actions]
    alike = True
    for copy in (other, task):
        alike &= np.array_equal(copy.set_state(state), look)
        alike &= np.array_equal(copy.get_state(), state)
        for action, (result, later) in zip(actions, wanted, strict=True):
            again = copy.step(action)
            alike &= np.array_equal(again[0], result[0]) and again[1:] == result[1:]
            alike &= np.array_equal(copy.get_state(), later)
    assert np.array_equal(state, kept) and state.dtype == np.float64
    return alike


@pytest.mark.parametrize("name", SIZES)
def test_a_restored_state_goes_on_in_another_instance(name):
    task, other = instance(name), instance(name, 1)
    assert can_fork(task) and not has_expert(task)
    assert goes_on_alike(task, other, seed=1, before=0)
    assert goes_on_alike(task, other, seed=2, before=11)


@pytest.mark.parametrize("name", sorted(set(SIZES) - set(FORGETFUL)))
def test_physics_alone_would_not_do(name, monkeypatch):
    """Each memory is there for a reason, and the test above would see it missing."""
    task, other = instance(name), instance(name, 1)
    for each in (task, other):
        monkeypatch.setattr(each, "_simulator", Simulator(each._env.unwrapped, Memory()))
    assert not goes_on_alike(task, other, seed=2, before=11)


def test_steps_are_counted_on_from_a_state():
    card = replace(load_task("hopper"), horizon_steps=6)
    task = make_task(card)
    task.reset(seed=0)
    start = task.get_state()
    flags = [task.step(np.zeros(3))[3] for _ in range(6)]
    task.set_state(start)
    assert [task.step(np.zeros(3))[3] for _ in range(6)] == flags == [False] * 5 + [True]


def test_only_listed_classes_have_a_state():
    assert not can_fork(make_task(find_task("Swimmer-v5"))), "MuJoCo, but not known"
    for name in MEMORIES:
        module, _, kind = name.partition(":")
        assert module.startswith(("gymnasium.envs.mujoco.", "gymnasium_robotics.envs.")) and kind


def test_regret_says_that_nobody_is_to_be_regretted(pool):
    card = load_task("hopper")
    states = instance("hopper").get_state()[None]
    for function, more in (
        ("expert_returns", {"horizons": np.ones(1)}),
        ("expert_steps_to_success", {"cap_steps": 3}),
    ):
        with pytest.raises(UserError, match=r"^hopper has no expert .*partial_return"):
            pool.forks(card, function, {"one": {"states": states, **more}})


# --- Keyword arguments ---


def test_kwargs_reach_the_environment_and_tell_tasks_apart():
    """Also in a worker, which keeps its simulators."""
    short = replace(load_task("pointmaze-umaze"), horizon_steps=5)
    dense = replace(short, kwargs={**short.kwargs, "reward_type": "dense"})
    assert short.fingerprint != dense.fingerprint and short.simulated != dense.simulated
    still = PolicyWeights("deterministic", {"w0": np.zeros((6, 2)), "b0": np.zeros(2)})
    found = [run_episodes(c, [0], 0, still, EpisodeRules())[0] for c in (short, dense, short)]
    np.testing.assert_array_equal(found[0].rewards, 0)
    assert found[1].rewards.min() > 0
    np.testing.assert_array_equal(found[2].rewards, 0)
    slim = replace(load_task("ant"), kwargs={"include_cfrc_ext_in_observation": False})
    assert make_task(slim).observation_space.shape == (27,)


def test_a_task_without_kwargs_is_what_it_was():
    card = TaskCard("line", "gymnasium", "m:C", 9)
    assert card.simulated == ("gymnasium", "m:C", 9)
    assert load_task("drawer-open").fingerprint == "1afdd43f"


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("hopper", {"frame_skp": 4}, "Hopper-v5 cannot be made .*frame_skp"),
        ("kitchen", {"tasks_to_complete": ["toaster"]}, "cannot be made .*toaster"),
        ("adroit-pen", {"reward_type": "rich"}, "cannot be made .*rich"),
        ("drawer-open", {"x": 1}, r"drawer-open: the suite metaworld takes no \[kwargs\]"),
    ],
)
def test_kwargs_that_nobody_takes_are_refused(name, kwargs, said):
    with pytest.raises(UserError, match=said):
        make_task(replace(load_task(name), kwargs=kwargs))


# --- One row of numbers ---


def test_goal_environments_are_flattened_by_one_rule():
    inner = spaces.Dict({"b": spaces.Box(0, 1, (2,)), "a": spaces.Box(0, 1, (1,))})
    goal = spaces.Dict(
        {"observation": spaces.Box(0, 9, (2, 2)), "achieved_goal": inner, "desired_goal": inner}
    )
    looks = {
        "observation": np.arange(4.0).reshape(2, 2),
        "achieved_goal": {"a": np.array([8.0]), "b": np.array([8.0, 8.0])},
        "desired_goal": {"b": np.array([0.5, 0.6]), "a": np.array([0.4])},
    }
    np.testing.assert_allclose(flat(goal, looks), [0, 1, 2, 3, 0.4, 0.5, 0.6])
    assert flat_space(goal).shape == (7,)
    several = {
        "observation": np.stack([looks["observation"], looks["observation"] + 1]),
        "achieved_goal": looks["achieved_goal"],
        "desired_goal": {k: np.stack([v, v]) for k, v in looks["desired_goal"].items()},
    }
    rows = flat(goal, several)
    assert rows.shape == (2, 7)
    np.testing.assert_array_equal(rows[0], flat(goal, looks))
    np.testing.assert_allclose(rows[1], [1, 2, 3, 4, 0.4, 0.5, 0.6])


def test_all_else_is_flattened_as_gymnasium_does():
    space = spaces.Dict(
        {
            "z": spaces.Box(-1, 1, (2, 3)),
            "a": spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 255, (2,), np.uint8))),
            "observation": spaces.Box(-1, 1, ()),
        }
    )
    space.seed(0)
    for _ in range(3):
        sample = space.sample()
        np.testing.assert_array_equal(flat(space, sample), spaces.flatten(space, sample))
    assert flat_space(space) == spaces.flatten_space(space)
    assert isinstance(instance("kitchen"), PlainTask)
