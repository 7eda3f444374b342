"""Curves of accuracy against cost whose points were chosen on training folds, and their figures.

Legend: b resamples, K settings of a dial, G budgets.
"""

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.deferral import upper_hull
from pyramid_moa.training.outcomes import FloatArray

__all__ = [
    "area_between",
    "average_improvement",
    "cost_to_reach",
    "gap_recovered",
    "interpolated",
    "mixture_for_accuracy",
    "mixtures",
    "smoothed",
]


def mixtures(cost: FloatArray, accuracy: FloatArray, budgets: FloatArray) -> FloatArray:
    """Choose settings for budgets by what they did on training queries.

    Each budget gets the best lottery between two settings that does not cost more in the mean: a
    point on the non-decreasing upper hull of the training points. Below the cheapest setting it is
    that setting, beyond the most accurate one that one.

    Args:
        cost: of each setting on the training queries, float [K].
        accuracy: likewise, float [K].
        budgets: float [G].

    Returns:
        Probabilities of the settings, float [G, K].
    """
    corners, index = _corners(cost, accuracy)
    return _lotteries(budgets, corners[:, 0], index, len(cost))


def mixture_for_accuracy(cost: FloatArray, accuracy: FloatArray, target: float) -> FloatArray:
    """Choose the cheapest lottery that reaches an accuracy on training queries, float [K].

    Where none does it is the most accurate setting.
    """
    corners, index = _corners(cost, accuracy)
    weights: FloatArray = _lotteries(np.array([target]), corners[:, 1], index, len(cost))[0]
    return weights


def smoothed(values: FloatArray) -> FloatArray:
    """Isotonic regression of each row: the non-decreasing sequence nearest to it.

    By the formula of the largest of the least means of all stretches (Robertson, Wright and
    Dykstra 1988, section 1.4).

    Args:
        values: float [b, G], along rising cost.
    """
    length = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    best = np.full(values.shape, -np.inf)
    for first in range(length):
        counts = np.arange(1, length - first + 1)
        means = (sums[:, first + 1 :] - sums[:, [first]]) / counts  # of stretches from `first` on
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        best[:, first:] = np.maximum(best[:, first:], least)
    return best


def interpolated(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Read curves at some places: nan before their first point, flat after their last.

    Args:
        x: float [b, G], rising (made so where resampling has disturbed it).
        y: float [b, G].
        at: places of each row, float [b, P].

    Returns:
        float [b, P].
    """
    rising = np.maximum.accumulate(x, axis=1)
    rows = zip(at, rising, y, strict=True)
    read: FloatArray = np.array([np.interp(places, xs, ys, left=np.nan) for places, xs, ys in rows])
    return read


def cost_to_reach(cost: FloatArray, accuracy: FloatArray, target: FloatArray) -> FloatArray:
    """Least cost at which smoothed curves reach an accuracy, [b]; nan where they don't.

    Args:
        cost: float [b, G].
        accuracy: float [b, G].
        target: float [b].
    """
    rising, smooth = np.maximum.accumulate(cost, axis=1), smoothed(accuracy)
    reached = smooth >= target[:, None] - 1e-12
    row = np.arange(len(cost))
    place = reached.argmax(axis=1)
    before = np.maximum(place - 1, 0)
    low, high = smooth[row, before], smooth[row, place]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(high > low, (target - low) / (high - low), 1.0)
    crossing = rising[row, before] + share * (rising[row, place] - rising[row, before])
    found: FloatArray = np.where(place == 0, rising[:, 0], crossing)
    return np.where(reached.any(axis=1), found, np.nan)


def area_between(
    cost: FloatArray, accuracy: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """Mean accuracy over the budgets from ``low`` to ``high``, [b]; flat after the last point.

    A curve that begins later counts with its first accuracy from ``low`` on.

    Args:
        cost: float [b, G].
        accuracy: float [b, G].
        low: float [b].
        high: float [b].
    """
    places = np.linspace(0.0, 1.0, 201)
    budgets = low[:, None] + places * (high - low)[:, None]
    rising = np.maximum.accumulate(cost, axis=1)
    rows = zip(budgets, rising, accuracy, strict=True)
    return np.array([np.trapezoid(np.interp(at, xs, ys), places) for at, xs, ys in rows])


def average_improvement(cost: FloatArray, accuracy: FloatArray, largest: float) -> FloatArray:
    """AIQ of RouterBench (Hu et al. 2024, section 3), [b].

    The area under the non-decreasing upper hull of all settings, from the cheapest of them to the
    largest cost, up to which it is extended flat, over that cost.

    Args:
        cost: of the settings, float [b, K].
        accuracy: likewise.
        largest: the same for all rules that are compared.
    """
    areas = []
    for xs, ys in zip(cost, accuracy, strict=True):
        corners = upper_hull(np.minimum(xs, largest), ys)
        budget = np.append(corners[:, 0], largest)
        areas.append(np.trapezoid(np.append(corners[:, 1], corners[-1, 1]), budget) / largest)
    return np.array(areas)


def gap_recovered(
    share: FloatArray, accuracy: FloatArray, weak: FloatArray, strong: FloatArray
) -> tuple[FloatArray, dict[float, FloatArray]]:
    """APGR and CPT of RouteLLM (Ong et al. 2024, section 4.1).

    Args:
        share: of queries that ask the oracle, float [b, K].
        accuracy: float [b, K].
        weak: accuracy of the ensemble alone, float [b].
        strong: of the oracle alone, float [b].

    Returns:
        The average performance gap recovered, [b]: the trapezoid under the accuracy over the share
        of strong calls, less the weak side's, over that of the strong side. And by x the share of
        strong calls at which x of the gap is recovered, [b] each. All nan where there is no gap.
    """
    order = np.argsort(share, axis=1, kind="stable")
    zero, one = np.zeros((len(share), 1)), np.ones((len(share), 1))
    x = np.hstack([zero, np.take_along_axis(share, order, axis=1), one])
    y = np.hstack([weak[:, None], np.take_along_axis(accuracy, order, axis=1), strong[:, None]])
    gap = np.where(strong > weak, strong - weak, np.nan)
    recovered: FloatArray = (np.trapezoid(y, x, axis=1) - weak) / gap
    calls = {
        part: np.where(np.isnan(gap), np.nan, cost_to_reach(x, y, weak + part * (strong - weak)))
        for part in (0.2, 0.5, 0.8)
    }
    return recovered, calls


def _corners(cost: FloatArray, accuracy: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
    """Corners of the upper hull [h, 2], and which setting each is."""
    corners = upper_hull(cost, accuracy)
    same = (cost == corners[:, [0]]) & (accuracy == corners[:, [1]])  # [h, K]
    return corners, same.argmax(axis=1)


def _lotteries(
    at: FloatArray,
    along: FloatArray,
    index: NDArray[np.intp],
    settings: int,
) -> FloatArray:
    """Probabilities [G, K] of the two corners around each place along a rising coordinate."""
    places = np.interp(at, along, np.arange(len(along)))
    lower = np.floor(places).astype(np.intp)
    upper = np.minimum(lower + 1, len(along) - 1)
    rows = np.arange(len(at))
    weights = np.zeros((len(at), settings))
    np.add.at(weights, (rows, index[lower]), 1.0 - (places - lower))
    np.add.at(weights, (rows, index[upper]), places - lower)
    return weights
