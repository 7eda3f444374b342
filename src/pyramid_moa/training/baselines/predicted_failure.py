"""Rules that predict the failure of the ensemble's answer and escalate where it is likely."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.baselines.dial import escalate, quantile_thresholds, share_dial
from pyramid_moa.training.baselines.rule import Choices, FailureScores
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["EnsembleScores", "FailureRule", "vote_scores_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsembleScores:
    """What is believed of the ensemble's answers to n queries.

    Attributes:
        p_fail: probability that the answer is wrong, float [n].
        answer: column of the answer that the ensemble gives, as in `RuleRun.correct`, int [n].
        p_vote_fails: probability that the majority's answer is wrong, where that may be another
            one; rules are compared by it, float [n].
        urgency: those with the most go to the oracle first, float [n]; ``p_fail`` where it is None.
    """

    p_fail: FloatArray
    answer: NDArray[np.int64]
    urgency: FloatArray | None = None
    p_vote_fails: FloatArray | None = None

    @property
    def priority(self) -> FloatArray:
        """What the dial's thresholds are of."""
        return self.p_fail if self.urgency is None else self.urgency


def vote_scores_of(data: RuleRun, positions: Positions, p_fail: FloatArray) -> EnsembleScores:
    """Scores of the majority vote; an empty vote fails for sure."""
    return EnsembleScores(
        p_fail=np.where(data.winner[positions] < 0, 1.0, p_fail),
        answer=np.full(len(positions), data.vote),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FailureRule:
    """A fitted rule of this kind: all members first, then the oracle above a threshold.

    Attributes:
        thresholds: quantiles of out-of-fold scores, float [K].
        train: choices for the training queries.
        score: scores other queries.
        fell_back: whether there was nothing to learn.
    """

    thresholds: FloatArray
    train: Choices
    score: Callable[[RuleRun, Positions], EnsembleScores]
    fell_back: bool = False

    @classmethod
    def fitted(
        cls,
        data: RuleRun,
        out_of_fold: EnsembleScores,
        score: Callable[[RuleRun, Positions], EnsembleScores],
        *,
        fell_back: bool = False,
    ) -> "FailureRule":
        """Fix the dial.

        Args:
            data: the run.
            out_of_fold: scores of the training queries, each by a fit that had left it out.
            score: scores other queries.
            fell_back: whether there was nothing to learn.
        """
        thresholds = quantile_thresholds(out_of_fold.priority)
        return cls(
            thresholds=thresholds,
            train=_choices(data, out_of_fold, thresholds),
            score=score,
            fell_back=fell_back,
        )

    @property
    def dial(self) -> FloatArray:
        """Shares of the training queries that go to the oracle."""
        return share_dial()

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        """Score queries and pass the thresholds."""
        return _choices(data, self.score(data, positions), self.thresholds)


def _failure_scores(data: RuleRun, scores: EnsembleScores) -> FailureScores:
    """What is handed on of them: of the majority's answer, and of the ensemble's own."""
    if scores.p_vote_fails is None:
        return FailureScores(values=scores.p_fail, answer=scores.answer, is_probability=True)
    return FailureScores(
        values=scores.p_vote_fails,
        answer=np.full_like(scores.answer, data.vote),
        is_probability=True,
        own=scores.answer,
        own_values=scores.p_fail,
    )


def _choices(data: RuleRun, scores: EnsembleScores, thresholds: FloatArray) -> Choices:
    asked = scores.priority > thresholds[:, None]
    return escalate(data, asked, own=scores.answer, failure=_failure_scores(data, scores))
