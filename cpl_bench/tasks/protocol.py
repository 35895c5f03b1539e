"""What an environment must offer, by what is to be done with it."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np


class Task(Protocol):
    """What every environment of ours offers. `info["success"]` (bool) is instantaneous."""

    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.spaces.Box

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides, whatever was simulated before."""
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step; truncated at the horizon, which is no barrier to stepping on."""
        ...

    def get_state(self) -> np.ndarray:
        """The exact simulator state, (d,) float64; d is the same for every episode of a task."""
        ...

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Take up a state of this or another instance; returns its observation."""
        ...

    def expert_action(self) -> np.ndarray:
        """The scripted expert's action here, (a,) float32 within the action space."""
        ...

    def render(self) -> Any:
        """An RGB image, (height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...
