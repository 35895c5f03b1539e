"""The points of a grid: every choice of some settings' numbers, with its name and run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cpl_bench.core.counts import MEMBERS, check_count
from cpl_bench.core.errors import UserError, shown, unknown_name
from cpl_bench.core.toml import replaced
from cpl_bench.learning.config import MethodConfig
from cpl_bench.learning.interface import Entry
from cpl_bench.learning.methods import find_method
from cpl_bench.runs.folder import RunFolder
from cpl_bench.runs.options import TrainOptions
from cpl_bench.runs.train import folder_name

Varied = Mapping[str, Sequence[float]]
"""The numbers that each of some settings takes, in turn."""


@dataclass(frozen=True)
class Point:
    """One choice of the varied settings."""

    values: dict[str, float]
    config: MethodConfig
    title: str
    note: str
    folder: RunFolder


def grid(
    dataset: str, algorithm: str, config: MethodConfig, vary: Varied, options: TrainOptions
) -> list[Point]:
    """Every choice of the varied settings.

    Raises:
        UserError: a setting that members cannot differ in, no numbers for it, one of them twice
            or one that cannot be, or too many members.
    """
    entry = find_method(algorithm)
    numbers = {name: _numbers(name, values, algorithm, entry) for name, values in vary.items()}
    choices = [dict(zip(numbers, each, strict=True)) for each in product(*numbers.values())]
    check_count("Choices times seeds", len(choices) * len(options.seeds), 1, MEMBERS)
    return [
        _point(options.runs / dataset, algorithm, entry, config, values, options)
        for values in choices
    ]


def _point(
    runs: Path,
    algorithm: str,
    entry: Entry,
    config: MethodConfig,
    values: dict[str, float],
    options: TrainOptions,
) -> Point:
    made = replaced(config, values, f"settings of {algorithm}")
    named = sorted(values.items())
    untold = [each for each in named if options.method or not _told(entry, made, each[0])]
    title = options.method or entry.title(made)
    note = "-".join(filter(None, [options.note, *(f"{name}-{each:g}" for name, each in named)]))
    return Point(
        values,
        made,
        ", ".join([title, *(f"{name}={each:g}" for name, each in untold)]),
        note,
        RunFolder(runs / folder_name(algorithm, note)),
    )


def _numbers(name: object, values: object, algorithm: str, entry: Entry) -> list[float]:
    """The numbers that a setting takes, if members can differ in it."""
    known = getattr(entry, "per_member", ())
    if name not in known:
        hint = f"Only those can differ between members of {algorithm}; run the others in turn."
        raise unknown_name("setting to vary", str(name), known, hint)
    try:
        numbers = [] if isinstance(values, str) else [float(value) for value in values]  # pyright: ignore
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if not numbers or len({f"{number:g}" for number in numbers}) < len(numbers):
        raise UserError(
            f"{name} varies over numbers that differ in their first six digits, at least one; got "
            f"{shown(values)}."
        )
    return numbers


def _told(entry: Entry, config: MethodConfig, name: str) -> bool:
    """Whether a method's title tells the number of a setting."""
    value = getattr(config, name)
    try:
        other = replaced(config, {name: 0.99 * value if value else 0.01}, name)
    except UserError:  # it can be no other
        return True
    return entry.title(other) != entry.title(config)
