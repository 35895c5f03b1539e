"""Every suite keeps the `Task` contract: seeds, states, spaces, horizons, experts."""

import json
import os
import subprocess
import sys
import warnings
from functools import cache

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from cpl_bench.core.cards import load_task, task_cards
from cpl_bench.core.errors import UserError
from cpl_bench.core.folders import card_folder
from cpl_bench.core.tables import read_toml
from cpl_bench.tasks.fetch import FetchTask
from cpl_bench.tasks.metaworld import MetaWorldTask
from cpl_bench.tasks.pointmass import PointMassTask
from cpl_bench.tasks.protocol import Task
from cpl_bench.tasks.registry import SUITES, make_env, make_task

PAPER = ["bin-picking", "button-press", "door-open", "drawer-open", "plate-slide", "sweep-into"]
OWN = [path.stem for path in card_folder("envs").glob("*.toml") if "members" not in read_toml(path)]
SUITE_OF = {name: load_task(name).suite for name in sorted([*OWN, "reach", "pick-place-wall"])}
METAWORLD = [name for name, suite in SUITE_OF.items() if suite == "metaworld"]
FETCH = [name for name, suite in SUITE_OF.items() if suite == "fetch"]
TASKS = [*METAWORLD, *FETCH, "pointmass"]
GYMNASIUM = ["hopper", "adroit-pen", "pointmaze-umaze"]  # more in test_tasks_simulators.py
SIZES = {"fetch-reach": (13, 4), "fetch-push": (28, 4), "fetch-pick-and-place": (28, 4)}
ONE_GOAL = ["bin-picking", "sweep-into"]  # Meta-World moves only the object in these

pytestmark = pytest.mark.filterwarnings("ignore:Constant")  # Meta-World's experts, of clipping


@cache
def instance(name: str, copy: int = 0) -> Task:
    """An environment that the tests share, so that it comes to each with some other history."""
    return make_task(load_task(name))


def noisy_action(env: Task, rng: np.random.Generator, noise: float) -> np.ndarray:
    """The expert's action with Gaussian noise, clipped, float32."""
    action = env.expert_action() + noise * rng.normal(size=env.action_space.shape)
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def trajectory(env: Task, seed: int, steps: int) -> np.ndarray:
    """Observations and rewards of random actions after `reset(seed)`, (steps + 1, o + 1)."""
    rng = np.random.default_rng(seed)
    rows = [np.append(env.reset(seed=seed)[0], 0.0)]
    for _ in range(steps):
        observation, reward, *_ = env.step(
            rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        )
        rows.append(np.append(observation, reward))
    return np.stack(rows)


def success_rate(env: Task, episodes: int, noise: float = 0.0, horizon: int = 50) -> float:
    """The share of episodes in which the expert succeeds at any step."""
    successes = 0
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        successes += any(
            env.step(noisy_action(env, rng, noise))[4]["success"] for _ in range(horizon)
        )
    return successes / episodes


# --- Keep Gymnasium's contract ---


@pytest.mark.parametrize("name", [*TASKS, *GYMNASIUM])
def test_gymnasium_accepts_it(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations are ours by choice
        check_env(make_env(name).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", [*TASKS, *GYMNASIUM])
def test_a_spec_is_rebuilt_from_json(name):
    text = make_env(name).spec.to_json()
    json.loads(text)
    rebuilt = gymnasium.make(EnvSpec.from_json(text)).unwrapped
    expected, _ = instance(name).reset(seed=3)
    np.testing.assert_array_equal(rebuilt.reset(seed=3)[0], expected)
    assert rebuilt.horizon_steps == load_task(name).horizon_steps


@pytest.mark.parametrize("name", TASKS)
def test_the_horizon_truncates_but_stops_nobody(name):
    env, horizon = instance(name), load_task(name).horizon_steps
    assert horizon == (250 if name in METAWORLD else 50)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    flags = []
    for _ in range(horizon + 5):
        observation, reward, terminated, truncated, info = env.step(action)
        flags.append(truncated)
        assert not terminated and type(reward) is float and type(info["success"]) is bool
        assert np.isfinite(reward) and np.isfinite(observation).all()
    assert flags == [False] * (horizon - 1) + [True] * 6


@pytest.mark.parametrize("name", TASKS)
def test_spaces_hold_what_comes_out(name):
    env = instance(name)
    observation, info = env.reset(seed=0)
    sizes = (35, 4) if name in METAWORLD else SIZES.get(name, (6, 2))
    assert (observation.size, env.action_space.shape[0]) == sizes
    assert observation in env.observation_space and observation.dtype == np.float32
    assert info == {"success": False}
    assert env.expert_action() in env.action_space


@pytest.mark.parametrize(
    ("make", "wrong", "right"),
    [
        (MetaWorldTask, "drawer-opem-v3", "drawer-open-v3"),
        (FetchTask, "FetchPusch-v4", "FetchPush-v4"),
        (PointMassTask, "PointMas-v0", "PointMass-v0"),
    ],
)
def test_an_unknown_source_id_is_answered_with_the_nearest(make, wrong, right):
    with pytest.raises(UserError, match=f"Did you mean '{right}'"):
        make(wrong)


def test_an_unknown_camera_is_answered_with_the_list():
    with pytest.raises(UserError, match="external_camera_0"):
        FetchTask("FetchReach-v4", camera="corner")


def test_every_card_has_a_suite_and_every_suite_a_card():
    ours = {card.suite for card in task_cards().values()}
    assert ours == set(SUITES)


def test_workers_get_tasks_without_torch_or_a_display():
    modules = ", ".join(point.split(":")[0] for point in SUITES.values())
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- Seeds decide ---


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_decides_the_episode_whatever_came_before(name):
    env, other = instance(name), instance(name, 1)
    expected = trajectory(env, seed=7, steps=40)
    success_rate(other, episodes=2, noise=0.3, horizon=30)
    trajectory(env, seed=11, steps=25)
    np.testing.assert_array_equal(trajectory(env, seed=7, steps=40), expected)
    np.testing.assert_array_equal(trajectory(other, seed=7, steps=40), expected)


@pytest.mark.parametrize("name", TASKS)
def test_goals_are_visible_and_without_limit(name):
    env, size = instance(name), 2 if name == "pointmass" else 3
    starts, goals = [], []
    for seed in range(60):
        start, _ = env.reset(seed=seed)
        moved, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
        starts.append(start)
        goals.append(start[-size:])
        assert goals[-1].any()
        np.testing.assert_array_equal(moved[-size:], goals[-1])
    assert len(np.unique(goals, axis=0)) == (1 if name in ONE_GOAL else 60)  # Meta-World has 50
    assert len(np.unique(np.array(starts)[:, 4:], axis=0)) == 60  # objects and goal


@pytest.mark.parametrize("name", METAWORLD)
def test_the_hand_starts_anywhere(name):
    env = instance(name)
    hands = np.stack([env.reset(seed=seed)[0][:3] for seed in range(20)])  # (20, 3) metres
    assert len(np.unique(hands, axis=0)) == 20
    assert np.ptp(hands, axis=0).min() > 0.1


# --- States are exact ---


@pytest.mark.parametrize("name", TASKS)
def test_a_restored_state_replays_in_another_instance(name):
    env, other = instance(name), instance(name, 1)
    horizon = load_task(name).horizon_steps
    success_rate(other, episodes=1, noise=0.3, horizon=20)  # some other history
    sizes = set()
    for seed, start in ((21, 0), (22, 12), (23, horizon - 8)):
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        for _ in range(start):
            observation, *_ = env.step(noisy_action(env, rng, 0.3))
        state, expert = env.get_state(), env.expert_action()
        kept = state.copy()
        recorded = []
        for _ in range(20):
            action = noisy_action(env, rng, 0.3)
            recorded.append((action, *env.step(action)))
        for copy in (other, env):
            np.testing.assert_array_equal(copy.set_state(state), observation)
            np.testing.assert_array_equal(copy.get_state(), state)
            np.testing.assert_array_equal(copy.expert_action(), expert)
            for action, later, reward, terminated, truncated, info in recorded:
                again = copy.step(action)
                np.testing.assert_allclose(again[0], later, rtol=0, atol=1e-6)
                assert again[1] == pytest.approx(reward, rel=0, abs=1e-9)
                assert again[2:] == (terminated, truncated, info)
        np.testing.assert_array_equal(state, kept)
        assert state.dtype == np.float64
        sizes.add(state.shape)
    assert len(sizes) == 1


@pytest.mark.parametrize("name", [*FETCH, "pointmass"])
def test_the_expert_has_no_memory(name):
    env, other = instance(name), instance(name, 1)
    env.reset(seed=5)
    for _ in range(15):
        env.step(env.expert_action())
        other.set_state(env.get_state())
        np.testing.assert_array_equal(other.expert_action(), env.expert_action())


@pytest.mark.skipif("MUJOCO_GL" not in os.environ, reason="set MUJOCO_GL=egl to render")
@pytest.mark.parametrize("name", ["drawer-open", "fetch-push"])
def test_rendering_leaves_the_physics_alone(name):
    env = make_task(load_task(name), render_mode="rgb_array")
    expected = trajectory(env, seed=2, steps=12)
    env.reset(seed=2)
    rng = np.random.default_rng(2)
    for row in expected[1:]:
        image = env.render()
        observation, *_ = env.step(rng.uniform(-1.0, 1.0, 4).astype(np.float32))
        np.testing.assert_array_equal(observation, row[:-1])
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.std() > 10
    env.close()


def test_the_point_mass_is_drawn():
    env = make_task(load_task("pointmass"), render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    for _ in range(10):
        env.step(env.expert_action())
    assert before.shape == (128, 128, 3) and before.dtype == np.uint8
    assert (env.render() != before).any()


# --- The vectorised look-ups equal Meta-World's own ---


@pytest.mark.parametrize("name", METAWORLD)
def test_look_ups_equal_meta_worlds(name):
    env = instance(name)
    simulator = env._simulator
    original, touched = type(simulator), 0
    for seed, noise in ((1, None), (2, 0.0), (3, 0.3)):
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(100):
            random = rng.uniform(-1.0, 1.0, 4).astype(np.float32)
            env.step(random if noise is None else noisy_action(env, rng, noise))
            np.testing.assert_array_equal(
                simulator._get_curr_obs_combined_no_goal(),
                original._get_curr_obs_combined_no_goal(simulator),
            )
            contact = simulator.data.contact
            for geom in np.unique([*contact.geom1, *contact.geom2]):
                expected = bool(original.touching_object(simulator, geom))
                assert simulator.touching_object(geom) == expected
                touched += expected
    assert touched > 0 or name not in ("bin-picking", "pick-place-wall")


# --- Experts succeed ---


@pytest.mark.parametrize("name", [*FETCH, "pointmass"])
def test_our_experts_succeed(name):
    assert success_rate(instance(name), episodes=100) >= (1.0 if name == "pointmass" else 0.95)


@pytest.mark.parametrize("name", [*FETCH, "pointmass"])
def test_our_experts_recover_from_noise(name):
    assert success_rate(instance(name), episodes=50, noise=0.3) >= 0.9


@pytest.mark.parametrize("name", PAPER)
def test_meta_worlds_experts_succeed(name):
    assert success_rate(instance(name), episodes=5, horizon=250) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_meta_worlds_experts_succeed_nearly_always(name):
    # door-open's was written for a high start and shoves the handle when the hand starts low
    least = 0.7 if name == "door-open" else 0.95
    assert success_rate(instance(name), episodes=100, horizon=250) >= least


@pytest.mark.slow
@pytest.mark.parametrize("name", FETCH)
def test_our_experts_recover_from_strong_noise_nearly_always(name):
    assert success_rate(instance(name), episodes=300, noise=0.3) >= 0.95


def test_bin_pickings_reward_is_restored_with_what_it_remembers() -> None:
    """Its reward keeps a number from the first step on, which physics alone doesn't hold."""
    recording, other = (make_task(load_task("bin-picking")) for _ in range(2))
    recording.reset(seed=0)
    states, actions, rewards = [recording.get_state()], [], []
    for _ in range(130):
        actions.append(recording.expert_action())
        rewards.append(recording.step(actions[-1])[1])
        states.append(recording.get_state())
    other.reset(seed=1)
    other.step(other.expert_action())
    for start in (0, 1, 60, 100, 120):
        other.set_state(states[start])
        replayed = [other.step(action)[1] for action in actions[start : start + 10]]
        np.testing.assert_allclose(replayed, rewards[start : start + 10], atol=1e-9)
