"""How the plots look: palette, style, figure and axes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa.errors import import_extra
from pyramid_moa.training.outcomes import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BEFORE",
    "GRID",
    "HINDSIGHT",
    "INK",
    "MUTED",
    "ROUTER",
    "STEPS",
    "VOTE",
    "Data",
    "columns_of",
    "new_figure",
    "percent_axes",
    "plot_style",
]

Data = Mapping[str, Any]
"""One plot's part of `pyramid_moa.training.plot_data.plots_data`."""

# Okabe and Ito's palette: apart for every common kind of colour vision.
ROUTER, VOTE, HINDSIGHT = "#0072B2", "#D55E00", "#007A5A"
STEPS = "#A0427D"  # its reddish purple, dark enough for words
BEFORE, MUTED, INK, GRID = "#8A8A8A", "#6B6B6B", "#222222", "#E6E6E6"
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "pyramid-moa",
    "svg.fonttype": "path",
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "figure.dpi": 100.0,
    "savefig.dpi": 200.0,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """Use the style inside the block, and leave matplotlib's settings as they were.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = import_extra("matplotlib", extra="train", purpose="the plots of a report")
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure of a size in inches on an Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def columns_of(rows: Sequence[Data], *names: str) -> FloatArray:
    """Gather named numbers of k rows: float [k, names]."""
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64)


def percent_axes(axes: "Axes", *, x: bool = True, y: bool = True) -> None:
    """Write ticks as percentages, with quiet grid lines."""
    from matplotlib.ticker import PercentFormatter

    if x:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="x", color=GRID, linewidth=0.7)
    if y:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
