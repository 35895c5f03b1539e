"""Settings that methods share: frozen, nested, each refusing what cannot be.

A method's config is made of these and its own few numbers; its presets are values of it. Every
number stands in one place: `--policy.hidden 256 256 --contrast.rate 3e-4` on the command line,
`settings = { policy.hidden = [256, 256], contrast.rate = 3e-4 }` in an experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from cpl_bench.core.errors import UserError

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
            raise UserError(f"{name} must be {allowed}, not {value!r}.")


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
COUNT = ("a whole number from 1", lambda value: type(value) is int and value >= 1)
COUNT_OR_NONE = ("a whole number from 0", lambda value: type(value) is int and value >= 0)
SEGMENTS = ("a whole number from 2", lambda value: type(value) is int and value >= 2)
WIDTHS = (
    "positive whole widths",
    lambda value: all(type(width) is int and width >= 1 for width in value),
)


@dataclass(frozen=True)
class PolicyConfig:
    """The policy's network; the defaults are the paper's for state observations."""

    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers."""
    dropout: float = 0.25
    """Probability of dropping a hidden unit while learning, rounded to a multiple of 1/256."""
    standardise: bool = False
    """Whether every network of the method sees observations of mean 0 and deviation 1."""
    average: float = 0.0
    """Share of itself that an average of the weights keeps in a gradient step; the average acts.
    0: the weights themselves do."""

    def __post_init__(self) -> None:
        within = ("in [0, 0.998]", lambda value: 0 <= value < 1 and round(BYTE * value) < BYTE)
        below = ("in [0, 1)", lambda value: 0 <= value < 1)
        refuse(self, {"hidden": WIDTHS, "dropout": within, "average": below})


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
        refuse(self, {"steps": COUNT_OR_NONE, "transitions": COUNT_OR_NONE})


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
                "ensemble": COUNT,
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
