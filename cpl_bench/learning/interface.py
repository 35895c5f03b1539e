"""The words everybody speaks: what algorithms take, give and promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpl_bench.core.policy import PolicyWeights
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.state import Part

Metrics = dict[str, Tensor]
"""Plain-named detached tensors of shape (s,), one value a member."""

# --- Batches ---


@dataclass(frozen=True)
class PreferenceBatch:
    """m segments of k steps for each of s members, and c comparisons among them.

    A segment is scored once; comparisons are pairs of positions. Paired labels, all pairs of a
    batch, ranked answers, soft labels and skipped questions are all this one type.
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
    weight: Float[Tensor, "s c"]
    """What an answer counts: 1, and 0 where the annotator skipped the question."""
    rewards: Float[Tensor, "s m k"] | None = None
    """The environment's: for the methods that may see them, None where the data have none."""
    terminated: Bool[Tensor, "s m k"] | None = None
    """Whether the task ended with that step, so that nothing follows; None: it never does."""
    ranked: int = 0
    """K if segments iK … iK + K − 1 were ranked together and all their pairs are listed; else 0."""


@dataclass(frozen=True)
class Episodes:
    """E whole episodes of at most T steps by each member's own stochastic policy."""

    observations: Float[Tensor, "s E T1 o"]
    """T1 = T + 1: the observation after the last step is there too."""
    actions: Float[Tensor, "s E T a"]
    """As drawn; the simulator was given them clipped to [−1, 1]."""
    rewards: Float[Tensor, "s E T"]
    """The environment's; 0 after the end of an episode."""
    terminated: Bool[Tensor, "s E T"]
    """Whether the task ended with that step; after a time limit the next value counts."""
    lengths: Int[Tensor, "s E"]
    """Steps of each episode; what comes after them is padding."""
    successes: Bool[Tensor, "s E"]
    """Whether the episode succeeded at any step."""


@dataclass(frozen=True)
class RolloutBatch:
    """What an on-policy update is fed."""

    step: Int[Tensor, ""]
    """The training step: the counter of everything random in an update."""
    fresh: Episodes | None
    """New episodes, at the first of the updates that a collection serves."""
    offline: PreferenceBatch | None = None
    """Segments of the data, for methods that mix them in."""


# --- Feeds: what a phase eats, said by a value ---


@dataclass(frozen=True)
class Segments:
    """So many segments a member, with their comparisons."""

    count: int
    side: Literal["all", "fitting"] = "all"
    """fitting: only episodes that reward models are fitted to; the others are held out."""
    rewards: bool = False
    """Whether batches hold the true rewards."""
    ranked: bool = False
    """Whether the comparisons must be ranked answers."""
    least_length: int = 1
    """Steps that a segment must have."""


@dataclass(frozen=True)
class Transitions:
    """So many single transitions of the segments a member."""

    count: int
    rewards: bool = False
    """Whether batches hold the true rewards."""
    following: bool = True
    """Whether a step comes with the next one; else any step of a segment is drawn."""
    window: int = 1
    """Steps from each one drawn on, of the same segment: a chunk is learned from so many."""


@dataclass(frozen=True)
class BestEpisodes:
    """So many steps a member, of the episodes with the highest true returns, one by one."""

    percent: float
    count: int
    window: int = 1
    """Steps from each one drawn on, of the same episode."""


@dataclass(frozen=True)
class Rollouts:
    """The policy's own episodes: at least so many transitions a member, for so many updates."""

    transitions: int
    updates: int
    offline: Segments | None = None
    """What of the data comes with every update."""


Feed = Segments | Transitions | BestEpisodes

# --- Methods ---


class Shared(NamedTuple):
    """What makes a first phase the same for several methods, so that it is trained only once."""

    part: Part
    """All that the phase moves."""
    decided_by: tuple[object, ...]
    """What decides it beside the phase's name, steps and feed, the data, the seeds and the machine:
    values whose `repr` tells two of them apart."""


class Phase(NamedTuple):
    """A stretch of training on recorded data with one update rule."""

    name: str
    steps: int
    update: Callable[[PreferenceBatch], Metrics]
    """Can become a CUDA graph: it changes in place whatever it changes, copies nothing from the
    host, asks for no number of the device, and keeps nothing in Python from step to step."""
    feed: Feed
    shared: Shared | None = None
    """None: what the phase does concerns this method alone."""
    recordable: bool = True
    """False for an update that cannot become a CUDA graph: it is asked step by step."""


class OnlinePhase(NamedTuple):
    """A stretch of training on the policy's own episodes."""

    name: str
    steps: int
    update: Callable[[RolloutBatch], Metrics]
    feed: Rollouts


class Algorithm(Protocol):
    """What the loop needs of a method. s members train side by side on the leading axis."""

    def phases(self) -> Sequence[Phase | OnlinePhase]:
        """The method's table of contents; the steps add up to the config's."""
        ...

    def act(self, observations: Float[Tensor, "s b o"]) -> Float[Tensor, "s b a"]:
        """The deterministic action."""
        ...

    def weights(self) -> PolicyWeights:
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

    def behaviour(self) -> PolicyWeights:
        """`weights()` as a gaussian policy, to draw actions with."""
        ...


C = TypeVar("C", bound=MethodConfig)


@dataclass(frozen=True)
class Entry(Generic[C]):
    """A method as it is found by name: `module:ENTRY`."""

    build: Callable[[C, int, int, Sequence[int], torch.device], Algorithm]
    """(config, observation size, action size, seeds, device) → algorithm."""
    presets: Mapping[str, C]
    """Configs by preset, "paper" and "laptop"; their class is the method's config class."""
    title: Callable[[C], str]
    """What tables and figures call it with a given config."""
    oracle: bool = False
    """Whether it must see the true rewards."""
    per_member: tuple[str, ...] = ()
    """Numbers among its settings that only its updates read, each time anew from the algorithm's
    attribute `config`: a column (s, 1) there gives each member its own. Tensors of its state have
    the members on their leading axis, or none (`runs/grid.py`)."""
