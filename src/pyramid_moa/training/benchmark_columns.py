"""The figures of a benchmark in words: title, unit and meaning, in the order of its page."""

from dataclasses import dataclass

from pyramid_moa.training.head_to_head_figures import COST_RATIOS
from pyramid_moa.training.head_to_head_table import POOLED_COST

__all__ = ["BESIDE", "COLUMNS", "Column"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure as a column of a table.

    Attributes:
        figure: its name in the CSV files.
        title: of the column.
        how: it is written, as `report_text.write` takes it.
        meaning: what it is.
    """

    figure: str
    title: str
    how: str
    meaning: str


def _column(figure: str, title: str, how: str, meaning: str) -> Column:
    return Column(figure=figure, title=title, how=how, meaning=meaning)


COLUMNS = (
    _column(
        "area",
        "Area",
        "number",
        "mean accuracy over all budgets from what all members cost to what members and oracle cost",
    ),
    *(
        _column(
            f"accuracy_at_cost_{ratio}",
            f"Accuracy at {ratio}",
            "share",
            f"on the curve of the budgets, at {ratio} of the cost of asking the oracle every time",
        )
        for ratio in COST_RATIOS
    ),
    _column(
        "cost_ratio_at_parity",
        "Parity at",
        "number",
        "cost over the oracle's at which that curve, smoothed, comes within 0.1 point of it",
    ),
    _column(
        "accuracy_at_abc_cost",
        "Accuracy at ABC's cost",
        "share",
        "of the setting that cost as much as the vote rule, all agree (ABC), on the training folds",
    ),
    _column("cost_at_abc_cost", "its cost", "number", "what that setting cost here, over ABC's"),
    _column(
        "cost_at_abc_accuracy",
        "Cost at ABC's accuracy",
        "number",
        "over ABC's, of the cheapest setting that was as accurate as ABC on the training folds",
    ),
    _column(
        "accuracy_at_abc_accuracy", "its accuracy", "share", "how accurate that setting was here"
    ),
    _column(
        "cost_at_abc_accuracy_on_curve",
        "On the curve",
        "number",
        "cost over ABC's at which a run's smoothed curve reaches ABC's accuracy",
    ),
    _column(
        POOLED_COST,
        "On the pooled curve",
        "number",
        "the same of the mean of the runs' curves relative to ABC",
    ),
    _column(
        "failure_auroc",
        "Failure AUROC",
        "number",
        "how well wrong answers of the vote are told from right ones, within folds",
    ),
    _column(
        "failure_average_precision", "Average precision", "number", "of the same scores, likewise"
    ),
    _column("ece", "ECE", "number", "calibration error of the probabilities, in ten bins"),
    _column(
        "ece_in_excess",
        "ECE in excess",
        "number",
        "of what perfectly calibrated probabilities show on as many questions",
    ),
    _column("brier", "Brier", "number", "mean squared error of the probabilities"),
    _column(
        "apgr",
        "APGR",
        "number",
        "mean share of the gap between vote and oracle that is closed, over shares of oracle calls",
    ),
    *(
        _column(
            f"cpt_{part}",
            f"CPT {part} %",
            "share",
            f"share of oracle calls at which {part} % of that gap are closed",
        )
        for part in (20, 50, 80)
    ),
    _column(
        "aiq", "AIQ", "number", "mean accuracy on the hull of all settings up to the cost of all"
    ),
    _column(
        "headroom_captured",
        "Headroom captured",
        "number",
        "(most accurate setting - best single model) / (hindsight - best single model)",
    ),
    _column(
        "most_accurate",
        "Most accurate",
        "share",
        "accuracy of the setting that was most accurate on the training folds",
    ),
)
"""Every figure once."""

_BESIDE = (
    "failure_auroc",
    "failure_average_precision",
    "area",
    "aiq",
    "accuracy_at_abc_cost",
    "accuracy_at_cost_0.4",
    "ece_in_excess",
    "brier",
)
BESIDE = tuple(column for column in COLUMNS if column.figure in _BESIDE)
"""Those whose differences between rules the page shows; the CSV files have them all."""
