"""The plot of label curves: failure AUROC and calibration against the number of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid_moa.atomic_files import written_aside
from pyramid_moa.training.plot_style import (
    GRID,
    HINDSIGHT,
    INK,
    MUTED,
    ROUTER,
    columns_of,
    new_figure,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_label_curves", "write_label_plot"]

_LOOKS: dict[str, tuple[str, str]] = {
    "router": (ROUTER, "own training"),
    "router-started": (HINDSIGHT, "started from another router"),
}
_VOTE = "vote"
_MOST_PANELS = 4

Row = Mapping[str, Any]


def write_label_plot(rows: Sequence[Row], stem: Path) -> None:
    """Write ``.svg`` and ``.png``.

    Args:
        rows: those of ``label_curves.csv``, which holds the numbers.
        stem: path of the files without suffix; its folder exists.
    """
    with plot_style():
        figure = draw_label_curves(rows)
        for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
            with written_aside(Path(f"{stem}{suffix}")) as aside:
                figure.savefig(aside, format=suffix[1:], metadata=metadata)


def draw_label_curves(rows: Sequence[Row]) -> "Figure":
    """All runs, and each data set where there are several, a column of two panels each.

    AUROC with 95 % intervals above; below, the calibration error in excess of what perfectly
    calibrated probabilities show.
    """
    names = list(dict.fromkeys(row["of"] for row in rows if row["scope"] != "run"))[:_MOST_PANELS]
    numbers = {row["labels"] for row in rows if row["labels"] != "all"}
    ticks = [*sorted(numbers), "all"]
    figure = new_figure(0.9 + 3.6 * len(names), 6.6)
    above, below = figure.subplots(2, len(names), squeeze=False, height_ratios=(3, 2))
    for auroc, calibration, name in zip(above, below, names, strict=True):
        own = [row for row in rows if row["of"] == name and row["scope"] != "run"]
        _panel(auroc, own, ticks, "failure_auroc")
        _panel(calibration, own, ticks, "ece_in_excess")
        calibration.axhline(0.0, color=MUTED, linewidth=0.8)
        calibration.set_xlabel("labels")
        runs = max(row["runs"] for row in own)
        auroc.set_title(f"{name}, {runs} {'run' if runs == 1 else 'runs'}", color=MUTED)
    above[0].set_ylabel("failure AUROC of the vote's answer")
    below[0].set_ylabel("ECE in excess")
    above[0].legend(loc="best", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _panel(axes: "Axes", rows: Sequence[Row], ticks: Sequence[Any], figure: str) -> None:
    axes.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
    axes.set_xlim(-0.4, len(ticks) - 0.6)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for curve, (colour, label) in _LOOKS.items():
        own = [row for row in rows if row["curve"] == curve and row[figure] is not None]
        if not own:
            continue
        places = [ticks.index(row["labels"]) for row in own]
        if f"{figure}_low" in own[0]:
            low, high = columns_of(own, f"{figure}_low", f"{figure}_high").T
            axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
        (value,) = columns_of(own, figure).T
        axes.plot(places, value, marker="o", color=colour, linewidth=1.8, label=label)
    for row in rows:
        if row["curve"] == _VOTE and row[figure] is not None:
            axes.axhline(row[figure], color=INK, linestyle=(0, (4, 3)), label="agreement")
