"""The learning-curve figure: a panel a dataset, a line a method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from cpl_bench.core.score import SUCCESS, Score
from cpl_bench.report.figure import COLOURS, picture, plain

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


DASHES = ("-", "--", ":", "-.")


REFERENCE = "#707070"


MARKED_CHECKPOINTS = 30
"""Curves of no more checkpoints than this show each of them."""


@dataclass(frozen=True)
class Curve:
    """One method on one dataset: mean scores at t checkpoints."""

    method: str
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One dataset."""

    dataset: str
    curves: tuple[Curve, ...]
    behaviour: float | None
    """The score of the policy behind the data: a dashed line, where it is known."""
    boundary: int | None
    """The step at which the first phase ends, where the runs agree on one."""
    scoring: Score = SUCCESS
    """What the scores are."""


def draw_curves(panels: list[Panel], methods: list[str]) -> bytes:
    """Draw the panels and return a PNG, the same bytes for the same input.

    Args:
        panels: in the order of reading
        methods: every method of the panels; its position decides its colour and marker
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    width, height = {1: (6.4, 3.7), 2: (4.9, 3.4)}.get(columns, (3.5, 2.8))

    def draw(figure: "Figure") -> None:
        alike = all(panel.scoring.is_success for panel in panels)
        grid = figure.subplots(rows, columns, sharey=alike, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, methods)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            if not alike or place % columns == 0:
                axes.set_ylabel(panel.scoring.axis)
        _draw_legend(figure, methods)

    return picture(columns * width, rows * height + 0.5, draw)


def _draw_panel(axes: "Axes", panel: Panel, methods: list[str]) -> None:
    times = 100 if panel.scoring.is_share else 1
    if panel.behaviour is not None:
        axes.axhline(
            times * panel.behaviour,
            color=REFERENCE,
            linestyle="--",
            linewidth=1.2,
            label="behaviour policy",
        )
    if panel.boundary is not None:
        axes.axvline(panel.boundary, color="#A0A0A0", linewidth=1.0, label="first phase ends")
    for curve in panel.curves:
        place = methods.index(curve.method)
        colour = COLOURS[place % len(COLOURS)]
        few = len(curve.steps) <= MARKED_CHECKPOINTS
        axes.fill_between(
            curve.steps,
            times * curve.low,
            times * curve.high,
            color=colour,
            alpha=0.14,
            linewidth=0,
        )
        axes.plot(
            curve.steps,
            times * curve.mean,
            color=colour,
            linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
            linewidth=1.8 if few else 1.3,
            marker=MARKERS[place % len(MARKERS)] if few else "",
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=plain(curve.method),
            zorder=3,
        )
    axes.set_title(plain(panel.dataset), loc="left", fontweight="bold")
    axes.set_xlabel("gradient steps")
    if panel.scoring.is_success:
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step else "0")
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.03)


def _draw_legend(figure: "Figure", methods: list[str]) -> None:
    """One legend for all panels below them: the methods in order, then the reference lines."""
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ordered = [plain(method) for method in methods]
    ordered += [label for label in handles if label not in ordered]
    lines = -(-len(ordered) // (7 if figure.get_figwidth() > 9 else 4))
    figure.legend(
        [handles[label] for label in ordered],
        ordered,
        loc="outside lower center",
        ncols=-(-len(ordered) // lines),
        frameon=False,
    )
