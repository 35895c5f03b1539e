"""How every figure is drawn: one palette, one size of type, the same bytes wherever it is made."""

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette for all kinds of colour vision, without its yellow."""


def picture(width: float, height: float, draw: Callable[["Figure"], None], dpi: int = 150) -> bytes:
    """A PNG, so many inches large, of what `draw` draws: the same bytes wherever it is made."""
    import matplotlib
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(), style.context("default"):
        matplotlib.rcParams.update({"font.size": 10, "axes.titlesize": 11})
        padded = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)  # inches
        figure = Figure((width, height), layout=padded)
        FigureCanvasAgg(figure)
        draw(figure)
        file = BytesIO()
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib shows as it stands."""
    return text.replace("$", r"\$")
