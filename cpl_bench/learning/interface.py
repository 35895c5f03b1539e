"""The words everybody speaks: what algorithms take, give and promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
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
    rewards: Float[Tensor, "s m k"] | None = None
    """The environment's: for the methods that may see them, None where the data have none."""
    ranked: int = 0
    """K if segments iK … iK + K − 1 were ranked together and all their pairs are listed; else 0."""


@dataclass(frozen=True)
class Rollouts:
    """E whole episodes of T steps by each member's own stochastic policy.

    The tasks here never terminate: step T is a time limit, after which the next value counts.
    """

    observations: Float[Tensor, "s E T1 o"]
    """T1 = T + 1: the observation after the last step is there too."""
    actions: Float[Tensor, "s E T a"]
    """As drawn; the simulator was given them clipped to [−1, 1]."""
    rewards: Float[Tensor, "s E T"]
    """The environment's."""
    successes: Bool[Tensor, "s E"]
    """Whether the episode succeeded at any step."""


@dataclass(frozen=True)
class RolloutBatch:
    """What an on-policy update is fed."""

    step: Int[Tensor, ""]
    """The training step: the counter of everything random in an update."""
    fresh: Rollouts | None
    """New episodes, at the first of the updates that a collection serves."""
    offline: PreferenceBatch | None = None
    """Segments of the data, for methods that mix them in."""


Feed = Literal[
    "segments",
    "rewarded segments",
    "transitions",
    "rewarded transitions",
    "fitting",
    "best episodes",
    "rollouts",
]
"""What a phase is fed with.

segments: segments of all the data, with comparisons.
transitions: a step and the next one, drawn one by one from those segments.
rewarded segments, rewarded transitions: the same, with true rewards.
fitting: only those of the episodes that reward models are fitted to; the others are held out.
best episodes: transitions of the episodes with the highest returns, as segments of one step.
rollouts: the policy's own episodes."""


class Phase(NamedTuple):
    """A stretch of training with one update rule."""

    name: str
    steps: int
    update: Callable[[Any], Metrics]
    """Takes a PreferenceBatch, or a RolloutBatch where it is fed with rollouts. What takes the
    former branches on no number of the device, so that it can become a CUDA graph."""
    feed: Feed = "segments"


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


class RewardLearner(Protocol):
    """What a method offers that learns a reward, beyond `Algorithm`."""

    def examine(self, batch: PreferenceBatch) -> Metrics:
        """What the reward makes of comparisons that it was not fitted to."""
        ...


class OnPolicy(Protocol):
    """What a method offers that learns from its own rollouts, beyond `Algorithm`."""

    transitions_per_collection: int
    """At least so many a member: see `episodes_per_collection`."""
    updates_per_collection: int
    """Gradient steps that one collection serves."""
    mixes_offline: bool
    """Whether updates also want segments of the data."""

    def behaviour(self) -> dict[str, np.ndarray]:
        """`weights()`, and under "std" the standard deviations (s, a) to draw actions with."""
        ...
