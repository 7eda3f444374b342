"""How good a failure score is: AUROC, average precision, calibration error and Brier score.

All take weights [b, n] beside the n rows and give [b] values, nan where the figure is undefined;
weights of one make them the ordinary figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = [
    "ECE_BINS",
    "Ranking",
    "auroc",
    "average_precision",
    "brier_score",
    "calibration_error",
    "equal_mass_bins",
    "log_loss",
    "rank",
    "ratio",
]

ECE_BINS = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Rows from the highest score to the lowest, ties together.

    Attributes:
        order: row numbers, highest score first, ties in the order of the rows, int [n].
        ends: for each of the g distinct scores the position in ``order`` of its last row, int [g].
        scores: the distinct scores, falling, float [g].
    """

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    scores: FloatArray

    def prefix_sums(self, sorted_values: FloatArray) -> FloatArray:
        """Sum values [b, n] that are in this order up to the end of each tie: [b, g]."""
        sums: FloatArray = np.cumsum(sorted_values, axis=1)[:, self.ends]
        return sums


def rank(scores: FloatArray) -> Ranking:
    """Order n scores from the highest to the lowest."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(scores) - 1)
    return Ranking(order=order, ends=ends, scores=falling[ends])


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with nan where the denominator is zero."""
    safe = np.where(denominator == 0, np.nan, denominator)
    quotient: FloatArray = numerator / safe
    return quotient


def auroc(ranking: Ranking, failed: BoolArray, weights: FloatArray) -> FloatArray:
    """Probability that a failure scores above a success, ties counting half.

    Args:
        ranking: of the n failure scores.
        failed: the label, bool [n].
        weights: [b, n].

    Returns:
        [b]; nan where only one class has weight.
    """
    positive, negative = _class_sums(ranking, failed, weights)  # [b, g] each, cumulative
    step = np.diff(negative, axis=1, prepend=0.0)
    half = positive - np.diff(positive, axis=1, prepend=0.0) / 2
    return ratio(np.sum(step * half, axis=1), positive[:, -1] * negative[:, -1])


def average_precision(ranking: Ranking, failed: BoolArray, weights: FloatArray) -> FloatArray:
    """Mean precision over the failures, each at the threshold that finds it.

    Args:
        ranking: of the n failure scores.
        failed: the label, bool [n].
        weights: [b, n].

    Returns:
        [b]; nan where only one class has weight.
    """
    positive, negative = _class_sums(ranking, failed, weights)
    step = np.diff(positive, axis=1, prepend=0.0)
    # A leading tie that was not drawn has no precision and no step either.
    found = np.maximum(positive + negative, np.finfo(np.float64).tiny)
    total = np.where(negative[:, -1] == 0, 0.0, positive[:, -1])
    return ratio(np.sum(step * positive / found, axis=1), total)


def equal_mass_bins(scores: FloatArray, *, bins: int = ECE_BINS) -> NDArray[np.intp]:
    """Put n scores into bins of equal numbers, lowest first.

    Equal scores share a bin, that of their middle rank, so that the order of the rows does not
    matter; with many ties there are fewer bins, of unequal numbers.

    Args:
        scores: float [n].
        bins: how many at most.

    Returns:
        The bin of each row, int [n].
    """
    n = len(scores)
    rising = np.sort(scores)
    first = np.searchsorted(rising, scores, side="left")
    last = np.searchsorted(rising, scores, side="right")
    return ((first + last) * min(bins, n)) // (2 * n)


def calibration_error(
    probabilities: FloatArray, happened: BoolArray, weights: FloatArray, *, bins: int = ECE_BINS
) -> FloatArray:
    """Expected calibration error over equal-mass bins.

    The mean over bins, by their weight, of |mean probability - observed share| (Naeini et al.
    2015, with bins of equal mass). Bins stay those of the full sample under every weighting. It is
    biased upwards in small samples, and more so on resamples, so a percentile interval may lie
    above the point estimate.

    Args:
        probabilities: float [n].
        happened: bool [n].
        weights: [b, n].
        bins: how many.

    Returns:
        [b].
    """
    member_of = equal_mass_bins(probabilities, bins=bins)[:, None] == np.arange(bins)  # [n, bins]
    gaps = weights @ (member_of * (probabilities - happened)[:, None])  # [b, bins]
    return ratio(np.sum(np.abs(gaps), axis=1), np.sum(weights, axis=1))


def brier_score(probabilities: FloatArray, happened: BoolArray, weights: FloatArray) -> FloatArray:
    """Mean squared distance of probabilities from what happened, [b]."""
    return ratio(weights @ np.square(probabilities - happened), np.sum(weights, axis=1))


def log_loss(probabilities: FloatArray, happened: BoolArray, weights: FloatArray) -> FloatArray:
    """Mean negative log-likelihood, [b]; nobody is believed to be surer than one in a million."""
    p = np.clip(np.where(happened, probabilities, 1.0 - probabilities), 1e-6, None)
    return ratio(weights @ -np.log(p), np.sum(weights, axis=1))


def _class_sums(
    ranking: Ranking, failed: BoolArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Cumulative weight of failures and of successes at each distinct score, [b, g] each."""
    by_score = weights[:, ranking.order]
    everything = ranking.prefix_sums(by_score)
    positive = ranking.prefix_sums(by_score * failed[ranking.order])
    return positive, everything - positive
