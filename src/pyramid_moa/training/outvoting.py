"""Whether an ensemble that is surer than its oracle should keep its answer against it."""

from collections.abc import Sequence

import numpy as np

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.router_model.policy import OperatingPoint, Scores, goes_up, outvotes

__all__ = ["choose_outvote"]

_MARGINS = (0.0, 0.5, 1.0, 2.0, 3.0)
# One-sided 5 %, were the queries on which it matters right or wrong by chance alone.
_SURE = 1.645


def choose_outvote(
    run: LabelledRun, positions: Sequence[int], scores: Sequence[Scores], point: OperatingPoint
) -> float | None:
    """Choose by how much the ensemble's log-odds have to be larger to outvote the oracle.

    The answers of both are compared where they differ and the oracle would be asked. Keeping the
    ensemble's has to gain more than chance would give it; otherwise the oracle's is always taken.

    Args:
        run: the labelled data.
        positions: of queries that the scores were not fitted on.
        scores: one each.
        point: a parallel one, by which the oracle is asked.

    Returns:
        The margin, or None to take the oracle's answer.
    """
    best, best_gain = None, 0.0
    for margin in _MARGINS:
        gains = np.array(
            [
                gain
                for index, score in zip(positions, scores, strict=True)
                if goes_up(score, point) and outvotes(score, margin)
                for gain in [_gain(run, index, score)]
                if gain
            ]
        )
        total = float(gains.sum())
        if total > max(best_gain, _SURE * np.sqrt(len(gains))):
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
