"""What the operating points of a checkpoint come to on evaluated queries, and their promises."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.training.bootstrap import bootstrap, percentile_interval
from pyramid_moa.training.deferral import cost_ratio
from pyramid_moa.training.outcomes import FloatArray, Outcomes

__all__ = ["PROMISED", "PointResult", "point_rows"]

PROMISED = {
    "target_accuracy": ("accuracy", True),
    "max_drop": ("drop", False),
    "target_cost_ratio": ("cost_ratio", False),
    "max_usd_per_1000": ("usd_per_1000", False),
}
"""By kind of promise the figure that it is about, and whether more of it is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointResult:
    """An operating point, and what it did with the evaluated queries.

    Attributes:
        point: as the checkpoint has it.
        outcomes: of the n queries, decided by it.
    """

    point: OperatingPoint
    outcomes: Outcomes


def point_rows(
    results: Sequence[PointResult], *, seed: int = 0, resamples: int = 1000
) -> list[dict[str, object]]:
    """Set what each point was chosen and promised for beside what it came to.

    Args:
        results: of the same n queries, P points.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        A row a point: ``name``, ``policy``, ``rule``, ``threshold``, ``target``, ``chosen`` (on
        which split, on how many questions, and the figures there), ``accuracy``,
        ``escalation_rate``, ``cost_ratio``, ``cost_ratio_flops``, ``usd_per_1000``, ``drop`` (the
        oracle's accuracy less the point's), the 95 % ``intervals`` of these, and ``promise``, None
        where there is none.
    """
    if not results:
        return []
    n = results[0].outcomes.n
    columns = _columns([result.outcomes for result in results])

    def figures(weights: FloatArray) -> dict[str, FloatArray]:
        return _figures({name: weights @ column / n for name, column in columns.items()})

    measured = {name: values[0] for name, values in figures(np.ones((1, n))).items()}
    drawn = bootstrap(figures, n, seed=seed, resamples=resamples)
    rows: list[dict[str, object]] = []
    for place, result in enumerate(results):
        point = result.point
        values = {name: float(column[place]) for name, column in measured.items()}
        intervals = {name: percentile_interval(column[:, place]) for name, column in drawn.items()}
        rows.append(
            {
                "name": point.name,
                "policy": point.policy,
                "rule": point.rule,
                "threshold": point.threshold,
                "target": point.target,
                "chosen": {
                    "split": point.split,
                    "questions": point.questions,
                    "accuracy": point.accuracy,
                    "escalation_rate": point.escalation_rate,
                    "cost_ratio": point.cost_ratio,
                },
                **values,
                "intervals": intervals,
                "promise": _promise(point.promise, values, intervals),
            }
        )
    return rows


def _columns(outcomes: Sequence[Outcomes]) -> dict[str, FloatArray]:
    """What is averaged over the queries, [n, P] each, and [n, 1] of the oracle alone."""
    first = outcomes[0]

    def each(name: str) -> FloatArray:
        return np.stack([getattr(rows, name) for rows in outcomes], axis=1).astype(np.float64)

    return {
        "right": each("final_correct"),
        "escalated": each("escalated"),
        "usd": each("final_cost_usd"),
        "flops": each("final_flops"),
        "oracle_right": first.oracle_correct[:, None].astype(np.float64),
        "oracle_usd": first.oracle_cost_usd[:, None],
        "oracle_flops": first.oracle_flops[:, None],
    }


def _figures(means: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """From means [b, P] to figures [b, P]."""
    return {
        "accuracy": means["right"],
        "escalation_rate": means["escalated"],
        "cost_ratio": cost_ratio(means["usd"], means["oracle_usd"]),
        "cost_ratio_flops": cost_ratio(means["flops"], means["oracle_flops"]),
        "usd_per_1000": 1000 * means["usd"],
        "drop": means["oracle_right"] - means["right"],
    }


def _promise(
    promise: Promise | None,
    measured: dict[str, float],
    intervals: dict[str, list[float] | None],
) -> dict[str, object] | None:
    """A promise beside what it came to; of several targets, each by itself.

    ``held`` is ``yes`` where the measured value keeps it, ``within sampling error`` where it does
    not but its 95 % interval reaches what was promised, ``no`` where that lies outside, and
    ``unknown`` where nothing could be measured.
    """
    if promise is None:
        return None
    first, *others = (_target(kind, value, measured, intervals) for kind, value in promise.targets)
    return {
        **first,
        "confidence": promise.confidence,
        "questions": promise.questions,
        "method": promise.method,
        "others": others,
    }


def _target(
    kind: str,
    promised: float,
    measured: dict[str, float],
    intervals: dict[str, list[float] | None],
) -> dict[str, object]:
    # A kind that a later version promises is shown, and nothing said of it.
    figure, more_is_better = PROMISED.get(kind, ("", True))
    value, interval = measured.get(figure, np.nan), intervals.get(figure)
    sign = 1.0 if more_is_better else -1.0

    def keeps(reached: float) -> bool:
        return sign * (reached - promised) >= -1e-9

    best = value if interval is None else interval[1 if more_is_better else 0]
    if np.isnan(value):
        held = "unknown"
    elif keeps(value):
        held = "yes"
    else:
        held = "within sampling error" if keeps(best) else "no"
    return {
        "kind": kind,
        "value": promised,
        "figure": figure,
        "measured": value,
        "interval": interval,
        "held": held,
    }
