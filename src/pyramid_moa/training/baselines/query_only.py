"""Query-only routing (RouteLLM-like): from the question alone to the ensemble or to the oracle."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyramid_moa.training.baselines.dial import escalate, quantile_thresholds, share_dial
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.logistic import TunedLogistic, tuned_logistic
from pyramid_moa.training.baselines.rule import Choices, FailureScores, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.baselines.text_features import question_counts, question_numbers
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["QueryOnlyRule"]


@dataclass(frozen=True, kw_only=True)
class QueryOnlyRule:
    """P(the oracle wins) from an embedding of the question, by logistic regression.

    Source: RouteLLM (Ong et al. 2024), whose weak side suffices where it wins or ties. The
    embedding is TF-IDF of words and pairs of words, reduced (LSA): no encoder is asked for. An
    escalated query skips the members and pays the oracle alone. The thresholds are quantiles of
    out-of-fold scores.

    Attributes:
        directions: kept of the texts.
    """

    directions: int = 64

    name = "query-only"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        return asdict(self)

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had."""
        return None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Fit the embedding and the regression."""
        correct = data.correct[train]
        wins = correct[:, data.oracle] & ~correct[:, data.vote]
        design = TextDesign(
            question_counts(data)[train],
            question_numbers(data)[train],
            directions=self.directions,
            seed=seed,
        )
        columns = _columns(design, data, train)
        model = tuned_logistic(columns, wins, inner_folds(data, train, seed))
        thresholds = quantile_thresholds(model.out_of_fold)
        return _Fitted(
            design=design,
            model=model,
            thresholds=thresholds,
            train=_choices(data, model.out_of_fold, thresholds),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    design: TextDesign
    model: TunedLogistic
    thresholds: FloatArray
    train: Choices

    @property
    def dial(self) -> FloatArray:
        return share_dial()

    @property
    def fell_back(self) -> bool:
        return bool(np.isnan(self.model.strength))

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        scores = self.model.predict(_columns(self.design, data, positions))
        return _choices(data, scores, self.thresholds)


def _columns(design: TextDesign, data: RuleRun, positions: Positions) -> FloatArray:
    return design.columns(question_counts(data)[positions], question_numbers(data)[positions])


def _choices(data: RuleRun, scores: FloatArray, thresholds: FloatArray) -> Choices:
    failure = FailureScores(
        values=scores, answer=np.full(len(scores), data.vote), is_probability=False
    )
    asked = scores > thresholds[:, None]
    return escalate(data, asked, members_first=False, failure=failure)
