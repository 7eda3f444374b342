"""Self-verification (AutoMix-like): each member's own confidence, and a cascade on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyramid_moa.training.baselines.dial import share_dial
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.logistic import TunedLogistic, tuned_logistic
from pyramid_moa.training.baselines.rule import Choices, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.stages import Cascade, follow, search_cascades
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["SelfCheckRule"]


class SelfCheckRule:
    """Believe a member whose own confidence is high enough, cheapest member first.

    Source: AutoMix (Aggarwal et al. 2023), its threshold variant. The confidence is the recorded
    one; in a run that lacks it for some answer, the mean token log-probability of the answer, which
    costs nothing. Confidences of different members are brought to one scale by a logistic curve
    each. What a self-check of its own cost is paid only where it stands in the record's cost.
    """

    name = "self-check"

    def settings(self) -> dict[str, Any]:
        """Nothing is set."""
        return {}

    def absent(self, data: RuleRun) -> str | None:
        """It needs a confidence beside every answer."""
        if _all_answers_have(data, _confidence(data)):
            return None
        return "not every answer has a recorded confidence, nor token log-probabilities"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Fit the curves and the cascades."""
        folds = inner_folds(data, train, seed)
        models = [
            tuned_logistic(_column(data, member, train), data.correct[train, member], folds)
            for member in range(data.members)
        ]
        scores = np.column_stack([model.out_of_fold for model in models])
        cascades = search_cascades(data, train, scores)
        return _Fitted(
            models=models, cascades=cascades, train=follow(data, cascades, train, scores)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    models: list[TunedLogistic]
    cascades: list[Cascade]
    train: Choices

    @property
    def dial(self) -> FloatArray:
        return share_dial()

    @property
    def fell_back(self) -> bool:
        return any(np.isnan(model.strength) for model in self.models)

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        scores = [
            model.predict(_column(data, member, positions))
            for member, model in enumerate(self.models)
        ]
        return follow(data, self.cascades, positions, np.column_stack(scores))


def _column(data: RuleRun, member: int, positions: Positions) -> FloatArray:
    """A confidence and whether there was an answer to be confident of, float [n, 2]."""
    values = _confidence(data)[positions, member]
    answered = data.clusters[positions, member] >= 0
    return np.column_stack([np.nan_to_num(values, nan=0.0), answered.astype(np.float64)])


def _confidence(data: RuleRun) -> FloatArray:
    """What each member says of its own answer, float [n, m]; nan where it says nothing."""
    if _all_answers_have(data, data.confidence):
        return data.confidence
    return data.remember("mean log-probabilities", lambda: _mean_logprobs(data))


def _mean_logprobs(data: RuleRun) -> FloatArray:
    rows = [data.run.generations[name] for name in data.run.manifest.members]
    means = [[None if row.logprobs is None else row.logprobs.mean for row in own] for own in rows]
    return np.array(means, dtype=np.float64).T  # None becomes nan


def _all_answers_have(data: RuleRun, values: FloatArray) -> bool:
    return not (np.isnan(values) & (data.clusters >= 0)).any()
