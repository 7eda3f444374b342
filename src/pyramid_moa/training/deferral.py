"""Deferral curves: accuracy and all-in cost against how often the oracle is asked.

All costs are all-in and relative to asking the oracle for every query: what every member's answer
to every query costs, and what the oracle's answers to the escalated ones cost, over what the
oracle's answers to all of them cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.failure_scores import rank
from pyramid_moa.training.outcomes import BoolArray, FloatArray, Outcomes

__all__ = [
    "ALWAYS",
    "DeferralCurve",
    "area_under_hull",
    "cost_ratio",
    "hindsight_curve",
    "hindsight_escalates",
    "random_curve",
    "router_curve",
    "thinned",
    "upper_hull",
    "vote_curve",
]

ALWAYS = -1.0
"""A threshold below every probability: the oracle is asked for every query."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeferralCurve:
    """Points from asking the oracle least to most often.

    Attributes:
        thresholds: of the rule, float [k]; nan where the rule has none.
        escalation_rate: share of queries that go to the oracle, float [k].
        accuracy: float [k].
        cost_ratio: in USD, float [k]; nan where prices are unknown or the oracle costs nothing.
        cost_ratio_flops: in FLOPs, float [k]; nan likewise.
    """

    thresholds: FloatArray
    escalation_rate: FloatArray
    accuracy: FloatArray
    cost_ratio: FloatArray
    cost_ratio_flops: FloatArray

    def points(self, kept: Iterable[int] | None = None) -> list[dict[str, float | None]]:
        """Give the points as JSON-ready mappings, None for nan.

        Args:
            kept: which points; all of them where it is None.
        """
        columns = {
            "threshold": self.thresholds,
            "escalation_rate": self.escalation_rate,
            "accuracy": self.accuracy,
            "cost_ratio": self.cost_ratio,
            "cost_ratio_flops": self.cost_ratio_flops,
        }
        chosen = range(len(self.accuracy)) if kept is None else kept
        return [
            {
                name: None if np.isnan(column[index]) else float(column[index])
                for name, column in columns.items()
            }
            for index in chosen
        ]


def cost_ratio(spent: FloatArray | float, oracle_alone: FloatArray | float) -> FloatArray:
    """Divide what was spent by what the oracle alone costs; nan where that is zero or unknown."""
    spent, oracle_alone = np.asarray(spent, np.float64), np.asarray(oracle_alone, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: FloatArray = np.where(oracle_alone > 0, spent / oracle_alone, np.nan)
    return quotient


def router_curve(outcomes: Outcomes) -> DeferralCurve:
    """Escalate where ``p_ensemble_fails`` is above a threshold.

    One point for every distinct probability as the threshold, from the largest (nothing is above
    it: no query is escalated) to the smallest, and one more, `ALWAYS`, for all queries. Every
    member is asked.
    """
    ranking = rank(outcomes.p_ensemble_fails)
    taken = np.concatenate([[0], ranking.ends + 1])
    thresholds = np.append(ranking.scores, ALWAYS)
    return _curve_by_order(outcomes, outcomes.ensemble_correct, ranking.order, taken, thresholds)


def vote_curve(outcomes: Outcomes) -> DeferralCurve:
    """Escalate where the vote is empty or its share is below theta (agreement-based cascading).

    One point for every attainable theta, rising, and theta 1 (all members agree) at the end.
    """
    shares = np.unique(np.round(outcomes.vote_share, 9))
    thetas = np.unique(np.append(shares[shares > 0], 1.0))
    masks = [~outcomes.accepted_by_vote(float(theta)) for theta in thetas]
    return _curve_by_masks(outcomes, outcomes.vote_correct, masks, thetas)


def hindsight_escalates(outcomes: Outcomes) -> BoolArray:
    """Where asking the oracle helps: the ensemble is wrong and the oracle right, bool [n]."""
    return ~outcomes.ensemble_correct & outcomes.oracle_correct


def hindsight_curve(outcomes: Outcomes) -> DeferralCurve:
    """Know every answer beforehand: escalate where it helps, then where it is idle, then harms.

    Among equals the cheapest oracle answer first. n + 1 points; no router can lie above it.
    """
    gain = outcomes.oracle_correct.astype(np.int64) - outcomes.ensemble_correct
    order = np.lexsort((outcomes.oracle_cost_usd, -gain))
    taken = np.arange(outcomes.n + 1)
    nothing = np.full(outcomes.n + 1, np.nan)
    return _curve_by_order(outcomes, outcomes.ensemble_correct, order, taken, nothing)


def random_curve(outcomes: Outcomes) -> DeferralCurve:
    """Escalate at random: the straight line, as its two ends."""
    none, every = np.zeros(outcomes.n, dtype=np.bool_), np.ones(outcomes.n, dtype=np.bool_)
    nothing = np.full(2, np.nan)
    return _curve_by_masks(outcomes, outcomes.ensemble_correct, [none, every], nothing)


def thinned(curve: DeferralCurve, *, limit: int = 200, kept: Iterable[int] = ()) -> list[int]:
    """Choose points that stand for a long curve, spread evenly over the escalation rate.

    Args:
        curve: the curve.
        limit: how many points at most, beside those in ``kept``.
        kept: points that must be there.

    Returns:
        Rising indices; the first and the last are always among them.
    """
    total = len(curve.accuracy)
    if total <= limit:
        return list(range(total))
    wished = np.linspace(0.0, 1.0, limit)
    nearest = np.searchsorted(curve.escalation_rate, wished).clip(0, total - 1)
    return sorted({0, total - 1, *map(int, nearest), *kept})


def upper_hull(costs: FloatArray, accuracies: FloatArray) -> NDArray[np.float64]:
    """Non-decreasing upper convex hull of points of cost and accuracy.

    Args:
        costs: float [k], without nan.
        accuracies: float [k].

    Returns:
        Corners [h, 2] of rising cost and accuracy.
    """
    corners: list[tuple[float, float]] = []
    for index in np.lexsort((-accuracies, costs)):
        cost, accuracy = float(costs[index]), float(accuracies[index])
        if corners and accuracy <= corners[-1][1]:
            continue  # dearer and no better
        while len(corners) > 1 and not _turns_right(corners[-2], corners[-1], (cost, accuracy)):
            corners.pop()
        corners.append((cost, accuracy))
    return np.array(corners, dtype=np.float64)


def area_under_hull(costs: FloatArray, accuracies: FloatArray) -> float | None:
    """Average improvement in quality (AIQ, RouterBench, Hu et al. 2024, section 3).

    The mean accuracy, over all budgets from the least to the largest cost, on the non-decreasing
    convex hull of the points, extended flat to the largest cost.

    Args:
        costs: float [k].
        accuracies: float [k].

    Returns:
        The mean; None where a cost is unknown or all are the same.
    """
    if np.any(np.isnan(costs)) or np.ptp(costs) == 0:
        return None
    corners = upper_hull(costs, accuracies)
    budget = np.append(corners[:, 0], np.max(costs))
    reached = np.append(corners[:, 1], corners[-1, 1])
    return float(np.trapezoid(reached, budget) / np.ptp(costs))


def _turns_right(
    first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]
) -> bool:
    cross = (second[0] - first[0]) * (third[1] - first[1])
    cross -= (second[1] - first[1]) * (third[0] - first[0])
    return cross < 0


def _curve_by_order(
    outcomes: Outcomes,
    own_correct: BoolArray,
    order: NDArray[np.intp],
    taken: NDArray[np.intp],
    thresholds: FloatArray,
) -> DeferralCurve:
    """Escalate the first ``taken`` rows of an order, k counts."""

    def first(values: FloatArray | NDArray[np.int64]) -> FloatArray:
        sums: FloatArray = np.concatenate([[0.0], np.cumsum(values[order])])[taken]
        return sums

    gain = outcomes.oracle_correct.astype(np.int64) - own_correct
    return DeferralCurve(
        thresholds=thresholds,
        escalation_rate=taken / outcomes.n,
        accuracy=(np.sum(own_correct) + first(gain)) / outcomes.n,
        cost_ratio=cost_ratio(
            np.sum(outcomes.member_cost_usd) + first(outcomes.oracle_cost_usd),
            np.sum(outcomes.oracle_cost_usd),
        ),
        cost_ratio_flops=cost_ratio(
            np.sum(outcomes.member_flops) + first(outcomes.oracle_flops),
            np.sum(outcomes.oracle_flops),
        ),
    )


def _curve_by_masks(
    outcomes: Outcomes, own_correct: BoolArray, masks: list[BoolArray], thresholds: FloatArray
) -> DeferralCurve:
    """Escalate each mask's rows, k masks."""
    asked = np.array(masks)  # [k, n]
    correct = np.where(asked, outcomes.oracle_correct, own_correct)
    return DeferralCurve(
        thresholds=thresholds,
        escalation_rate=np.mean(asked, axis=1),
        accuracy=np.mean(correct, axis=1),
        cost_ratio=cost_ratio(
            np.sum(outcomes.member_cost_usd) + asked @ outcomes.oracle_cost_usd,
            np.sum(outcomes.oracle_cost_usd),
        ),
        cost_ratio_flops=cost_ratio(
            np.sum(outcomes.member_flops) + asked @ outcomes.oracle_flops,
            np.sum(outcomes.oracle_flops),
        ),
    )
