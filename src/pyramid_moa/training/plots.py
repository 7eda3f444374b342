"""Pareto curve, paths, reliability diagram and escalation by difficulty, as PNG and SVG.

Drawn with matplotlib's objects on an Agg canvas: nothing global is left changed, no display is
needed, and the same numbers give the same SVG, byte for byte.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.plot_labels import Label, place_labels
from pyramid_moa.training.plot_paths import draw_paths
from pyramid_moa.training.plot_style import (
    BEFORE,
    HINDSIGHT,
    INK,
    MUTED,
    ROUTER,
    STEPS,
    VOTE,
    Data,
    columns_of,
    new_figure,
    percent_axes,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "draw_difficulty", "draw_pareto", "draw_reliability", "write_plots"]

PLOTS = ("pareto", "paths", "reliability", "difficulty")

_MARKS = {  # kind: marker, size, face, edge
    "member": ("o", 6.0, "#B5B5B5", MUTED),
    "mid_oracle": ("^", 7.0, "#B5B5B5", MUTED),
    "ensemble": ("s", 7.5, ROUTER, ROUTER),
    "vote_rule": ("D", 6.5, VOTE, VOTE),
    "operating_point": ("o", 10.0, "white", ROUTER),
    "hindsight": ("*", 14.0, HINDSIGHT, HINDSIGHT),
    "oracle": ("^", 9.5, INK, INK),
}

_OURS = "operating_point"
_LISTED = 6  # members named below the frame
_NAME_LENGTH = 32
_ROOMY = 5  # groups that have room for words under them


def write_plots(data: Mapping[str, Data], folder: Path) -> list[Path]:
    """Draw every plot and write down its numbers.

    Args:
        data: by plot, as `pyramid_moa.training.plot_data.plots_data` gives it.
        folder: existing folder that receives ``<plot>.png``, ``<plot>.svg`` and
            ``plots_data.json``.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    files = [folder / "plots_data.json"]
    files[0].write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    drawers = {
        "pareto": draw_pareto,
        "paths": draw_paths,
        "reliability": draw_reliability,
        "difficulty": draw_difficulty,
    }
    with plot_style():
        for name in PLOTS:
            figure = drawers[name](data[name])
            for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
                files.append(folder / f"{name}{suffix}")
                figure.savefig(files[-1], metadata=metadata)
    return files


def draw_pareto(data: Data) -> "Figure":
    """Accuracy against cost: what the members, the oracle and every rule reach."""
    with plot_style():
        figure = new_figure(8.4, 5.4)
        axes = figure.add_axes((0.1, 0.15, 0.88, 0.82))
        _limits(axes, data)
        percent_axes(axes)
        axes.set_xlabel(_with_note(data["label"], data["price_note"]), labelpad=8)
        axes.set_ylabel("accuracy")
        if data["band"]:
            band = columns_of(data["band"], "x", "low", "high")
            axes.fill_between(*band.T, color=ROUTER, alpha=0.13, linewidth=0, zorder=1)
        if data["sequential_band"]:
            band = columns_of(data["sequential_band"], "x", "low", "high")
            axes.fill_between(*band.T, color=STEPS, alpha=0.11, linewidth=0, zorder=1)
        hindsight, random, router = (
            columns_of(data[name], "x", "accuracy") for name in ("hindsight", "random", "router")
        )
        hindsight = hindsight[: int(np.argmax(hindsight[:, 1])) + 1]  # beyond it only wastes
        rules = [row for row in data["points"] if row["kind"] == "vote_rule"]
        votes = columns_of(rules, "x", "accuracy")
        axes.plot(*random.T, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2.5)), zorder=2)
        axes.plot(*votes.T, color=VOTE, linewidth=1.0, zorder=2)
        axes.plot(*hindsight.T, color=HINDSIGHT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
        axes.plot(*router.T, color=ROUTER, linewidth=2.2, zorder=3)
        others = _other_points(axes, data)
        labels, lines = _marks(axes, data), [random, hindsight, router, votes]
        labels += others
        labels += [_on_line(random, 0.62, "random", MUTED)]
        labels += [_on_line(router, 0.75, "router, all at once", ROUTER)]
        if data["sequential"]:
            steps = columns_of(data["sequential"], "x", "accuracy")
            axes.plot(*steps.T, color=STEPS, linewidth=1.8, zorder=3)
            lines.append(steps)
            labels.append(_on_line(steps, 0.55, "router, step by step", STEPS))
        place_labels(axes, labels, lines)
    return figure


def draw_reliability(data: Data) -> "Figure":
    """Predicted probabilities against how often it came true: failures, and a right oracle."""
    panels = [(data, "the ensemble fails", "failures", ROUTER)]
    if data["oracle"] is not None:
        panels.append((data["oracle"], "the oracle is right", "right oracles", INK))
    with plot_style():
        width = 5.6 * len(panels)
        figure = new_figure(width, 6.2)
        for place, (panel, event, things, colour) in enumerate(panels):
            left = (0.73 + 5.6 * place) / width
            axes = figure.add_axes((left, 0.33, 4.65 / width, 0.64))
            below = figure.add_axes((left, 0.09, 4.65 / width, 0.17), sharex=axes)
            _calibration(axes, panel, things, colour)
            _histogram(below, panel)
            below.set_xlabel(f"predicted probability that {event}")
            axes.tick_params(labelbottom=False)
            percent_axes(axes)
            percent_axes(below, y=False)
            figure.align_ylabels([axes, below])
    return figure


def _calibration(axes: "Axes", panel: Data, things: str, colour: str) -> None:
    bins = columns_of(panel["bins"], "probability", "observed", "low", "high")
    p, observed = bins[:, 0], bins[:, 1]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (1, 2.5)), zorder=1)
    axes.vlines(p, bins[:, 2], bins[:, 3], color=colour, alpha=0.4, linewidth=2.0, zorder=2)
    axes.plot(p, observed, "o", color=colour, markersize=6, markeredgecolor="white", zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=f"observed share of {things}")
    axes.text(
        0.03,
        0.97,
        "Above the line: comes true more often than predicted.\n"
        "Dots: bins of equal mass; bars: 95 % intervals.",
        transform=axes.transAxes,
        va="top",
        fontsize=9,
        color=MUTED,
        linespacing=1.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )


def _histogram(axes: "Axes", panel: Data) -> None:
    histogram = columns_of(panel["histogram"], "from", "to", "n")
    widths = histogram[:, 1] - histogram[:, 0]
    axes.bar(histogram[:, 0], histogram[:, 2], widths * 0.9, align="edge", color="#5B9FCB")
    axes.set(ylabel="queries")
    axes.locator_params(axis="y", nbins=3, integer=True)


def draw_difficulty(data: Data) -> "Figure":
    """Accuracy before and after escalation, and the share escalated, by difficulty."""
    with plot_style():
        figure = new_figure(9.2, 5.0)
        members = data["members"]
        columns = (
            ("by_members_right", "members that are right", 0.08),
            ("by_votes", "members behind the vote", 0.56),
        )
        for key, words, left in columns:
            groups = data[key]
            above = figure.add_axes((left, 0.46, 0.42, 0.51))
            below = figure.add_axes((left, 0.17, 0.42, 0.24), sharex=above)
            _before_and_after(above, groups, named=left < 0.5)
            _escalated(below, groups, members)
            crowded = len(groups) > _ROOMY
            below.set_xlabel(
                f"{words}, of {members}, and number of queries" if crowded else words, labelpad=8
            )
            if left < 0.5:
                above.set_ylabel("accuracy")
                below.set_ylabel("escalated")
    return figure


def _with_note(label: str, note: str) -> str:
    """A label with the price note under it, shortened to what fits; literal dollar signs."""
    short = note if len(note) <= 110 else f"{note[:107].rstrip()}..."
    return f"{label}\n{short}".rstrip().replace("$", r"\$")


def _limits(axes: "Axes", data: Data) -> None:
    """Show what is decided about; weaker members may lie below the frame."""
    alone = ("member", "mid_oracle")
    kept = [row["accuracy"] for row in data["points"] if row["kind"] not in alone]
    kept += [
        row["accuracy"]
        for name in ("router", "sequential", "operating_points", "hindsight")
        for row in data[name]
    ]
    low, high = min(kept), max(kept)
    room = max(high - low, 0.02)
    members = [row["accuracy"] for row in data["points"] if row["kind"] in alone]
    low = min([low, *(share for share in members if share > low - 0.4 * room)])
    room = max(high - low, room)
    drawn = ("router", "points", "sequential", "operating_points")
    right = max(row["x"] for name in drawn for row in data[name])
    axes.set_xlim(-0.02 * right, 1.05 * right)
    axes.set_ylim(max(low - 0.2 * room, -0.05), high + 0.12 * room)


def _marks(axes: "Axes", data: Data) -> list[Label]:
    """Draw the points and say what to write beside them, the most important first."""
    floor, points = axes.get_ylim()[0], data["points"]
    by_steps = any(
        row["policy"] == "sequential" and row["evaluated"] for row in data["operating_points"]
    )
    strictest = max(float(row["name"]) for row in points if row["kind"] == "vote_rule")
    labels, below = [], []
    ours = {_place(row) for row in points if row["kind"] == _OURS}
    shared = [
        row["name"]
        for row in data["operating_points"]
        if not row["evaluated"] and _place(row) in ours
    ]
    kinds = (_OURS, "oracle", "hindsight", "ensemble", "vote_rule", "mid_oracle")
    for kind in (*kinds, "member"):
        for row in (row for row in points if row["kind"] == kind):
            hidden = row["accuracy"] < floor
            y = floor if hidden else row["accuracy"]
            edge = STEPS if by_steps and kind == _OURS else _MARKS[kind][3]
            _mark(axes, kind, row["x"], y, edge=edge, hidden=hidden)
            if hidden:
                below.append(row)
            elif kind != "vote_rule" or float(row["name"]) == strictest:
                labels.append(_point_label(row, edge, also=shared if kind == _OURS else ()))
    if below:
        _list_below(axes, below)
    return labels


def _list_below(axes: "Axes", members: list[Data]) -> None:
    """Name members under the frame, in the corner where cheap curves seldom come."""
    lines = [f"{_short(row['name'])}: {_share(row['accuracy'])}" for row in members[:_LISTED]]
    more = [f"and {len(members) - _LISTED} more"] if len(members) > _LISTED else []
    axes.text(
        0.985,
        0.03,
        "\n".join(["\N{BLACK DOWN-POINTING TRIANGLE} below the frame", *lines, *more]),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=9,
        color=MUTED,
        linespacing=1.4,
        parse_math=False,
    )


def _mark(axes: "Axes", kind: str, x: float, y: float, *, edge: str, hidden: bool) -> None:
    marker, size, face, _ = _MARKS[kind]
    axes.plot(
        x,
        y,
        "v" if hidden else marker,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=2.0 if kind == "operating_point" else 0.8,
        clip_on=False,
        zorder={"operating_point": 6, "vote_rule": 3.5}.get(kind, 4),
    )


def _other_points(axes: "Axes", data: Data) -> list[Label]:
    """Draw the operating points that were not evaluated; those at one place share their label."""
    names: dict[tuple[float, float], list[str]] = {}
    colours = {}
    taken = {_place(row) for row in data["points"] if row["kind"] == "operating_point"}
    for row in data["operating_points"]:
        place = _place(row)
        if place in taken:  # its label says so
            continue
        colours[place] = STEPS if row["policy"] == "sequential" else ROUTER
        names.setdefault(place, []).append(_short(row["name"]))
    for (x, y), colour in colours.items():
        axes.plot(
            x,
            y,
            "o",
            markersize=6.0,
            markerfacecolor="white",
            markeredgecolor=colour,
            markeredgewidth=1.4,
            clip_on=False,
            zorder=5,
        )
    return [
        Label(x=place[0], y=place[1], text=", ".join(shared), colour=colours[place])
        for place, shared in names.items()
    ]


def _place(row: Data) -> tuple[float, float]:
    return (round(row["x"], 4), round(row["accuracy"], 4))


def _point_label(row: Data, edge: str, *, also: Sequence[str] = ()) -> Label:
    kind, name = row["kind"], _short(row["name"])
    words = {
        "operating_point": _short(", ".join([f"router, {row['name']}", *also]), length=60),
        "oracle": name if name == "oracle" else f"{name} (oracle)",
        "vote_rule": "vote, all agree",
    }.get(kind, name)
    return Label(
        x=row["x"],
        y=row["accuracy"],
        text=f"{words}: {_share(row['accuracy'])}",
        colour=edge,
        weight="bold" if kind == "operating_point" else "normal",
    )


def _short(name: str, *, length: int = _NAME_LENGTH) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _on_line(line: FloatArray, share: float, text: str, colour: str) -> Label:
    x = line[0, 0] + share * (line[-1, 0] - line[0, 0])
    return Label(x=x, y=float(np.interp(x, line[:, 0], line[:, 1])), text=text, colour=colour)


def _before_and_after(axes: "Axes", groups: list[Data], *, named: bool) -> None:
    where = np.arange(len(groups))
    before, after = columns_of(groups, "accuracy_before", "accuracy_after").T
    axes.vlines(where, before, after, color="#BBBBBB", linewidth=2.5, zorder=2)
    axes.plot(
        where,
        before,
        "o",
        markersize=8,
        color="white",
        markeredgecolor=BEFORE,
        markeredgewidth=2,
        zorder=3,
        label="ensemble alone",
    )
    axes.plot(where, after, "o", markersize=8, color=ROUTER, zorder=4, label="final answers")
    axes.set(xlim=(-0.6, len(groups) - 0.4), ylim=(-0.05, 1.05))
    axes.tick_params(labelbottom=False, bottom=False)
    percent_axes(axes, x=False)
    if named:
        axes.legend(loc="lower left", frameon=False, fontsize=9, handletextpad=0.3)


def _escalated(axes: "Axes", groups: list[Data], members: int) -> None:
    where = np.arange(len(groups))
    shares = columns_of(groups, "escalated")[:, 0]
    axes.bar(where, shares, width=0.62, color="#E39A63")
    for x, share in zip(where, shares, strict=True):
        axes.annotate(
            f"{100 * share:.0f} %",
            (float(x), float(share)),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    axes.set(ylim=(0, 1.15), yticks=[0, 0.5, 1])
    few = len(groups) <= _ROOMY
    ticks = [
        f"{row['group']} of {members}\nn = {row['n']:,}" if few else f"{row['group']}\n{row['n']:,}"
        for row in groups
    ]
    axes.set_xticks(where, ticks, fontsize=9 if len(groups) <= 2 * _ROOMY else 7)
    axes.tick_params(bottom=False)
    percent_axes(axes, x=False)
