"""Any Gymnasium environment as a task: by its registered id, or as `module:Class`.

Observations are flattened to float32, actions are rescaled to [−1, 1], success is `info["success"]`
or `info["is_success"]`, and the step limit is the card's. An environment that has `get_state` and
`set_state` can be forked, one that has `expert_action` has an expert: regret labels want both.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatten, flatten_space

from cpl_bench.core import plugins
from cpl_bench.core.errors import UserError

SUCCESS_KEYS = ("success", "is_success")
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
        render_mode: str | None = None,
    ):
        self.horizon_steps, self.render_mode = horizon_steps, render_mode
        self._env = _make(source_id, horizon_steps, camera, render_mode)
        self._source_id, self._steps = source_id, 0
        self._own_space, actions = self._env.observation_space, self._env.action_space
        flat = flatten_space(self._own_space)
        bounded = isinstance(actions, Box) and actions.is_bounded() and len(actions.shape) == 1
        if not isinstance(flat, Box) or not bounded:
            raise UserError(
                f"{source_id} cannot be a task: expected observations that flatten to numbers and "
                f"a bounded one-dimensional Box of actions, got {self._own_space} and {actions}."
            )
        assert isinstance(actions, Box)
        low, high = actions.low.astype(np.float64), actions.high.astype(np.float64)
        self._centre, self._reach = (low + high) / 2, (high - low) / 2
        self.observation_space = Box(-np.inf, np.inf, flat.shape, np.float32)
        self.action_space = Box(-1.0, 1.0, actions.shape, np.float32)
        inner: Any = self._env.unwrapped
        if hasattr(inner, "get_state") and hasattr(inner, "set_state"):
            self.get_state, self.set_state = self._get_state, self._set_state
        if hasattr(inner, "expert_action"):
            self.expert_action = self._expert_action

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides."""
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
            float(reward),
            bool(ended),
            cut,
            {"success": _succeeded(info), "has_success": any(key in info for key in SUCCESS_KEYS)},
        )

    def render(self) -> Any:
        """An RGB image, (height, width, 3) uint8."""
        return self._env.render()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _kept(self, method: str, count: int, result: Any) -> tuple[Any, ...]:
        """What a method gave, if it keeps Gymnasium's API."""
        if not isinstance(result, tuple) or len(result) != count:
            raise UserError(
                f"{self._source_id}.{method} must keep Gymnasium's API and give {count} values "
                f"({RESULTS[method]}); got {result!r:.200}."
            )
        return result

    def _flat(self, observation: Any) -> np.ndarray:
        flat = np.asarray(flatten(self._own_space, observation), np.float32)
        if flat.shape != self.observation_space.shape or not np.isfinite(flat).all():
            raise UserError(
                f"{self._source_id} must give finite observations of {self._own_space}; got "
                f"{observation!r:.200}."
            )
        return flat

    # --- Offered where the environment itself offers them ---

    def _get_state(self) -> np.ndarray:
        inner: Any = self._env.unwrapped
        return np.append(np.asarray(inner.get_state(), np.float64), self._steps)

    def _set_state(self, state: np.ndarray) -> np.ndarray:
        inner: Any = self._env.unwrapped
        self._steps = int(state[-1])
        return self._flat(inner.set_state(state[:-1]))

    def _expert_action(self) -> np.ndarray:
        inner: Any = self._env.unwrapped
        own = (np.asarray(inner.expert_action(), np.float64) - self._centre) / self._reach
        return np.clip(own, -1.0, 1.0).astype(np.float32)


def _make(source_id: str, horizon_steps: int, camera: str, render_mode: str | None) -> Any:
    options: dict[str, Any] = {"camera_name": camera} if camera else {}
    if render_mode:  # a class that cannot render need not know of it
        options["render_mode"] = render_mode
    limits: dict[str, Any] = {"max_episode_steps": horizon_steps, "disable_env_checker": True}
    try:
        if is_class(source_id):
            env = plugins.load("environment", source_id)(**options)
        else:
            env = gymnasium.make(source_id, **limits, **options)
        env.reset(seed=0)  # Gymnasium's wrappers want it before anything else, a forked state too
    except UserError:
        raise
    except Exception as problem:
        about = f"{type(problem).__name__}: {problem}"
        raise UserError(f"{source_id} cannot be made and reset with a seed: {about}") from None
    return env


def is_class(source_id: str) -> bool:
    """Whether `module:Class` is meant, and not Gymnasium's `module:id-v0`."""
    module, colon, name = source_id.partition(":")
    return bool(colon) and name.isidentifier() and bool(module)


def _succeeded(info: dict[str, Any]) -> bool:
    return any(bool(info.get(key, False)) for key in SUCCESS_KEYS)
