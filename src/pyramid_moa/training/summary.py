"""The figures of an evaluation as a short table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["aligned", "summary"]


def summary(metrics: Mapping[str, Any]) -> str:
    """Set members, vote rule, router, oracle and hindsight side by side.

    Args:
        metrics: what metrics.json holds.

    Returns:
        The table, with what must be known of prices and references under it.
    """
    vote, point = metrics["vote_rule"], metrics["operating_point"]
    rows: list[tuple[str, ...]] = [("", "accuracy", "escalated", "cost ratio", "FLOPs ratio")]
    for name, accuracy in metrics["members"].items():
        cost = metrics["member_costs"][name]
        rows.append(_row(name, accuracy, 0.0, cost))
    rows.append(_row("ensemble alone", metrics["ensemble"]["accuracy"], 0.0, metrics["ensemble"]))
    rows.append(_row("vote rule (all agree)", vote["accuracy"], vote["escalation_rate"], vote))
    if point["name"] != "vote":
        title = f"router, {point['name']}"
        rows.append(_row(title, point["accuracy"], point["escalation_rate"], point))
        equal = metrics["router_at_vote_cost"]
        rows.append(
            _row("router, as many calls", equal["accuracy"], equal["escalation_rate"], equal)
        )
    rows.append(
        _row(metrics["oracle"]["name"], metrics["oracle"]["accuracy"], 1.0, metrics["oracle"])
    )
    best = metrics["hindsight"]
    rows.append(_row("hindsight", best["accuracy"], best["escalation_rate"], best))
    return "\n".join([*aligned(rows), *_notes(metrics)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(
    name: str, accuracy: float | None, escalated: float | None, cost: Mapping[str, Any]
) -> tuple[str, ...]:
    return (
        name,
        _percent(accuracy),
        _percent(escalated),
        _ratio(cost.get("cost_ratio")),
        _ratio(cost.get("cost_ratio_flops")),
    )


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    notes = [
        f"{metrics['n']} questions; failure AUROC {_ratio(metrics['failure_auroc'])} "
        f"(agreement {_ratio(metrics['agreement_auroc'])}), ECE {_ratio(metrics['ece'])}"
    ]
    if metrics["reference"] == "oracle":
        notes.append("no gold: every figure is against the oracle's answers")
    if metrics["tokens_estimated"]:
        notes.append("token counts are estimates, and so are costs")
    if metrics["price_note"]:
        notes.append(f"prices: {metrics['price_note']}")
    if metrics["failed_generations"]:
        notes.append(f"{metrics['failed_generations']} generations failed")
    return notes


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
