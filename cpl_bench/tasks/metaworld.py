"""Meta-World's tasks as the CPL paper sets them up (arXiv 2310.13639, appendix D).

Goals are random without limit and visible, the hand starts at a random place, observations have
35 dimensions (the previous frame's hand and gripper are dropped), rewards are divided by 10.

Deviations from Meta-World itself: `reset(seed=)` decides the whole episode, whatever was simulated
before (Meta-World ignores it); observations and rewards are rounded (`cpl_bench.tasks.alike`);
door-open's expert goes over the handle where Meta-World's would shove it (77 % success with random
hands). What is random in a task is Meta-World's choice: in sweep-into and bin-picking the object's
place, not the goal's. `cpl_bench.tasks.sawyer` makes its simulators quicker and changes no number.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo ships no stubs for its bindings.)

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import metaworld  # noqa: F401  (its env_dict cannot be imported first)
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from cpl_bench.core.errors import unknown_name
from cpl_bench.tasks.alike import paid, seen
from cpl_bench.tasks.sawyer import quick

HAND_RANGE = np.array([0.25, 0.15, 0.2])  # metres
SETTLE_STEPS = 50
REWARD_SCALE = 0.1
LIFT_ABOVE_HANDLE = 0.16  # metres
STATE_KIND = int(  # mjSTATE_INTEGRATION without the applied forces, which stay zero
    mujoco.mjtState.mjSTATE_FULLPHYSICS
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
    | mujoco.mjtState.mjSTATE_MOCAP_POS
    | mujoco.mjtState.mjSTATE_MOCAP_QUAT
)

warnings.filterwarnings("ignore", message="Constant", module=r"metaworld\.policies")


class MetaWorldTask(gymnasium.Env):
    """One Meta-World task; see `cpl_bench.tasks.protocol` for what it offers beyond Gymnasium."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        source_id: str,
        horizon_steps: int = 250,
        camera: str = "corner2",
        render_mode: str | None = None,
    ):
        if source_id not in ALL_V3_ENVIRONMENTS:
            raise unknown_name("Meta-World task", source_id, ALL_V3_ENVIRONMENTS)
        self.horizon_steps = horizon_steps
        self.render_mode = render_mode
        self._source_id = source_id
        self._camera = camera
        self._simulator = _make_simulator(source_id, camera, render_mode)
        self._expert = ENV_POLICY_MAP[source_id]()
        self._state_size = mujoco.mj_stateSize(self._simulator.model, STATE_KIND)
        self._steps = 0
        self._full_observation = np.zeros(39)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (35,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides, whatever was simulated before."""
        super().reset(seed=seed)
        simulator = self._simulator
        simulator._freeze_rand_vec = False
        simulator._np_random = self.np_random
        self._place_bodies()  # and draws the goal
        self._place_hand(simulator.hand_init_pos + self.np_random.uniform(-HAND_RANGE, HAND_RANGE))
        simulator._get_obs()  # fills the previous frame
        self._full_observation = simulator._get_obs()
        self._steps = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step of 12.5 ms; `truncated` at the horizon, never `terminated`."""
        action = np.minimum(np.maximum(action, -1.0), 1.0)
        self._full_observation, reward, _, _, info = self._simulator.step(action)
        self._steps += 1
        truncated = self._steps >= self.horizon_steps
        success = {"success": bool(info["success"])}
        return self._observation(), paid(REWARD_SCALE * float(reward)), False, truncated, success

    def get_state(self) -> np.ndarray:
        """Physics, goal, both frames and the step count, (d,) float64."""
        simulator = self._simulator
        physics = np.empty(self._state_size)
        mujoco.mj_getState(simulator.model, simulator.data, physics, STATE_KIND)
        own = [self._full_observation, [self._steps], self._reward_memory()]
        return np.concatenate([physics, *own, simulator._last_rand_vec])

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Take up a state of this or another instance; returns its observation."""
        sizes = [self._state_size, 39, 1, len(self._reward_memory())]
        physics, full, steps, memory, goal = np.split(np.asarray(state, float), np.cumsum(sizes))
        simulator = self._simulator
        if simulator._last_rand_vec is None or not np.array_equal(goal, simulator._last_rand_vec):
            simulator._freeze_rand_vec, simulator._last_rand_vec = True, goal
            self._place_bodies()
        if memory.size:
            self._simulator._target_to_obj_init = float(memory[0]) or None
        mujoco.mj_setState(simulator.model, simulator.data, physics, STATE_KIND)
        mujoco.mj_forward(simulator.model, simulator.data)  # moves the warm start,
        mujoco.mj_setState(simulator.model, simulator.data, physics, STATE_KIND)  # put back here
        simulator._prev_obs = full[:18].copy()
        self._full_observation, self._steps = full.copy(), int(steps[0])
        return self._observation()

    def expert_action(self) -> np.ndarray:
        """Meta-World's scripted policy here, clipped, (4,) float32; door-open's takes a detour."""
        observation = self._full_observation.copy()  # some policies write into it
        if self._source_id == "door-open-v3":
            detour = _round_the_handle(observation)
            if detour is not None:
                return detour
        return np.clip(self._expert.get_action(observation), -1.0, 1.0).astype(np.float32)

    def render(self) -> np.ndarray:
        """An RGB image, (height, width, 3) uint8."""
        image = self._simulator.render()
        return image[::-1, ::-1] if self._camera == "corner2" else image  # it hangs upside down

    def close(self) -> None:
        """Free the simulator."""
        self._simulator.close()

    def _observation(self) -> np.ndarray:
        full = self._full_observation
        return seen(np.concatenate([full[:18], full[22:]]))

    def _reward_memory(self) -> list[float]:
        """What bin-picking's reward keeps from the first step on; 0 until then."""
        if not hasattr(self._simulator, "_target_to_obj_init"):
            return []
        return [self._simulator._target_to_obj_init or 0.0]

    def _place_bodies(self) -> None:
        """Reset twice, then from a clean state among placed bodies: nothing of the past remains."""
        simulator = self._simulator
        simulator.simulating = False
        try:
            simulator.reset_model()
        finally:
            simulator.simulating = True
        simulator._freeze_rand_vec = True
        mujoco.mj_resetData(simulator.model, simulator.data)
        simulator.reset_model()
        simulator.curr_path_length = 0

    def _place_hand(self, position: np.ndarray) -> None:
        simulator = self._simulator
        target = np.clip(position, simulator.mocap_low, simulator.mocap_high)
        for _ in range(SETTLE_STEPS):
            simulator.data.mocap_pos[0] = target
            simulator.data.mocap_quat[0] = [1, 0, 1, 0]
            simulator.do_simulation([-1, 1], simulator.frame_skip)


def _round_the_handle(observation: np.ndarray) -> np.ndarray | None:
    """Door-open: a way over the handle for a hand that would shove it or is stuck beside it."""
    hand_from_handle = observation[:3] - observation[4:7]
    far = np.linalg.norm(hand_from_handle[:2] + np.array([0.05, 0.0])) > 0.12
    wrong_side = hand_from_handle[0] < -0.03
    if not (far or wrong_side):
        return None
    if hand_from_handle[2] < LIFT_ABOVE_HANDLE:
        return np.array([0.0, 0.0, 1.0, 1.0], np.float32)
    if wrong_side:
        across = np.clip(10.0 * ([0.03, 0.02] - hand_from_handle[:2]), -1.0, 1.0)
        return np.array([*across, 0.2, 1.0], np.float32)
    return None


def _make_simulator(source_id: str, camera: str, render_mode: str | None) -> Any:
    """Meta-World's own object with unlimited, visible, seedable goals and no step limit."""
    options: dict[str, Any] = {}
    if render_mode:
        options = {"render_mode": render_mode, "camera_name": camera}
    simulator: Any = quick(source_id)(**options)
    simulator._freeze_rand_vec = False
    simulator._partially_observable = False
    simulator._set_task_called = True
    simulator.seeded_rand_vec = True
    simulator.max_path_length = 2**62
    simulator.__dict__.pop("sawyer_observation_space", None)  # cached with a hidden goal
    return simulator
