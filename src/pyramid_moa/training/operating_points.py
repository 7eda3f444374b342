"""Choosing thresholds on queries that the network was not fitted on."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import PyramidError
from pyramid_moa.router_model.policy import OperatingPoint, Rule
from pyramid_moa.training.outcomes import BoolArray, FloatArray, Outcomes

__all__ = [
    "NotAttainableError",
    "ThresholdTable",
    "default_points",
    "replaced",
    "threshold_table",
]


class NotAttainableError(PyramidError):
    """No operating point meets the target, or none is proven to, on these questions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdTable:
    """What each threshold comes to; row 0 never asks the oracle, the last row always.

    Attributes:
        thresholds: [T], falling; between two scores, so that no rounding decides.
        accepted: [T], the largest score that each accepts; -inf where none is.
        accuracy: [T].
        lost: share of queries that are accepted and wrong where the oracle is right, [T].
        gained: share that are accepted and right where the oracle is wrong, [T].
        escalation_rate: [T].
        cost_ratio: [T], all-in; nan where the oracle costs nothing.
        oracle_accuracy: of asking the oracle every time.
        vote_accuracy: of the vote rule (all agree).
        vote_escalation_rate: of the vote rule.
        split: the queries' split.
        questions: their number.
        rule: what the thresholds are compared with.
    """

    thresholds: FloatArray
    accepted: FloatArray
    accuracy: FloatArray
    lost: FloatArray
    gained: FloatArray
    escalation_rate: FloatArray
    cost_ratio: FloatArray
    oracle_accuracy: float
    vote_accuracy: float
    vote_escalation_rate: float
    split: str
    questions: int
    rule: Rule = "failure"

    def cheapest_with_accuracy(self, accuracy: float, *, name: str, target: str) -> OperatingPoint:
        """The point that asks the oracle least often and still has this accuracy.

        Raises:
            NotAttainableError: there is none; the most accurate one is named.
        """
        good = np.flatnonzero(self.accuracy >= accuracy - 1e-12)
        if not len(good):
            best = int(np.argmax(self.accuracy))
            raise NotAttainableError(
                f"{target}: not attainable on the {self.questions} questions of {self.split}; "
                f"the most accurate threshold there is {self.thresholds[best]:.4f} with accuracy "
                f"{self.accuracy[best]:.4f}"
            )
        return self._point(int(good[0]), name=name, target=target)

    def best_within_cost(self, cost_ratio: float, *, name: str, target: str) -> OperatingPoint:
        """The most accurate point whose cost ratio is at most this.

        Raises:
            NotAttainableError: even never asking the oracle costs more, or costs are unknown.
        """
        good = np.flatnonzero(self.cost_ratio <= cost_ratio + 1e-12)
        if not len(good):
            least = self.cost_ratio[0]
            raise NotAttainableError(
                f"{target}: not attainable: the members alone cost {least:.4f} of the oracle"
                if np.isfinite(least)
                else f"{target}: there is no cost ratio, because the oracle's price is 0"
            )
        best = good[np.argmax(self.accuracy[good])]
        return self._point(int(best), name=name, target=target)

    @property
    def oracle_accuracy_smoothed(self) -> float:
        """The oracle's accuracy by the rule of succession: never quite certain."""
        return (self.oracle_accuracy * self.questions + 1) / (self.questions + 2)

    def at_threshold(self, threshold: float, *, name: str, target: str) -> OperatingPoint:
        """The point of this very threshold, with what it came to here."""
        row = int(np.argmax(self.accepted <= threshold))
        return replace(self._point(row, name=name, target=target), threshold=threshold)

    def at_escalation_rate(self, rate: float, *, name: str, target: str) -> OperatingPoint:
        """The point that asks the oracle at most so often; no label has a part in it."""
        good = np.flatnonzero(self.escalation_rate <= rate + 1e-12)
        return self._point(int(good[-1]), name=name, target=target)

    def curve(self, *, points: int = 50) -> list[dict[str, float | None]]:
        """Some rows of the table as plain values, both ends among them."""
        return [
            {
                "threshold": float(self.thresholds[row]),
                "escalation_rate": float(self.escalation_rate[row]),
                "accuracy": float(self.accuracy[row]),
                "lost": float(self.lost[row]),
                "gained": float(self.gained[row]),
                "cost_ratio": _finite(self.cost_ratio[row]),
            }
            for row in self.curve_places(points)
        ]

    def curve_places(self, points: int) -> NDArray[np.int64]:
        """The rows that a curve of so many points shows, rising."""
        last = len(self.thresholds) - 1
        return np.unique(np.linspace(0, last, points).round().astype(np.int64))

    def _point(self, row: int, *, name: str, target: str) -> OperatingPoint:
        return OperatingPoint(
            name=name,
            threshold=float(self.thresholds[row]),
            target=target,
            split=self.split,
            questions=self.questions,
            accuracy=float(self.accuracy[row]),
            escalation_rate=float(self.escalation_rate[row]),
            cost_ratio=_finite(self.cost_ratio[row]),
            rule=self.rule,
        )


def threshold_table(outcomes: Outcomes, *, split: str, rule: Rule = "failure") -> ThresholdTable:
    """Try every threshold on scored queries, all members asked."""
    n = len(outcomes.query_ids)
    compared = outcomes.p_ensemble_fails
    if rule == "gain":
        compared = outcomes.p_oracle_right - (1.0 - outcomes.p_ensemble_fails)
    order = np.argsort(-compared, kind="stable")
    scores = compared[order]
    oracle, ensemble = outcomes.oracle_correct[order], outcomes.ensemble_correct[order]
    lost, gained = _accepted(oracle & ~ensemble), _accepted(ensemble & ~oracle)
    right = outcomes.oracle_correct.sum() + gained - lost
    spent = outcomes.member_cost_usd.sum() + np.concatenate(
        [[0.0], np.cumsum(outcomes.oracle_cost_usd[order])]
    )
    # Row k escalates the k largest scores; only where the next score differs is that possible.
    above = np.concatenate([[scores[0] + 1e-6], scores])
    below = np.concatenate([scores, [scores[-1] - 1e-6]])
    possible = np.flatnonzero(above > below)
    alone = outcomes.oracle_cost_usd.sum()
    agreed = outcomes.vote_share >= 1.0 - 1e-9
    return ThresholdTable(
        thresholds=((above + below) / 2)[possible],
        accepted=np.concatenate([scores, [-np.inf]])[possible],
        accuracy=right[possible] / n,
        lost=lost[possible] / n,
        gained=gained[possible] / n,
        escalation_rate=possible / n,
        cost_ratio=spent[possible] / alone if alone > 0 else np.full(len(possible), np.nan),
        oracle_accuracy=float(outcomes.oracle_correct.mean()),
        vote_accuracy=float(
            np.where(agreed, outcomes.vote_correct, outcomes.oracle_correct).mean()
        ),
        vote_escalation_rate=float((~agreed).mean()),
        split=split,
        questions=n,
        rule=rule,
    )


def _accepted(marked: BoolArray) -> FloatArray:
    """Row k: how many are marked of those that are left when the k first are escalated."""
    return float(marked.sum()) - np.concatenate([[0.0], np.cumsum(marked.astype(np.float64))])


def default_points(table: ThresholdTable) -> list[OperatingPoint]:
    """The positions of the dial that every checkpoint has; the first is used by default."""
    points = [
        table.at_threshold(
            1.0 - table.oracle_accuracy_smoothed,
            name="parity",
            target="asks the oracle unless the ensemble is as likely to be right as the oracle is",
        ),
        table.at_escalation_rate(
            table.vote_escalation_rate,
            name="vote-cost",
            target="asks the oracle as often as the vote rule (all agree) does",
        ),
    ]
    for name, accuracy, target in (
        ("vote-accuracy", table.vote_accuracy, "the vote rule's accuracy, at the least cost"),
        ("oracle-accuracy", table.oracle_accuracy, "the oracle's accuracy, at the least cost"),
    ):
        # The vote rule can do better than every threshold on few questions.
        with suppress(NotAttainableError):
            points.append(table.cheapest_with_accuracy(accuracy, name=name, target=target))
    # A default that costs more than the oracle alone would defeat the purpose: where parity does
    # (dear members, or an oracle that is its own reference), the most accurate point that pays
    # comes first.
    paying = [point for point in points if point.cost_ratio is None or point.cost_ratio < 1.0]
    if paying and points[0] not in paying:
        first = max(paying, key=lambda point: point.accuracy or 0.0)
        points.remove(first)
        points.insert(0, first)
    return points


def replaced(points: Sequence[OperatingPoint], point: OperatingPoint) -> list[OperatingPoint]:
    """The points with one added, or put in place of its namesake: the first stays the first."""
    if all(other.name != point.name for other in points):
        return [*points, point]
    return [point if other.name == point.name else other for other in points]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
