"""How every figure is drawn: a method's own look, one size of type, the same bytes wherever it is
made."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

WIDTH = 9.0
"""Inches of a figure of several panels; a page shrinks it little enough to read 10 points."""
RESOLUTIONS, LARGEST_PNG_BYTES = (150, 110, 80, 60), 480_000
"""Dots an inch: the first of these whose file is no larger."""
HEADING = 0.01
"""Height of a heading's row in a grid, in panels: its letters make room for themselves."""
DASHED = (0, (4.0, 1.4))
_NOTHING = "\N{ZERO WIDTH SPACE}"


@dataclass(frozen=True)
class Style:
    """A method's look: its line, and the marker on each checkpoint; sizes in points."""

    colour: str
    marker: str
    size: float = 5.0
    dash: str | tuple[int, tuple[float, ...]] = "-"
    width: float = 1.8


STYLES: dict[str, Style] = {
    "CPL(λ)": Style("#D55E00", "o", 6.0, width=2.6),
    "CPL": Style("#E69F00", "s"),
    "SFT": Style("#000000", "D"),
    "%BC": Style("#CC79A7", "X", 6.5, DASHED),
    "P-IQL": Style("#009E73", "^", 5.8),
    "IQL (true reward)": Style("#52BD9B", "v", 5.8, DASHED),
    "P-PPO": Style("#0072B2", "P", 6.5),
    "PPO (true reward)": Style("#56B4E9", "*", 8.5, DASHED),
}
"""Our methods, on every figure: Okabe and Ito's palette for all kinds of colour vision. Relatives
share a hue; a dashed line saw the true reward."""
SPARE = (
    Style("#882255", "<", 5.8, width=1.6),
    Style("#332288", ">", 5.8, width=1.6),
    Style("#999933", "h", 6.0, width=1.6),
    Style("#AA4499", "p", 6.0, width=1.6),
    Style("#661100", "d", 6.0, width=1.6),
)
"""Variants and other people's methods, by their order on the figure; from Tol's muted palette."""
SPARE_DASHES = ("-", (0, (2.5, 1.0)), (0, (1.0, 1.0)), (0, (5.0, 1.0, 1.0, 1.0)))


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """The style of each method on one figure: ours have their own, the others what is left."""
    owners: dict[str, str] = {}
    for method in sorted(methods, key=lambda name: name not in STYLES):  # exact names come first
        owners.setdefault(_known_as(method), method)
    ours = {method: STYLES[known] for known, method in owners.items() if known in STYLES}
    others = [method for method in dict.fromkeys(methods) if method not in ours]
    return ours | {method: _spare(place) for place, method in enumerate(others)}


def _known_as(method: str) -> str:
    """A name without its number: 10%BC is a %BC, CPL(λ=0.5) a CPL(λ)."""
    return re.sub(r"^[\d.]+(?=%BC$)|(?<=^CPL\(λ)=[\d.]+(?=\)$)", "", method)


def _spare(place: int) -> Style:
    turn, place = divmod(place, len(SPARE))
    return replace(SPARE[place], dash=SPARE_DASHES[turn % len(SPARE_DASHES)])


@dataclass(frozen=True)
class Picture:
    """One drawing as files hold it."""

    png: bytes
    pdf: bytes
    """The same for print; its text is text."""


def picture(width: float, height: float, draw: Callable[["Figure"], None]) -> Picture:
    """What `draw` draws, so many inches large: the same bytes wherever it is made."""
    import matplotlib
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(), style.context("default"):
        matplotlib.rcParams.update({"font.size": 10, "axes.titlesize": 11, "pdf.fonttype": 42})
        padded = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)  # inches
        figure = Figure((width, height), layout=padded)
        FigureCanvasAgg(figure)
        draw(figure)
        pdf, png = _pdf(figure), b""
        for dpi in RESOLUTIONS:
            png = _png(figure, dpi)
            if len(png) <= LARGEST_PNG_BYTES:
                break
    return Picture(png, pdf)


def _png(figure: "Figure", dpi: int) -> bytes:
    """In 256 colours, a third of the bytes, and without the version of what wrote it."""
    from PIL import Image

    figure.savefig(full := BytesIO(), format="png", dpi=dpi)
    colours = Image.Quantize.MEDIANCUT  # frequent colours stay exact
    image = Image.open(full).convert("RGB").quantize(256, colours, dither=Image.Dither.NONE)
    image.save(file := BytesIO(), format="png", optimize=True)
    return file.getvalue()


def _pdf(figure: "Figure") -> bytes:
    """Without a date, and without the version of what wrote it."""
    nameless = {"Creator": None, "Producer": None, "CreationDate": None}
    figure.savefig(file := BytesIO(), format="pdf", metadata=nameless)
    return file.getvalue()


def head(figure: "Figure", place: "SubplotSpec", text: str) -> None:
    """A heading over what lies below its place in a grid, as wide as it likes."""
    axes = figure.add_subplot(place)
    axes.set_axis_off()
    axes.set_title(plain(text), loc="left", fontweight="bold", pad=0)


def bare(axes: "Axes") -> None:
    """Two spines, light lines across."""
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def frame(axes: "Axes", numbers: int = 5) -> None:
    """`bare`, and about so many `numbers` of steps along x."""
    bare(axes)
    axes.margins(x=0.03)
    axes.locator_params(axis="x", nbins=numbers)
    axes.xaxis.set_major_formatter(lambda step, _: _thousands(step, axes.get_xlim()[1]))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)  # no 1e7 over the axis


def _thousands(step: float, last: float) -> str:
    """A number of steps as ticks show it, on an axis that ends at `last`."""
    return f"{step / 1000:g}k" if step and last >= 1000 else f"{step:g}"


def legend_columns(labels: list[str], width: float) -> int:
    """As many as so many inches hold, each as wide as its longest label and the line before it."""
    for lines in range(1, len(labels)):
        columns = [labels[i : i + lines] for i in range(0, len(labels), lines)]
        letters = sum(max(map(len, column)) + 9 for column in columns)
        if letters <= 12 * width:
            return len(columns)
    return 1


def plain(text: str) -> str:
    """Text that matplotlib shows as it stands, in a legend too."""
    hidden = text.startswith("_")  # legends leave such labels out
    return (_NOTHING if hidden else "") + text.replace("$", r"\$")
