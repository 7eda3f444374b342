"""Plots of a benchmark: every rule's accuracy against its cost, a run and over all runs."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa.atomic_files import write_text_atomically, written_aside
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_figures import RELATIVE_COSTS
from pyramid_moa.training.head_to_head_pooling import Pool
from pyramid_moa.training.head_to_head_results import ABC, BUDGETS, RuleResult
from pyramid_moa.training.plot_style import (
    HINDSIGHT,
    INK,
    MUTED,
    ROUTER,
    VOTE,
    new_figure,
    percent_axes,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_run", "draw_suite", "run_curves", "write_run_plot", "write_suite_plot"]

# Okabe and Ito's palette; our router and the vote as in the reports.
_LOOKS: dict[str, dict[str, Any]] = {
    "router": {"color": ROUTER, "linewidth": 2.4, "zorder": 5},
    "vote": {"color": VOTE, "linewidth": 2.0, "marker": "D", "zorder": 4},
    "hindsight": {"color": HINDSIGHT, "linewidth": 1.2, "linestyle": (0, (5, 3))},
    "random": {"color": MUTED, "linewidth": 1.0, "linestyle": (0, (1, 2.5))},
    "query-only": {"color": "#E69F00", "linewidth": 1.2},
    "scorer": {"color": "#CC79A7", "linewidth": 1.2},
    "cascade-routing": {"color": "#56B4E9", "linewidth": 1.6},
    "self-check": {"color": "#9A8F00", "linewidth": 1.2},
    "hidden-probe": {"color": "#7A3E9D", "linewidth": 1.2},
}
_POINTS = {"members-only": ("s", MUTED), "oracle-only": ("^", INK)}

Rows = list[dict[str, Any]]


def run_curves(data: RuleRun, results: Mapping[str, RuleResult]) -> Rows:
    """Points of every rule's curve, chosen on training folds and measured on the test folds.

    Args:
        data: the run.
        results: by rule.

    Returns:
        Rows of rule, budget (``all agree`` for ABC itself), cost_ratio and accuracy.
    """
    oracle = data.cost[:, data.oracle].sum()
    rows: Rows = []
    for rule, result in results.items():
        accuracy = result.chosen_correct.mean(axis=1)
        cost = result.chosen_cost.sum(axis=1) / oracle
        kept = [0] if rule in _POINTS else [*range(BUDGETS), *([ABC] if rule == "vote" else [])]
        last: tuple[float, float] | None = None
        for index in kept:
            point = float(cost[index]), float(accuracy[index])
            # Budgets below the cheapest setting and beyond the best one repeat it.
            if point != last or index == ABC:
                name = "all agree" if index == ABC else index
                rows.append(
                    {"rule": rule, "budget": name, "cost_ratio": point[0], "accuracy": point[1]}
                )
            last = point
    return rows


def write_run_plot(rows: Rows, title: str, stem: Path) -> None:
    """Draw a run and write down the numbers.

    Args:
        rows: as `run_curves` gives them.
        title: the pyramid, in words.
        stem: path of the files without ``.csv``, ``.svg`` and ``.png``; its folder exists.
    """
    write_text_atomically(Path(f"{stem}.csv"), csv_text(rows))
    with plot_style():
        _save(draw_run(rows, title), stem)


def write_suite_plot(pool: Pool, folder: Path) -> None:
    """Write ``suite_pareto.csv``, ``.svg`` and ``.png`` of all runs together."""
    rows = list(_suite_rows(pool))
    write_text_atomically(folder / "suite_pareto.csv", csv_text(rows))
    with plot_style():
        _save(draw_suite(rows), folder / "suite_pareto")


def draw_run(rows: Rows, title: str) -> "Figure":
    """Accuracy against all-in cost over the oracle's."""
    figure = new_figure(8.4, 5.4)
    axes = figure.add_axes((0.125, 0.12, 0.6, 0.8))
    axes.set(xlabel="cost over that of asking the oracle every time", ylabel="accuracy")
    axes.set_title(title.replace("$", r"\$"), fontsize=9, color=MUTED)
    _lines(axes, rows, "cost_ratio", "accuracy")
    percent_axes(axes)
    return figure


def draw_suite(rows: Rows) -> "Figure":
    """Accuracy less ABC's against cost over ABC's, mean over runs."""
    figure = new_figure(8.4, 5.4)
    axes = figure.add_axes((0.125, 0.12, 0.6, 0.84))
    axes.set(
        xlabel="cost over that of the vote rule (all agree)",
        ylabel="accuracy less the vote rule's",
    )
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    axes.axvline(1.0, color=MUTED, linewidth=0.8)
    _lines(axes, rows, "cost_over_abc", "accuracy_less_abc")
    percent_axes(axes)
    return figure


def _lines(axes: "Axes", rows: Rows, x: str, y: str) -> None:
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == rule and row.get("budget") != "all agree"]
        places = np.array([[row[x], row[y]] for row in own], dtype=np.float64)
        if rule in _POINTS:
            marker, colour = _POINTS[rule]
            axes.plot(*places.T, marker, color=colour, label=rule, zorder=6)
            continue
        look = dict(_LOOKS.get(rule, {"linewidth": 1.2}))
        marker = look.pop("marker", None)
        axes.plot(*places.T, label=rule, **look)
        for row in rows:
            if row["rule"] == rule and row.get("budget") == "all agree":
                axes.plot(row[x], row[y], marker, color=look["color"], label="vote, all agree")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)


def _suite_rows(pool: Pool) -> Iterator[dict[str, Any]]:
    everywhere = max(len(pool.runs(rule)) for rule in pool.rules)
    for rule in pool.rules:
        # A mean over other runs would be no comparison.
        if rule in _POINTS or len(pool.runs(rule)) < everywhere:
            continue
        for cost, accuracy in zip(RELATIVE_COSTS, pool.relative_curve(rule)[0], strict=True):
            if not math.isnan(accuracy):
                yield {
                    "rule": rule,
                    "cost_over_abc": float(cost),
                    "accuracy_less_abc": float(accuracy),
                }


def _save(figure: "Figure", stem: Path) -> None:
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
        with written_aside(Path(f"{stem}{suffix}")) as aside:
            figure.savefig(aside, format=suffix[1:], metadata=metadata)
