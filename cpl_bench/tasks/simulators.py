"""Environments of Gymnasium and gymnasium-robotics whose state is kept, and taken up, exactly.

What decides how an episode goes on is MuJoCo's own state and whatever else an environment remembers
from one step to the next. That differs, and can't be seen from outside: a place that lags a substep
behind the physics, a goal, bodies that a reset moves, a generator that a step draws from. So it is
listed here for each class; an environment that isn't listed has no state (a subclass neither).
"""

# MuJoCo has no type stubs:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

STATE_KIND = int(  # mjSTATE_INTEGRATION without the applied forces, which stay zero
    mujoco.mjtState.mjSTATE_FULLPHYSICS
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
    | mujoco.mjtState.mjSTATE_MOCAP_POS
    | mujoco.mjtState.mjSTATE_MOCAP_QUAT
)
ROBOTICS = "gymnasium_robotics:"
"""What its ids begin with on a card."""
WORD = 2**32
"""A float64 holds any whole number below exactly."""
WORDS = 10
"""Numbers in the state of a generator."""


@dataclass(frozen=True)
class Memory:
    """What an environment remembers beyond MuJoCo's state."""

    arrays: Callable[[Any], list[np.ndarray]] = lambda env: []
    """Those that are written in place."""
    read: Callable[[Any], list[float]] = lambda env: []
    """Other numbers, always as many…"""
    write: Callable[[Any, list[float]], None] = lambda env, numbers: None
    """…and how they are taken up."""


class Simulator:
    """The state of one environment: MuJoCo's, then its memory."""

    def __init__(self, env: Any, memory: Memory):
        self._env, self._memory = env, memory
        self._size = mujoco.mj_stateSize(env.model, STATE_KIND)

    def get_state(self) -> np.ndarray:
        """(d,) float64"""
        physics = np.empty(self._size)
        mujoco.mj_getState(self._env.model, self._env.data, physics, STATE_KIND)
        arrays = [array.ravel() for array in self._memory.arrays(self._env)]
        return np.concatenate([physics, *arrays, self._memory.read(self._env)])

    def set_state(self, state: np.ndarray) -> None:
        """Take up a state of this or another instance, for going on and for rendering."""
        model, data = self._env.model, self._env.data
        physics, memory = state[: self._size], state[self._size :]
        self._remember(memory)
        mujoco.mj_setState(model, data, physics, STATE_KIND)
        mujoco.mj_forward(model, data)  # moves the warm start,
        mujoco.mj_setState(model, data, physics, STATE_KIND)  # put back here,
        self._remember(memory)  # and places that lag behind

    def _remember(self, memory: np.ndarray) -> None:
        for array in self._memory.arrays(self._env):
            array[...] = memory[: array.size].reshape(array.shape)
            memory = memory[array.size :]
        self._memory.write(self._env, memory.tolist())


def simulator_of(env: Any) -> Simulator | None:
    """How the state of a bare environment is kept; None if it isn't one of MEMORIES."""
    name = f"{type(env).__module__}:{type(env).__name__}"
    return Simulator(env, MEMORIES[name]) if name in MEMORIES else None


def import_robotics() -> None:
    """gymnasium-robotics, without the notice that it prints at every import."""
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics  # noqa: F401


def tidy_up(env: Any) -> None:
    """Remove the model's file that each maze leaves in the temporary folder."""
    if hasattr(env, "tmp_xml_file_path"):
        Path(env.tmp_xml_file_path).unlink(missing_ok=True)


# --- What they remember ---


def _torso(env: Any) -> list[np.ndarray]:
    """Ant's velocity is measured between places that are each a substep behind the physics."""
    return [env.data.body(env._main_body).xpos]


def _door(env: Any) -> list[np.ndarray]:
    return [env.model.body_pos[env.door_body_id]]


def _nail(env: Any) -> list[np.ndarray]:
    return [env.model.body_pos[env.target_body_id]]


def _pen(env: Any) -> list[np.ndarray]:
    return [env.model.body_quat[env.target_obj_body_id]]


def _pen_lengths(env: Any) -> list[float]:
    return [float(env.pen_length), float(env.tar_length)]


def _set_pen_lengths(env: Any, numbers: list[float]) -> None:
    env.pen_length, env.tar_length = map(np.float64, numbers)


def _ball(env: Any) -> list[np.ndarray]:
    return [env.model.body_pos[env.obj_body_id], env.model.site_pos[env.target_obj_site_id]]


def _goal(env: Any) -> list[np.ndarray]:
    return [env.goal, env.model.site_pos[env.target_site_id]]


def _dice(env: Any) -> list[float]:
    """PCG64's state, in words of 32 bits."""
    state = env.np_random.bit_generator.state
    whole = (state["state"]["state"], state["state"]["inc"])
    words = [float(each // WORD**i % WORD) for each in whole for i in range(4)]
    return [*words, float(state["has_uint32"]), float(state["uinteger"])]


def _set_dice(env: Any, words: list[float]) -> None:
    whole = [sum(int(words[4 * k + i]) * WORD**i for i in range(4)) for k in range(2)]
    env.np_random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": whole[0], "inc": whole[1]},
        "has_uint32": int(words[8]),
        "uinteger": int(words[9]),
    }


def _joints_as_seen(env: Any) -> list[np.ndarray]:
    """Kitchen's actions move the joints from where they were seen, with noise, the step before."""
    return [env.robot_env._last_robot_qpos]


def _progress(env: Any) -> list[float]:
    """The noise's generator; then for each task whether it is left, and whether it was done."""
    left = [float(task in env.tasks_to_complete) for task in env.goal]
    done = [float(task in env.episode_task_completions) for task in env.goal]
    return [*_dice(env.robot_env), *left, *done]


def _set_progress(env: Any, numbers: list[float]) -> None:
    _set_dice(env.robot_env, numbers[:WORDS])
    left, done = np.array(numbers[WORDS:], bool).reshape(2, -1)
    tasks = list(env.goal)
    env.tasks_to_complete = {task for task, is_so in zip(tasks, left, strict=True) if is_so}
    env.episode_task_completions[:] = [t for t, is_so in zip(tasks, done, strict=True) if is_so]


MEMORIES = {
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": Memory(),
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": Memory(),
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": Memory(),
    "gymnasium.envs.mujoco.ant_v5:AntEnv": Memory(_torso),
    "gymnasium_robotics.envs.adroit_hand.adroit_door:AdroitHandDoorEnv": Memory(_door),
    "gymnasium_robotics.envs.adroit_hand.adroit_hammer:AdroitHandHammerEnv": Memory(_nail),
    "gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv": Memory(
        _pen, _pen_lengths, _set_pen_lengths
    ),
    "gymnasium_robotics.envs.adroit_hand.adroit_relocate:AdroitHandRelocateEnv": Memory(_ball),
    "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv": Memory(_goal, _dice, _set_dice),
    "gymnasium_robotics.envs.franka_kitchen.kitchen_env:KitchenEnv": Memory(
        _joints_as_seen, _progress, _set_progress
    ),
}
"""By module and name of the class."""
