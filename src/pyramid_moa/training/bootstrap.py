"""Percentile bootstrap over questions, by weights: every figure is computed on the same resamples.

A resample is a row of weights, how often each question was drawn. A figure that is a function of
weights serves for the point estimate (all weights one) and for the intervals alike, and the
difference of two figures is paired without further work.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from pyramid_moa.training.outcomes import FloatArray

__all__ = ["Figures", "bootstrap", "percentile_interval", "resample_weights"]

Figures = Callable[[FloatArray], Mapping[str, FloatArray]]
"""From weights [b, n] to the values [b] of every figure; nan where a figure is undefined."""

_CELLS_AT_ONCE = 1_000_000


def resample_weights(n: int, *, seed: int, resamples: int) -> Iterator[FloatArray]:
    """Draw n of n questions with replacement, again and again.

    Args:
        n: number of questions.
        seed: of the generator; the same seed gives the same resamples.
        resamples: how many.

    Yields:
        Weights [b, n], few enough rows at a time to stay in cache; rows sum to n.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, n, size=(count, n))
        drawn += n * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * n)
        yield counts.reshape(count, n).astype(np.float64)


def bootstrap(
    figures: Figures, n: int, *, seed: int = 0, resamples: int = 1000
) -> dict[str, FloatArray]:
    """Compute every figure on every resample.

    Args:
        figures: from weights [b, n] to values [b].
        n: number of questions.
        seed: of the resamples.
        resamples: how many.

    Returns:
        By figure its values [resamples]; subtract two of them for a paired difference.
    """
    parts = [figures(weights) for weights in resample_weights(n, seed=seed, resamples=resamples)]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(values: FloatArray, *, level: float = 0.95) -> list[float] | None:
    """Interval between the percentiles of a bootstrap's values.

    Args:
        values: one per resample; nan where the figure is undefined on that resample.
        level: probability that the interval holds.

    Returns:
        ``[low, high]`` over the resamples that have a value; None where fewer than half have one.
    """
    known = values[np.isfinite(values)]
    if len(known) == 0 or 2 * len(known) < len(values):
        return None
    tail = 50 * (1 - level)
    low, high = np.percentile(known, [tail, 100 - tail])
    return [float(low), float(high)]
