"""The words everybody speaks: what algorithms take, give and promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

Metrics = dict[str, Tensor]
"""Plain-named detached tensors of shape (s,), one value a member."""


@dataclass(frozen=True)
class PreferenceBatch:
    """m segments of k steps for each of s members, and c comparisons among them.

    A segment is scored once; comparisons are pairs of positions. Paired labels, all pairs of a
    batch, ranked answers and soft labels are all this one type.
    """

    step: Int[Tensor, ""]
    """The training step that drew it: the counter of everything random in an update."""
    observations: Float[Tensor, "s m k o"]
    actions: Float[Tensor, "s m k a"]
    first: Int[Tensor, "s c"]
    """Positions among the m segments."""
    second: Int[Tensor, "s c"]
    prefers_second: Float[Tensor, "s c"]
    """1: the second is better, 0: the first, 0.5: a tie, anything between: a soft label."""


class Phase(NamedTuple):
    """A stretch of training with one update rule."""

    name: str
    steps: int
    update: Callable[[PreferenceBatch], Metrics]


class Algorithm(Protocol):
    """What the loop needs of a method. s members train side by side on the leading axis."""

    def phases(self, total_steps: int) -> list[Phase]:
        """The method's table of contents; the steps add up to `total_steps`."""
        ...

    def act(self, observations: Float[Tensor, "s b o"]) -> Float[Tensor, "s b a"]:
        """The deterministic action."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """What a rollout worker needs, members on the leading axis."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything a resume needs, optimiser included."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state()` was taken."""
        ...
