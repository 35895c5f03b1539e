"""Settings that several methods share, each refusing what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cpl_bench.core.errors import UserError


def check_training(config: Any) -> None:
    """Refuse settings, common to all methods, that cannot be trained with.

    Raises:
        UserError: the first that is wrong.
    """
    positive = ("positive", lambda value: 0 < value < float("inf"))
    counts = {"steps": 1, "clone_steps": 0, "segments_per_batch": 2}
    refuse(
        config,
        {
            "dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
            "hidden": ("positive widths", lambda value: all(width >= 1 for width in value)),
            "learning_rate": positive,
            "clone_learning_rate": positive,
            **{
                name: (f"at least {least}", lambda value, least=least: value >= least)
                for name, least in counts.items()
            },
        },
    )


def refuse(config: Any, wanted: Mapping[str, tuple[str, Callable[[Any], bool]]]) -> None:
    """Refuse a setting outside what is allowed: {field: (in words, as a test)}; absent ones pass.

    Raises:
        UserError: the first that is wrong.
    """
    for name, (allowed, holds) in wanted.items():
        if hasattr(config, name) and not holds(getattr(config, name)):
            value = getattr(config, name)
            raise UserError(f"--{name.replace('_', '-')} must be {allowed}, not {value}.")
