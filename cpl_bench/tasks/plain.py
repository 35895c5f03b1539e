"""Any Gymnasium environment as a task: by its registered id, or as `module:Class`.

Observations are flattened (`cpl_bench.tasks.flat`) to float32, actions are rescaled to [−1, 1], and
the step limit is the card's. Success is `info["success"]` or `info["is_success"]`, or that of tasks
to complete none is left. The simulators of `cpl_bench.tasks.simulators` can be forked, and so can
an environment that has `get_state` and `set_state`; one that has `expert_action` has an expert.

The observations and rewards of those simulators are rounded (`cpl_bench.tasks.alike`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from cpl_bench.core import plugins
from cpl_bench.core.errors import UserError
from cpl_bench.tasks.alike import paid, seen
from cpl_bench.tasks.flat import flat, flat_space
from cpl_bench.tasks.simulators import ROBOTICS, import_robotics, simulator_of, tidy_up

SUCCESS_KEYS = ("success", "is_success")
TASKS_LEFT = "tasks_to_complete"
SAYING = (*SUCCESS_KEYS, TASKS_LEFT)
RESULTS = {
    "reset": "observation, info",
    "step": "observation, reward, terminated, truncated, info",
}


class PlainTask(gymnasium.Env):
    """A Gymnasium environment; see the module's header."""

    def __init__(
        self,
        source_id: str,
        horizon_steps: int,
        camera: str = "",
        kwargs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ):
        self.horizon_steps, self.render_mode = horizon_steps, render_mode
        self._env = _make(source_id, camera, kwargs or {}, render_mode)
        self._source_id, self._steps = source_id, 0
        self._own_space, actions = self._env.observation_space, self._env.action_space
        space = flat_space(self._own_space)
        bounded = isinstance(actions, Box) and actions.is_bounded() and len(actions.shape) == 1
        if not isinstance(space, Box) or not bounded:
            raise UserError(
                f"{source_id} cannot be a task: expected observations that flatten to numbers and "
                f"a bounded one-dimensional Box of actions, got {self._own_space} and {actions}."
            )
        assert isinstance(actions, Box)
        low, high = actions.low.astype(np.float64), actions.high.astype(np.float64)
        self._centre, self._reach = (low + high) / 2, (high - low) / 2
        self.observation_space = Box(-np.inf, np.inf, space.shape, np.float32)
        self.action_space = Box(-1.0, 1.0, actions.shape, np.float32)
        self._observation = np.zeros(space.shape, np.float32)
        inner: Any = self._env.unwrapped
        self._simulator = simulator_of(inner)
        if self._simulator:
            self.get_state, self.set_state = self._get_simulated, self._set_simulated
        elif hasattr(inner, "get_state") and hasattr(inner, "set_state"):
            self.get_state, self.set_state = self._get_state, self._set_state
        if hasattr(inner, "expert_action"):
            self.expert_action = self._expert_action

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides."""
        super().reset(seed=seed)
        observation, info = self._kept("reset", 2, self._env.reset(seed=seed, options=options))
        self._steps = 0
        return self._flat(observation), {"success": _succeeded(info)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; `truncated` at the card's horizon, or where the environment says so."""
        own = self._centre + self._reach * np.clip(action, -1.0, 1.0)
        space: Any = self._env.action_space
        result = self._env.step(own.astype(space.dtype))
        observation, reward, ended, cut, info = self._kept("step", 5, result)
        self._steps += 1
        cut = bool(cut) or self._steps >= self.horizon_steps
        return (
            self._flat(observation),
            paid(float(reward)) if self._simulator else float(reward),
            bool(ended),
            cut,
            {"success": _succeeded(info), "has_success": any(key in info for key in SAYING)},
        )

    def render(self) -> Any:
        """An RGB image, (height, width, 3) uint8."""
        return self._env.render()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    @property
    def own_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """(centre, reach), (a,) each, of the actions that the environment itself takes."""
        return self._centre, self._reach

    def _kept(self, method: str, count: int, result: Any) -> tuple[Any, ...]:
        """What a method gave, if it keeps Gymnasium's API."""
        if not isinstance(result, tuple) or len(result) != count:
            raise UserError(
                f"{self._source_id}.{method} must keep Gymnasium's API and give {count} values "
                f"({RESULTS[method]}); got {result!r:.200}."
            )
        return result

    def _flat(self, observation: Any) -> np.ndarray:
        row = flat(self._own_space, observation)
        row = seen(row) if self._simulator else np.asarray(row, np.float32)
        if row.shape != self.observation_space.shape or not np.isfinite(row).all():
            raise UserError(
                f"{self._source_id} must give finite observations of {self._own_space}; got "
                f"{observation!r:.200}."
            )
        self._observation = row
        return row

    # --- Offered where the environment itself offers them ---

    def _get_state(self) -> np.ndarray:
        inner: Any = self._env.unwrapped
        return np.append(np.asarray(inner.get_state(), np.float64), self._steps)

    def _set_state(self, state: np.ndarray) -> np.ndarray:
        inner: Any = self._env.unwrapped
        self._steps = int(state[-1])
        return self._flat(inner.set_state(state[:-1]))

    def _get_simulated(self) -> np.ndarray:
        """Physics, the environment's memory, the observation and the step count, (d,) float64."""
        assert self._simulator is not None
        return np.concatenate([self._simulator.get_state(), self._observation, [self._steps]])

    def _set_simulated(self, state: np.ndarray) -> np.ndarray:
        assert self._simulator is not None
        size = self._observation.size
        self._simulator.set_state(np.asarray(state[: -size - 1], np.float64))
        self._observation, self._steps = state[-size - 1 : -1].astype(np.float32), int(state[-1])
        return self._observation

    def _expert_action(self) -> np.ndarray:
        inner: Any = self._env.unwrapped
        own = (np.asarray(inner.expert_action(), np.float64) - self._centre) / self._reach
        return np.clip(own, -1.0, 1.0).astype(np.float32)


def _make(
    source_id: str, camera: str, kwargs: Mapping[str, Any], render_mode: str | None
) -> gymnasium.Env[Any, Any]:
    """The environment, without a step limit: that is counted here."""
    options: dict[str, Any] = {**kwargs, **({"camera_name": camera} if camera else {})}
    if render_mode:  # a class that cannot render need not know of it
        options["render_mode"] = render_mode
    if source_id.startswith(ROBOTICS):
        import_robotics()
    try:
        if is_class(source_id):
            env = plugins.load("environment", source_id)(**options)
        else:
            env = gymnasium.make(
                source_id, max_episode_steps=-1, disable_env_checker=True, **options
            )
        env.reset(seed=0)  # Gymnasium's wrappers want it before anything else, a forked state too
    except UserError:
        raise
    except Exception as problem:
        about = f"{type(problem).__name__}: {problem}"
        raise UserError(f"{source_id} cannot be made and reset with a seed: {about}") from None
    tidy_up(env.unwrapped)
    return env


def is_class(source_id: str) -> bool:
    """Whether `module:Class` is meant, and not Gymnasium's `module:id-v0`."""
    module, colon, name = source_id.partition(":")
    return bool(colon) and name.isidentifier() and bool(module)


def _succeeded(info: dict[str, Any]) -> bool:
    return any(bool(info.get(key, False)) for key in SUCCESS_KEYS) or info.get(TASKS_LEFT) == []
