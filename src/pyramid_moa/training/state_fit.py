"""Fitting what sets of members are worth, backwards from the whole pyramid.

Legend: K settings of the dial, n queries, M members, G groups, d features of a set.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.router_model.state_values import (
    Ridge,
    StateValues,
    larger_sets,
    reachable_sets,
    steps_from,
    valued,
)
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["SetEvidence", "fit_later_stops", "fit_state_values", "lambdas"]

# From a dear lambda to a free oracle.
_SETTINGS = 51
_LEAST_KEPT = 0.01


class SetEvidence(Protocol):
    """What n queries show once a set of members has answered."""

    @property
    def members(self) -> int:
        """M."""
        ...

    def columns(self, subset: int) -> FloatArray:
        """Features, [n, d]; also of the empty set, 0."""
        ...

    def answer(self, subset: int) -> NDArray[np.int64]:
        """Column of the answer that the set gives, as in ``correct``; -1 where none, [n]."""
        ...


def lambdas() -> FloatArray:
    """Accuracy that one oracle call's price has to buy, from dear to free: [K]."""
    return np.append(np.geomspace(3.0, 0.003, _SETTINGS - 1), 0.0)


def fit_state_values(
    evidence: SetEvidence,
    correct: BoolArray,
    *,
    groups: Sequence[int],
    prices: FloatArray,
    dial: FloatArray,
    penalty: float,
    realised: bool = False,
) -> StateValues:
    """Fit every set that can be come to, from the largest to the empty one.

    Args:
        evidence: of n queries.
        correct: whether each member's answer is right, in column M the oracle's, bool [n, M + 1]
            or wider.
        groups: members that are asked at once, each a set.
        prices: of each group and of the oracle, in the price of one oracle call, [G + 1].
        dial: accuracy that the price of one oracle call has to buy, [K]; with none of them
            only qualities are fitted.
        penalty: of the ridge regressions.
        realised: what going on is worth is learned from what became of the queries that went on
            (Longstaff and Schwartz 2001), not from what was expected of them: the best of several
            noisy expectations is expected too high. Which way a query goes is decided by
            regressions without it (leave one out, after Woo, Liu and Choi, arXiv 1810.02071): one
            that has seen what became of it chooses better than it will on others.
    """
    right = correct.astype(np.float64)
    oracle = right[:, [evidence.members]]
    ridges: dict[int, Ridge] = {}
    worth: dict[int, FloatArray] = {}  # [K, n] by set
    for subset in reversed(reachable_sets(groups)):
        answer, columns = evidence.answer(subset), evidence.columns(subset)
        stop = _quality(right, answer)
        later = [worth[subset | groups[place]].T for place in steps_from(subset, groups)]
        targets = np.hstack([stop, oracle, *later])
        ridges[subset] = _fit_ridge(columns, targets, penalty)
        if realised:
            left_out = _left_out(ridges[subset], columns, targets, penalty)
            expected = valued(left_out, answer >= 0, subset, groups, dial, prices).values
            became = valued(targets, answer >= 0, subset, groups, dial, prices).values
            best = expected.argmax(axis=0)
            worth[subset] = np.take_along_axis(became, best[None], axis=0)[0]
        else:
            fitted = ridges[subset].predict(columns)
            expected = valued(fitted, answer >= 0, subset, groups, dial, prices).values
            worth[subset] = expected.max(axis=0)
    return StateValues(ridges=ridges, groups=tuple(groups), dial=dial, prices=prices)


def fit_later_stops(
    evidence: SetEvidence, correct: BoolArray, *, groups: Sequence[int], penalty: float
) -> dict[int, Ridge]:
    """Fit, at every set, how right the answer of each set that it can grow into will be.

    A query whose budget ends there stops there: what it would have gained by going on does not
    count. The largest set has none.

    Args:
        evidence: as in ``fit_state_values``, like the rest.
        correct: likewise.
        groups: likewise.
        penalty: likewise.

    Returns:
        By set; targets are those of ``larger_sets``, in their order.
    """
    right, reachable = correct.astype(np.float64), reachable_sets(groups)
    stops = {subset: _quality(right, evidence.answer(subset)) for subset in reachable}
    return {
        subset: _fit_ridge(
            evidence.columns(subset), np.hstack([stops[one] for one in larger]), penalty
        )
        for subset in reachable
        if (larger := larger_sets(subset, reachable))
    }


def _quality(right: FloatArray, answer: NDArray[np.int64]) -> FloatArray:
    """Whether an answer is right, given by its column; nobody's, -1, is not: [n, 1]."""
    given = np.take_along_axis(right, np.maximum(answer, 0)[:, None], axis=1)
    return np.where((answer >= 0)[:, None], given, 0.0)


def _fit_ridge(columns: FloatArray, targets: FloatArray, penalty: float) -> Ridge:
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    scaled = (columns - centre) / scale
    offsets = targets.mean(axis=0)
    slopes = np.linalg.solve(_gram(scaled, penalty), scaled.T @ (targets - offsets))
    return Ridge(centre=centre, scale=scale, slopes=slopes, offsets=offsets)


def _left_out(ridge: Ridge, columns: FloatArray, targets: FloatArray, penalty: float) -> FloatArray:
    """Predict every query's targets by the regression of all others, centre and scale kept."""
    scaled = (columns - ridge.centre) / ridge.scale
    leverage = 1.0 / len(scaled) + np.einsum(
        "nd,dn->n", scaled, np.linalg.solve(_gram(scaled, penalty), scaled.T)
    )
    # Of a query that decides its own prediction the others say nothing: it comes out at its own
    # targets.
    kept = np.maximum(1.0 - leverage, _LEAST_KEPT)[:, None]
    predicted: FloatArray = targets - (targets - ridge.predict(columns)) / kept
    return predicted


def _gram(scaled: FloatArray, penalty: float) -> FloatArray:
    gram: FloatArray = scaled.T @ scaled + penalty * np.eye(scaled.shape[1])
    return gram
