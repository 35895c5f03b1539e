"""Settings that methods share: frozen, nested, each refusing what cannot be.

A method's config is made of these and its own few numbers; its presets are values of it. Every
number stands in one place: `--policy.hidden 256 256 --contrast.rate 3e-4` on the command line,
`settings = { policy.hidden = [256, 256], contrast.rate = 3e-4 }` in an experiment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from cpl_bench.core.errors import UserError, shown
from cpl_bench.core.toml import added

BYTE = 256
"""Dropout is drawn from random bytes: its probability is a multiple of 1/256."""


@runtime_checkable
class MethodConfig(Protocol):
    """What every method's config has: a frozen dataclass with the number of its steps."""

    @property
    def steps(self) -> int:
        """Gradient steps in all."""
        ...


def refuse(config: object, wanted: Mapping[str, tuple[str, Callable[[Any], bool]]]) -> None:
    """Refuse a setting outside what is allowed: {field: (in words, as a test)}.

    Raises:
        UserError: the first that is wrong.
    """
    for name, (allowed, holds) in wanted.items():
        value = getattr(config, name)
        try:
            right = holds(value)
        except (TypeError, ValueError, OverflowError):  # no number, no list, not to be compared
            right = False
        if not right:
            raise UserError(f"{name} must be {allowed}, not {shown(value)}.")


def one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    """What `refuse` wants of a choice."""
    return " or ".join(names), lambda value: value in names


def share_out(total: int, last: str, **earlier: int) -> None:
    """Refuse a number of steps that leaves the last phase none: it would be another method.

    Raises:
        UserError: the phases before `last` take all of the `total` steps.
    """
    if total <= sum(earlier.values()):
        taken = " and ".join(f"'{name}' {steps:,}" for name, steps in earlier.items() if steps)
        raise UserError(
            f"steps = {total:,} leave none to the phase '{last}': before it come {taken or 'none'}."
            " Ask for more --steps, or for fewer in the phases before."
        )


POSITIVE = ("positive", lambda value: 0 < value < float("inf"))
NOT_NEGATIVE = ("at least 0", lambda value: 0 <= value < float("inf"))
SHARE = ("in [0, 1]", lambda value: 0 <= value <= 1)


def whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    """Whole numbers from `least` to `most`, for `refuse`."""
    words = f"a whole number from {least:,} to {most:,}"
    return words, lambda value: type(value) is int and least <= value <= most


COUNT = whole(1, 1_000_000_000)
COUNT_OR_NONE = whole(0, 1_000_000_000)
SEGMENTS = whole(2, 10_000)
"""Of a batch: dense ones compare each with each."""
BATCH = whole(1, 1_000_000)
"""Transitions of a batch."""
BATCH_OR_NONE = whole(0, 1_000_000)
ENSEMBLE = whole(1, 1_000)
MOST_LAYERS, MOST_WIDE = 100, 8_192
WIDTHS = (
    f"at most {MOST_LAYERS} whole widths from 1 to {MOST_WIDE:,}",
    lambda value: (
        len(value) <= MOST_LAYERS
        and all(type(width) is int and 1 <= width <= MOST_WIDE for width in value)
    ),
)


STD_LIMITS = (0.0067, 7.39)
"""Those of the paper's code for D4RL: log σ in [−5, 2]."""


@dataclass(frozen=True)
class PolicyConfig:
    """The policy; the defaults are the paper's for state observations."""

    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit while learning, rounded to a multiple of 1/256."""
    standardise: bool = False
    """Whether every network of the method sees observations of mean 0 and deviation 1."""
    average: float = 0.0
    """Share of itself that an average of the weights keeps in a gradient step; the average acts.
    0: the weights themselves do."""
    variance: Literal["fixed", "learned"] = added("fixed")
    """fixed: log π is −‖μ − a‖², as on Meta-World; learned: the log density of a diagonal Gaussian,
    one σ an action dimension, as on D4RL. The mean acts in either case."""
    std_limits: tuple[float, float] = added(STD_LIMITS)
    """Within these a learned σ stays; it begins at 1, or at the nearer of them."""
    chunk: int = added(1)
    """Actions that one look at the simulator decides: h, the next ones."""
    replan: int = added(0)
    """Actions of a chunk that are executed before the next look; 0: all, in open loop."""

    def __post_init__(self) -> None:
        within = ("in [0, 0.998]", lambda value: 0 <= value < 1 and round(BYTE * value) < BYTE)
        below = ("in [0, 1)", lambda value: 0 <= value < 1)
        refuse(self, {"hidden": WIDTHS, "dropout": within, "average": below})
        known = ("fixed or learned", lambda value: value in ("fixed", "learned"))
        limits = ("two positive numbers, the lower first", lambda v: 0 < v[0] <= v[1] < math.inf)
        part = (
            f"a whole number from 0 to the chunk's {self.chunk}",
            lambda v: type(v) is int and 0 <= v <= self.chunk,
        )
        refuse(self, {"variance": known, "std_limits": limits, "chunk": COUNT, "replan": part})
        if self.variance == "fixed" and self.std_limits != STD_LIMITS:
            raise UserError(f"std_limits = {self.std_limits} are for variance = 'learned'.")


LAPTOP_POLICY = PolicyConfig((256, 256), dropout=0.0, standardise=True, average=0.995)
"""That of all laptop presets (`results/presets/tuning.md` has what was tried)."""


@dataclass(frozen=True)
class Optimiser:
    """Adam, and how its rate goes."""

    rate: float = 1e-4
    """The learning rate."""
    warmup_steps: int = 0
    """Steps over which the rate grows from nothing, in a line."""
    cosine: bool = False
    """Whether the rate falls to 0 by a cosine, over the steps that are taken with it."""
    largest_gradient: float = 0.0
    """Norm to which a member's gradient is scaled down; 0 leaves it."""

    def __post_init__(self) -> None:
        refuse(
            self,
            {"rate": POSITIVE, "warmup_steps": COUNT_OR_NONE, "largest_gradient": NOT_NEGATIVE},
        )


@dataclass(frozen=True)
class Stage:
    """A phase of so many steps with an optimiser of its own."""

    steps: int
    """Gradient steps; 0 leaves the phase out."""
    optimiser: Optimiser = Optimiser()
    transitions: int = 0
    """Single steps, drawn one by one, that a gradient step sees; 0: those of whole segments."""

    def __post_init__(self) -> None:
        refuse(self, {"steps": COUNT_OR_NONE, "transitions": BATCH_OR_NONE})


LAPTOP_CLONE = Stage(3000, Optimiser(1e-3), transitions=512)
"""The cloning that laptop presets begin with."""


@dataclass(frozen=True)
class ValueConfig:
    """Value networks and critics."""

    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    optimiser: Optimiser = Optimiser(3e-4)

    def __post_init__(self) -> None:
        refuse(self, {"hidden": WIDTHS})


@dataclass(frozen=True)
class RewardConfig:
    """Where rewards come from, and the model that learns them from comparisons."""

    source: Literal["learned", "true"] = "learned"
    """learned from the comparisons, or the environment's own: an oracle."""
    steps: int = 50_000
    """Gradient steps that fit the model."""
    optimiser: Optimiser = Optimiser(3e-4)
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    ensemble: int = 1
    """Reward networks, of which the mean counts."""
    pessimism: float = 0.0
    """So many of the ensemble's deviations are taken from its mean: less pay where it disagrees."""
    bounded: bool = False
    """Whether rewards are bounded to [0, 1]."""
    imitation: float = 0.0
    """Weight of cloning preferred segments through a trunk shared with the reward."""
    loss: Literal["pairs", "ranking"] = "pairs"
    """pairs: Bradley–Terry over all pairs; ranking: Plackett–Luce over ranked answers."""

    def __post_init__(self) -> None:
        shared = "at least 0, and 0 without hidden layers to share"
        refuse(
            self,
            {
                "source": one_of("learned", "true"),
                "loss": one_of("pairs", "ranking"),
                "hidden": WIDTHS,
                "ensemble": ENSEMBLE,
                "pessimism": (
                    "at least 0, and 0 with a single network: it needs an ensemble",
                    lambda value: 0 <= value < float("inf") and (not value or self.ensemble > 1),
                ),
                "imitation": (
                    shared,
                    lambda value: 0 <= value < float("inf") and (not value or bool(self.hidden)),
                ),
                "steps": COUNT,
            },
        )

    @property
    def fitting_steps(self) -> int:
        """Gradient steps that fit a model: none if the reward is the true one."""
        return self.steps if self.source == "learned" else 0


LAPTOP_REWARD = RewardConfig(
    steps=1000, optimiser=Optimiser(1e-3), hidden=(256, 256), bounded=True, imitation=0.3
)
"""The reward model of the laptop presets."""
