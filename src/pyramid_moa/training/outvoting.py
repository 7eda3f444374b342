"""Whether an ensemble that is surer than its oracle should keep its answer against it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.router_model.policy import OperatingPoint, Scores, goes_up, log_odds
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["choose_margin", "choose_outvote"]

_MARGINS = (0.0, 0.5, 1.0, 2.0, 3.0)
# The rule of one standard error (Breiman et al. 1984): a gain within it may be chance.
_STANDARD_ERRORS = 1.0


def choose_outvote(
    run: LabelledRun, positions: Sequence[int], scores: Sequence[Scores], point: OperatingPoint
) -> float | None:
    """Choose by how much the ensemble's log-odds have to be larger to outvote the oracle.

    The answers of both are compared where they differ and the oracle would be asked. Keeping the
    ensemble's has to gain more than a standard error; otherwise the oracle's is always taken.

    Args:
        run: the labelled data.
        positions: of queries that the scores were not fitted on.
        scores: one each.
        point: a parallel one, by which the oracle is asked.

    Returns:
        The margin, or None to take the oracle's answer.
    """
    surer, gains = [], []
    for index, score in zip(positions, scores, strict=True):
        if goes_up(score, point) and score.p_oracle_right is not None:
            surer.append(log_odds(1.0 - score.p_ensemble_fails) - log_odds(score.p_oracle_right))
            gains.append(_gain(run, index, score))
    return choose_margin(np.array(surer), np.array(gains))


def choose_margin(surer: FloatArray, gains: NDArray[np.int64]) -> float | None:
    """Choose the margin of those queries on which the oracle is asked.

    Args:
        surer: log-odds of the ensemble's answer less the oracle's, float [n].
        gains: 1 where keeping the ensemble's answer is right and the oracle's wrong, -1 the other
            way, 0 where it makes no difference, int [n].

    Returns:
        The margin, or None to take the oracle's answer.
    """
    best, best_gain = None, 0.0
    for margin in _MARGINS:
        own = gains[(surer > margin) & (gains != 0)]
        total = float(own.sum())
        if total > max(best_gain, _STANDARD_ERRORS * np.sqrt(len(own))):
            best, best_gain = margin, total
    return best


def _gain(run: LabelledRun, index: int, scores: Scores) -> int:
    """1 where keeping the ensemble's answer is right and the oracle's wrong, -1 the other way."""
    manifest, label = run.manifest, run.labels[index]
    oracle = run.generations[manifest.oracle][index]
    if scores.choice is None or oracle.error is not None:
        return 0
    own = run.generations[manifest.members[scores.choice]][index]
    if own.answer is None:
        return 0
    if oracle.answer is not None and run.grader.equal(own.answer, oracle.answer):
        return 0
    return int(bool(own.correct)) - int(label.oracle_correct)
