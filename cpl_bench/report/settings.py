"""The figure of an ablation: the last score against a setting, where runs differ in it alone.

Nobody has to say what was varied: runs of one algorithm on one dataset whose configs are equal but
for one number are a series, from three numbers on, of a grid (`train --vary`) or of an experiment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpl_bench.core.names import GREEK
from cpl_bench.core.score import Score
from cpl_bench.report.figure import (
    SPARE,
    WIDTH,
    Picture,
    Style,
    bare,
    legend_columns,
    picture,
    plain,
)
from cpl_bench.report.read import EvaluatedRun
from cpl_bench.report.table import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 3
"""Numbers of a setting that are a series."""
LETTERS = {spelt: letter for letter, spelt in GREEK.items()}
BESIDE = 3
"""Panels in a row."""


@dataclass(frozen=True)
class Series:
    """The runs of one algorithm on one dataset that differ in one setting."""

    setting: str
    """Its name, dotted where it is nested."""
    dataset: str
    algorithm: str
    scoring: Score
    points: tuple[tuple[float, TableRow], ...]
    """The setting's number and the run's row, ascending."""


def series_of(runs: Sequence[EvaluatedRun], rows: Sequence[TableRow]) -> list[Series]:
    """Every series among the runs, in their order; `rows` are theirs."""
    found: dict[tuple[str, ...], dict[float, TableRow]] = {}
    scorings = {run.dataset: run.scoring for run in runs}
    for run, row in zip(runs, rows, strict=True):
        flat = _flat(run.record.config)
        for name, value in flat.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                others = json.dumps({**flat, name: None}, sort_keys=True)
                alike = (name, run.dataset, run.record.algorithm, others)
                found.setdefault(alike, {}).setdefault(value, row)
    return [
        Series(name, dataset, algorithm, scorings[dataset], tuple(sorted(points.items())))
        for (name, dataset, algorithm, _), points in found.items()
        if len(points) >= FEWEST
    ]


def draw_series(series: Sequence[Series]) -> Picture:
    """A panel a setting, a line a dataset; settings stand at equal distances, whatever they are."""
    panels: dict[tuple[str, str, str], list[Series]] = {}
    for each in series:
        panels.setdefault((each.algorithm, each.setting, each.scoring.axis), []).append(each)
    datasets = list(dict.fromkeys(each.dataset for each in series))
    styles = {name: SPARE[i % len(SPARE)] for i, name in enumerate(datasets)}
    columns = min(len(panels), BESIDE)
    lines, width = -(-len(panels) // columns), {1: 0.6}.get(columns, 1.0) * WIDTH

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes, (named, shown) in zip(grid.flat, panels.items(), strict=False):
            _draw_panel(axes, named, shown, styles)
        handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
        names = [plain(name) for name in datasets]
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside lower center",
            ncols=legend_columns(names, width),
            frameon=False,
        )

    return picture(width, 3.0 * lines + 0.4, draw)


def _draw_panel(
    axes: Axes,
    named: tuple[str, str, str],
    shown: Sequence[Series],
    styles: Mapping[str, Style],
) -> None:
    algorithm, setting, axis = named
    numbers = sorted({value for each in shown for value, _ in each.points})
    for place, each in enumerate(shown):
        scale = 100 if each.scoring.is_share else 1
        aside = 0.08 * (place - (len(shown) - 1) / 2)  # so that intervals do not hide each other
        at = [numbers.index(value) + aside for value, _ in each.points]
        last = [scale * row.last for _, row in each.points]
        below = [max(0.0, scale * (row.last - row.ci_low)) for _, row in each.points]
        above = [max(0.0, scale * (row.ci_high - row.last)) for _, row in each.points]
        style = styles[each.dataset]
        axes.errorbar(
            at, last, [below, above], fmt="none", ecolor=style.colour, alpha=0.5, capsize=2
        )
        axes.plot(at, last, color=style.colour, marker=style.marker, label=plain(each.dataset))
    if shown[0].scoring.is_success:
        axes.set_ylim(0, 103)
    axes.set_xticks(range(len(numbers)), [f"{number:g}" for number in numbers])
    axes.set_xlabel(LETTERS.get(setting, setting))
    axes.set_ylabel(axis)
    axes.set_title(plain(algorithm), loc="left", fontweight="bold")
    bare(axes)


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A config without its nesting, by dotted names."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{before}{name}.")
        else:
            result[before + name] = value
    return result
