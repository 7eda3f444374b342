"""Exact bounds on an accuracy, and a test of the mean of a bounded amount."""

import numpy as np

from pyramid_moa.training.outcomes import FloatArray

__all__ = ["accuracy_p_value", "least_accuracy", "mean_below_p_value"]

# Shares of the largest bet; each is a guess of how far the mean is below, against its spread.
_BETS = np.geomspace(0.01, 0.98, 12)


def accuracy_p_value(right: FloatArray, n: int, accuracy: float) -> FloatArray:
    """Probability of so many right answers, or more, where the accuracy is at most ``accuracy``.

    The exact binomial test.

    Args:
        right: numbers of right answers, of any shape.
        n: questions.
        accuracy: that is tested, from 0 to 1.
    """
    from scipy.special import bdtrc

    right = np.asarray(right, dtype=np.float64)
    p: FloatArray = np.where(right <= 0, 1.0, bdtrc(np.maximum(right, 1) - 1, n, accuracy))
    return p


def least_accuracy(right: int, n: int, confidence: float) -> float:
    """The largest accuracy that the binomial test proves (Clopper and Pearson, one-sided)."""
    from scipy.special import betaincinv

    return float(betaincinv(right, n - right + 1, 1 - confidence)) if right else 0.0


def mean_below_p_value(values: FloatArray, most: float) -> FloatArray:
    """P-value of a mean of 0 or more, for values that are never above ``most``.

    A gambler bets a constant share against it at every question; the average wealth over a grid of
    bets is at least 1 / p with probability p at most. It adapts to the spread, however large
    ``most`` is against it, and does not depend on the order of the questions. Source: Waudby-Smith
    and Ramdas 2024, "Estimating means of bounded random variables by betting", sections 3 and 4
    (here a mixture of constant bets).

    Args:
        values: [..., n].
        most: above 0.

    Returns:
        Its shape without the last axis.
    """
    from scipy.special import logsumexp

    assert values.max() <= most
    bets = _BETS / most
    wealth = np.stack([np.log1p(-bet * values).sum(axis=-1) for bet in bets])
    p: FloatArray = np.minimum(1.0, np.exp(np.log(len(bets)) - logsumexp(wealth, axis=0)))
    return p
