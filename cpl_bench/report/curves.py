"""The learning-curve figure: a panel a dataset, or, of many methods, a panel for each."""

from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.lines import Line2D

from cpl_bench.report.figure import (
    HEADING,
    WIDTH,
    Picture,
    Style,
    frame,
    head,
    legend_columns,
    picture,
    plain,
    styles_of,
)
from cpl_bench.report.panels import Curve, Panel

REFERENCE, OTHERS, DIVISION = "#707070", "#CCCCCC", "#A0A0A0"
GREY = BEHAVIOUR, OTHER, BOUNDARY = "behaviour policy", "other methods", "first phase ends"
MOST_TOGETHER = 4
"""More methods than this on a dataset are drawn apart, a panel each."""
MOST_BESIDE = 4
"""Panels in a row of those."""
TITLE_WIDTHS, HEADING_WIDTH = {1: 56, 2: 36, 3: 26}, 76
"""Letters in a line of a dataset's name, over a panel of so many in a row and over all of them."""
TITLE_LINE = 0.18
"""Inches of such a line."""
NAME_WIDTHS = {3: 26, 4: 18}
"""Letters in a line over a panel, of so many in a row."""
MARKED_CHECKPOINTS = 30
"""Curves of no more checkpoints than this show each of them."""


def draw_curves(panels: list[Panel], methods: list[str]) -> Picture:
    """Draw the panels, the same bytes for the same input.

    With more than `MOST_TOGETHER` methods on a dataset every method has a panel of its own, the
    others in grey behind it.

    Args:
        panels: in the order of reading
        methods: every method of the panels, in the legend's order
    """
    styles = styles_of(methods)
    if max(len(panel.curves) for panel in panels) > MOST_TOGETHER:
        return _draw_apart(panels, styles)
    return _draw_together(panels, methods, styles)


# --- A panel a dataset ---


def _draw_together(panels: list[Panel], methods: list[str], styles: dict[str, Style]) -> Picture:
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    width, height = {1: (0.75 * WIDTH, 3.8), 2: (WIDTH, 3.3)}.get(columns, (WIDTH, 2.6))
    titles = [fill(panel.dataset, TITLE_WIDTHS[columns]) for panel in panels]
    height += TITLE_LINE * max(title.count("\n") for title in titles)

    def draw(figure: "Figure") -> None:
        alike = all(panel.is_success for panel in panels)
        grid = figure.subplots(rows, columns, sharey=alike, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            panel = panels[place]
            _draw_references(axes, panel)
            for curve in panel.curves:
                _draw_curve(axes, curve, styles[curve.method], panel.times)
            _dress(axes, panel)
            axes.set_title(plain(titles[place]), loc="left", fontweight="bold")
            axes.set_xlabel("gradient steps")
            if not alike or place % columns == 0:
                axes.set_ylabel(panel.axis)
        _draw_legend(figure, methods)

    return picture(width, rows * height + 0.5, draw)


# --- A panel a method ---


def _draw_apart(panels: list[Panel], styles: dict[str, Style]) -> Picture:
    columns = max(_beside(len(panel.curves)) for panel in panels)
    rows = [-(-len(panel.curves) // columns) for panel in panels]
    height = {3: 2.1, 4: 1.9}[columns]

    def draw(figure: "Figure") -> None:
        ratios = [ratio for count in rows for ratio in (HEADING, *[1] * count)]
        grid, top = figure.add_gridspec(len(ratios), columns, height_ratios=ratios), 0
        for panel, count in zip(panels, rows, strict=True):
            head(figure, grid[top, :], fill(panel.dataset, HEADING_WIDTH))
            _draw_block(figure, grid, top + 1, panel, styles)
            top += 1 + count
        _draw_legend(figure, [])

    return picture(WIDTH, sum(rows) * height + 0.4 * len(panels) + 0.3, draw)


def _beside(methods: int) -> int:
    """Panels in a row, so that the rows are about equally full."""
    return -(-methods // -(-methods // MOST_BESIDE))


def _draw_block(
    figure: "Figure", grid: "GridSpec", top: int, panel: Panel, styles: dict[str, Style]
) -> None:
    """The methods of one dataset, from the row `top` of the grid downwards."""
    first, last = None, (len(panel.curves) - 1) // grid.ncols
    for place, curve in enumerate(panel.curves):
        row, column = divmod(place, grid.ncols)
        axes = figure.add_subplot(grid[top + row, column], sharex=first, sharey=first)
        first = first or axes
        for other in panel.curves:
            if other is not curve:
                scores = panel.times * other.mean
                axes.plot(other.steps, scores, color=OTHERS, linewidth=0.9, label=OTHER)
        _draw_references(axes, panel)
        line = _draw_curve(axes, curve, styles[curve.method], panel.times)
        _dress(axes, panel)
        _name(axes, line, fill(curve.method, NAME_WIDTHS[grid.ncols], break_on_hyphens=False))
        lowest = place + grid.ncols >= len(panel.curves)
        axes.tick_params(labelbottom=lowest, labelleft=column == 0)
        axes.set_xlabel("gradient steps" if row == last else "")
        axes.set_ylabel(panel.axis if column == 0 else "")


def _name(axes: "Axes", line: "Line2D", name: str) -> None:
    """A title that shows the line too."""
    axes.legend(
        [line],
        [plain(name)],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderpad=0.2,
        borderaxespad=0,
        handlelength=2.2,
        handletextpad=0.5,
        frameon=False,
    )


# --- The parts of a panel ---


def _draw_references(axes: "Axes", panel: Panel) -> None:
    if panel.behaviour is not None:
        axes.axhline(
            panel.times * panel.behaviour,
            color=REFERENCE,
            linestyle="--",
            linewidth=1.2,
            label=BEHAVIOUR,
        )
    if panel.boundary is not None:
        axes.axvline(panel.boundary, color=DIVISION, linewidth=1.0, label=BOUNDARY)


def _draw_curve(axes: "Axes", curve: Curve, style: Style, times: int) -> "Line2D":
    few = len(curve.steps) <= MARKED_CHECKPOINTS
    axes.fill_between(
        curve.steps,
        times * curve.low,
        times * curve.high,
        color=style.colour,
        alpha=0.14,
        linewidth=0,
    )
    (line,) = axes.plot(
        curve.steps,
        times * curve.mean,
        color=style.colour,
        linestyle=style.dash,
        linewidth=style.width if few else 0.75 * style.width,
        marker=style.marker if few else "",
        markersize=style.size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=plain(curve.method),
        zorder=3 + style.width,
    )
    return line


def _dress(axes: "Axes", panel: Panel) -> None:
    if panel.is_success:
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 20))
    frame(axes)


def _draw_legend(figure: "Figure", methods: list[str]) -> None:
    """One legend for all panels below them: the methods in order, then what is drawn in grey."""
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    ordered = [label for label in (*map(plain, methods), *GREY) if label in handles]
    figure.legend(
        [handles[label] for label in ordered],
        ordered,
        loc="outside lower center",
        ncols=legend_columns(ordered, figure.get_figwidth()),
        handlelength=2.6,
        frameon=False,
    )
