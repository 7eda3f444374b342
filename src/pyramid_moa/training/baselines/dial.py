"""Dials: thresholds that are fixed on training queries, and what follows from passing them."""

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.baselines.rule import Choices, FailureScores
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["SETTINGS", "escalate", "quantile_thresholds", "share_dial"]

SETTINGS = 51
"""Settings of a continuous dial."""


def share_dial() -> FloatArray:
    """Shares of queries that are to go to the oracle, float [K] from 0 to 1."""
    shares: FloatArray = np.arange(SETTINGS) / (SETTINGS - 1)
    return shares


def quantile_thresholds(scores: FloatArray) -> FloatArray:
    """Thresholds above which each share of the training scores lies, float [K].

    The first lies above every score there can be, the last below.

    Args:
        scores: of the training queries, each by a fit that had left it out.
    """
    thresholds: FloatArray = np.quantile(scores, 1.0 - share_dial()).astype(np.float64)
    thresholds[0], thresholds[-1] = np.inf, -np.inf
    return thresholds


def escalate(
    data: RuleRun,
    asked: BoolArray,
    *,
    own: NDArray[np.int64] | None = None,
    members_first: bool = True,
    failure: FailureScores | None = None,
) -> Choices:
    """Ask the oracle for some queries, and answer the rest by the ensemble.

    Args:
        data: the run.
        asked: which queries go to the oracle, bool [K, n].
        own: column of the answer otherwise, int [n]; the vote where it is None.
        members_first: whether all members are asked before that is known; else only where the
            oracle is not.
        failure: scores to hand on.
    """
    called = np.ones((*asked.shape, data.members + 1), dtype=bool)
    if not members_first:
        called[..., :-1] = ~asked[..., None]
    called[..., -1] = asked
    answer = np.where(asked, data.oracle, data.vote if own is None else own)
    return Choices(called=called, answer=answer, failure=failure)
