"""The plot of the ways that queries took through the pyramid."""

from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.training.plot_style import (
    GRID,
    INK,
    MUTED,
    ROUTER,
    VOTE,
    Data,
    new_figure,
    percent_axes,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_paths"]

_SHOWN = 12
_NAME_LENGTH = 26
_ROW, _FOOT = 0.36, 0.6  # inches


def draw_paths(data: Data) -> "Figure":
    """Who was asked, in which order, how often, and what came of it: a row a path."""
    rows, models = data["paths"][:_SHOWN], data["models"]
    left_out = data["paths"][_SHOWN:]
    with plot_style():
        # Names stand aslant over their columns, the legend beside them.
        longest = min(max(len(name) for name in models), _NAME_LENGTH)
        head = max(0.9, 0.45 + 0.05 * longest)
        height = head + _ROW * max(len(rows), 2) + _FOOT
        figure = new_figure(9.2, height)
        bottom, tall = _FOOT / height, 1 - (head + _FOOT) / height
        columns = min(0.055 * len(models), 0.45)
        asked = figure.add_axes((0.02, bottom, columns, tall))
        bars = figure.add_axes((0.04 + columns, bottom, 0.62 - columns, tall), sharey=asked)
        _matrix(asked, rows, models)
        shares = [row["share"] for row in rows]
        colours = [VOTE if row["escalated"] else ROUTER for row in rows]
        bars.barh(np.arange(len(rows)), shares, height=0.6, color=colours, alpha=0.85)
        bars.set_xlim(0, max(shares) * 1.02)
        bars.tick_params(left=False, labelleft=False)
        percent_axes(bars, y=False)
        bars.set_xlabel("share of queries", labelpad=4)
        for place, row in enumerate(rows):
            bars.annotate(
                _words(row),
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
                annotation_clip=False,
            )
        bars.annotate(
            "share · accuracy · cost against the oracle's",
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(8, 4),
            textcoords="offset points",
            fontsize=9,
            color=MUTED,
            annotation_clip=False,
        )
        kinds = ((False, ROUTER, "ended without the oracle"), (True, VOTE, "asked the oracle"))
        shown = {bool(row["escalated"]) for row in rows}
        legend = [(colour, text) for asks, colour, text in kinds if asks in shown]
        for line, (colour, text) in enumerate(reversed(legend)):
            bars.annotate(
                text,
                (1.0, 1.0),
                xycoords="axes fraction",
                xytext=(8, 22 + 14 * line),
                textcoords="offset points",
                fontsize=9,
                color=colour,
                annotation_clip=False,
            )
        if left_out:
            share = sum(row["share"] for row in left_out)
            figure.text(
                0.98,
                0.02,
                f"and {len(left_out)} rarer paths, {100 * share:.1f} % of queries",
                ha="right",
                fontsize=9,
                color=MUTED,
            )
    return figure


def _matrix(axes: "Axes", rows: list[Data], models: list[str]) -> None:
    """A column a model, in each row the numbers of the steps that asked them."""
    axes.set(xlim=(-0.6, len(models) - 0.4), ylim=(len(rows) - 0.4, -0.6))
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, row in enumerate(rows):
        axes.plot([-0.4, len(models) - 0.6], [place, place], color=GRID, linewidth=1.0, zorder=1)
        step_of = {name: k for k, group in enumerate(row["path"], 1) for name in group}
        for column, name in enumerate(models):
            step = step_of.get(name)
            face = "white" if step is None else INK
            size = 4.0 if step is None else 12.0
            axes.plot(
                column,
                place,
                "o",
                markersize=size,
                color=face,
                markeredgecolor="#BBBBBB" if step is None else INK,
                zorder=2,
            )
            if step is not None:
                axes.text(
                    column,
                    place,
                    str(step),
                    color="white",
                    fontsize=8,
                    weight="bold",
                    ha="center",
                    va="center_baseline",
                    zorder=3,
                )
    names = [
        name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…" for name in models
    ]
    axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    for column, name in enumerate(names):
        axes.text(
            column,
            -0.75,
            name,
            rotation=40,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=9,
            color=INK,
            parse_math=False,
        )


def _words(row: Data) -> str:
    cost = row["cost_ratio"]
    told = "" if cost is None else f" · {100 * cost:.0f} %"
    return f"{100 * row['share']:.1f} % (n = {row['n']:,}) · {100 * row['accuracy']:.1f} %{told}"
