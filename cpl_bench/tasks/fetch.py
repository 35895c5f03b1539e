"""Three Fetch tasks of gymnasium-robotics: reach, push, pick-and-place, with scripted experts.

The goal is part of the observation, the reward is dense (minus the distance to the goal in metres).
The achieved goal is the gripper's or the object's position, which the observation holds already.

Deviations from gymnasium-robotics itself: observations are flat and float32, they and the rewards
are rounded (`cpl_bench.tasks.alike`), `reset(seed=)` alone decides the episode, rendering leaves
the physics untouched, and only the two finger joints that the observation shows are looked up,
which is a fifth faster.
"""

# MuJoCo has no type stubs:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np

from cpl_bench.core.errors import unknown_name
from cpl_bench.tasks.alike import paid, seen

with contextlib.redirect_stderr(io.StringIO()):  # a notice about other tasks, at every import
    from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv
    from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv
    from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

SIMULATORS: dict[str, Callable[..., Any]] = {
    "FetchReach-v4": MujocoFetchReachEnv,
    "FetchPush-v4": MujocoFetchPushEnv,
    "FetchPickAndPlace-v4": MujocoFetchPickAndPlaceEnv,
}
STATE_KIND = int(  # mjSTATE_INTEGRATION without the applied forces, which stay zero
    mujoco.mjtState.mjSTATE_FULLPHYSICS
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
    | mujoco.mjtState.mjSTATE_MOCAP_POS
    | mujoco.mjtState.mjSTATE_MOCAP_QUAT
)
GAIN = 20.0  # action per metre: one unit commands 0.05 m


class FetchTask(gymnasium.Env):
    """One Fetch task; see `cpl_bench.tasks.protocol` for what it offers beyond Gymnasium."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self,
        source_id: str,
        horizon_steps: int = 50,
        camera: str = "",
        render_mode: str | None = None,
    ):
        if source_id not in SIMULATORS:
            raise unknown_name("Fetch task", source_id, SIMULATORS)
        self.horizon_steps = horizon_steps
        self.render_mode = render_mode
        self._simulator = _make_simulator(source_id, camera, render_mode)
        self._expert = EXPERTS[source_id]
        self._gripper = self._simulator.model.body("robot0:gripper_link").id
        self._state_size = mujoco.mj_stateSize(self._simulator.model, STATE_KIND)
        self._full_observation = _flat(self._simulator._get_obs(), np.zeros(3))
        self._steps = 0
        size = self._full_observation.size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides, whatever was simulated before."""
        super().reset(seed=seed)
        self._simulator._np_random = self.np_random
        observation, _ = self._simulator.reset()
        self._full_observation = _flat(observation, self._simulator.goal)
        self._steps = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 40 ms; `truncated` at the horizon, never `terminated`."""
        action = np.asarray(action, np.float64)
        observation, reward, _, _, info = self._simulator.step(action)
        self._full_observation = _flat(observation, self._simulator.goal)
        self._steps += 1
        truncated = self._steps >= self.horizon_steps
        success = {"success": bool(info["is_success"])}
        return self._observation(), paid(reward), False, truncated, success

    def get_state(self) -> np.ndarray:
        """Physics, observation with the goal, gripper pose and step count, (d,) float64."""
        model, data = self._simulator.model, self._simulator.data
        physics = np.empty(self._state_size)
        mujoco.mj_getState(model, data, physics, STATE_KIND)
        pose = [*data.xpos[self._gripper], *data.xquat[self._gripper]]  # a substep behind physics
        return np.concatenate([physics, self._full_observation, pose, [self._steps]])

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Take up a state of this or another instance; returns its observation."""
        size = self._state_size
        physics, full, position, quaternion, steps = np.split(
            np.asarray(state, np.float64), np.cumsum([size, self._full_observation.size, 3, 4])
        )
        model, data = self._simulator.model, self._simulator.data
        mujoco.mj_setState(model, data, physics, STATE_KIND)
        data.xpos[self._gripper], data.xquat[self._gripper] = position, quaternion
        self._simulator.goal = full[-3:].copy()
        self._full_observation, self._steps = full.copy(), int(steps[0])
        return self._observation()

    def expert_action(self) -> np.ndarray:
        """The scripted expert's action here, a function of the observation, (4,) float32."""
        return np.clip(self._expert(self._full_observation), -1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:
        """An RGB image, (height, width, 3) uint8."""
        state = self.get_state()
        image = self._simulator.render()  # moves the warm start
        self.set_state(state)
        return image

    def close(self) -> None:
        """Free the simulator."""
        self._simulator.close()

    def _observation(self) -> np.ndarray:
        return seen(self._full_observation)


def _make_simulator(source_id: str, camera: str, render_mode: str | None) -> Any:
    simulator = SIMULATORS[source_id](reward_type="dense", render_mode=render_mode)
    names = simulator._model_names
    names._joint_names = [name for name in names.joint_names if name.startswith("robot")][-2:]
    if camera:
        known = [simulator.model.camera(index).name for index in range(simulator.model.ncam)]
        if camera not in known:
            raise unknown_name(f"camera of {source_id}", camera, known)
        simulator.mujoco_renderer.camera_id = known.index(camera)
    return simulator


def _flat(observation: dict[str, np.ndarray], goal: np.ndarray) -> np.ndarray:
    return np.concatenate([observation["observation"], goal])


# --- Script the experts: full observation (o,) → action (4,), unclipped ---


def reach_expert(full: np.ndarray) -> np.ndarray:
    """Straight to the goal."""
    return np.append(GAIN * (full[-3:] - full[:3]), 0.0)


def push_expert(full: np.ndarray) -> np.ndarray:
    """Around the block to the side that faces away from the goal, then push."""
    gripper, block, goal = full[:3], full[3:6], full[-3:]
    to_goal = goal[:2] - block[:2]
    distance = float(np.linalg.norm(to_goal))
    lift = GAIN * (block[2] - gripper[2])
    if distance < 0.02:
        return np.array([0.0, 0.0, lift, 0.0])
    ahead = to_goal / distance
    across = np.array([-ahead[1], ahead[0]])
    offset = gripper[:2] - block[:2]
    along, aside = float(offset @ ahead), float(offset @ across)
    if along < -0.03 and abs(aside) < 0.02:
        speed = min(1.0, 10.0 * distance)
        return np.array([*(speed * ahead - GAIN * aside * across), lift, 0.0])
    behind = block[:2] - 0.08 * ahead
    return np.array([*(GAIN * (_around(gripper[:2], behind, block[:2]) - gripper[:2])), lift, 0.0])


def _around(here: np.ndarray, target: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The next waypoint (2,) on a way from `here` to `target` that keeps clear of `centre`."""
    leg = target - here
    nearest = here + np.clip((centre - here) @ leg / max(leg @ leg, 1e-9), 0.0, 1.0) * leg
    if np.linalg.norm(nearest - centre) > 0.06:
        return target
    start = np.arctan2(*(here - centre)[::-1])
    turn = np.arctan2(*(target - centre)[::-1]) - start
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    angle = start + np.clip(turn, -0.8, 0.8)
    return centre + 0.1 * np.array([np.cos(angle), np.sin(angle)])


def pick_expert(full: np.ndarray) -> np.ndarray:
    """Above the block with open fingers, down, close, carry it to the goal in an arc."""
    gripper, block, goal, fingers = full[:3], full[3:6], full[-3:], full[9:11]
    reach = block - gripper
    aside, height = float(np.linalg.norm(reach[:2])), abs(float(reach[2]))
    held = 0.03 < fingers.sum() < 0.056 and fingers.min() > 0.01  # the block is 0.05 m wide
    if held and aside < 0.03 and height < 0.02:
        way = goal - block
        way[2] += min(0.06, 0.5 * float(np.linalg.norm(way[:2])))
        return np.append(GAIN * way, -1.0)
    if aside < 0.02:
        return np.append(GAIN * reach, -1.0 if height < 0.02 else 1.0)
    if aside < 0.12 and reach[2] > -0.045:  # beside the block: opening or moving would shove it
        return np.array([0.0, 0.0, 1.0, 0.0])
    return np.append(GAIN * (reach + np.array([0.0, 0.0, 0.08])), 1.0)


EXPERTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "FetchReach-v4": reach_expert,
    "FetchPush-v4": push_expert,
    "FetchPickAndPlace-v4": pick_expert,
}
