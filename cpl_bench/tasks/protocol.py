"""What an environment must offer, by what is to be done with it.

Rolling a policy out takes a `Task`, which any Gymnasium environment is; regret labels fork it
(`Forkable`) and roll an expert from there (`Scripted`), whom `collect` clones, too.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

import gymnasium
import numpy as np


class Task(Protocol):
    """What every environment offers. `info["success"]` (bool), if it is there, is instantaneous."""

    observation_space: gymnasium.spaces.Box
    """Flat: (o,)."""
    action_space: gymnasium.spaces.Box
    """(a,), within [−1, 1]."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `seed` decides, whatever was simulated before."""
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step; truncated at the horizon, which is no barrier to stepping on."""
        ...

    def render(self) -> Any:
        """An RGB image, (height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Free the simulator."""
        ...


class Forkable(Task, Protocol):
    """A task whose state can be kept, and taken up by another instance."""

    def get_state(self) -> np.ndarray:
        """The exact simulator state, (d,) float64; d is the same for every episode of a task."""
        ...

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Take up a state of this or another instance; returns its observation."""
        ...


class Scripted(Task, Protocol):
    """A task that has an expert."""

    def expert_action(self) -> np.ndarray:
        """The scripted expert's action here, (a,) float32 within the action space."""
        ...


def can_fork(task: Task) -> TypeGuard[Forkable]:
    """Whether its state can be kept and taken up."""
    return hasattr(task, "get_state") and hasattr(task, "set_state")


def has_expert(task: Task) -> TypeGuard[Scripted]:
    """Whether there is somebody to imitate."""
    return hasattr(task, "expert_action")
