"""Folds within the training queries: for tuning, and for scores of queries that were left out."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["InnerFold", "inner_folds", "out_of_fold"]

InnerFold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices into the training queries: fitted on, left out."""

_FOLDS = 4


def inner_folds(data: RuleRun, train: Positions, seed: int) -> list[InnerFold]:
    """Divide training queries by question, each fold with its share of the vote's failures.

    Args:
        data: the run.
        train: positions of the training queries.
        seed: of the division.
    """
    hashes = np.array([data.hashes[position] for position in train])
    questions, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(questions))
    order = order[np.argsort(data.vote_fails[train[first[order]]], kind="stable")]
    part = np.empty(len(questions), dtype=np.int64)
    part[order] = np.arange(len(questions)) % _FOLDS
    return [
        (np.flatnonzero(part[group] != fold), np.flatnonzero(part[group] == fold))
        for fold in range(_FOLDS)
    ]


def out_of_fold(
    folds: Sequence[InnerFold],
    fit_predict: Callable[[NDArray[np.int64], NDArray[np.int64]], FloatArray],
    n: int,
) -> FloatArray:
    """Predict every training query by a fit that had left it out.

    Args:
        folds: the division.
        fit_predict: fits on the first indices, predicts the second, [left out, ...].
        n: number of training queries.

    Returns:
        Predictions [n, ...].
    """
    parts = [(held, fit_predict(fitted, held)) for fitted, held in folds]
    predictions = np.empty((n, *parts[0][1].shape[1:]))
    for held, values in parts:
        predictions[held] = values
    return predictions
