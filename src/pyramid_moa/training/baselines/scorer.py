"""A scorer of answers and a cascade on it (FrugalGPT-like)."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa.training.baselines.dial import share_dial
from pyramid_moa.training.baselines.inner_folds import InnerFold, inner_folds
from pyramid_moa.training.baselines.logistic import TunedLogistic, tuned_logistic
from pyramid_moa.training.baselines.rule import Choices, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.stages import Cascade, follow, search_cascades
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.baselines.text_features import (
    answer_counts,
    answer_numbers,
    question_counts,
    question_numbers,
)
from pyramid_moa.training.outcomes import FloatArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["ScorerRule"]


@dataclass(frozen=True, kw_only=True)
class ScorerRule:
    """P(this answer is right) from the texts of question and answer, then a cascade.

    Source: FrugalGPT (Chen et al. 2023): a scorer, and an order and thresholds of stages that are
    searched under a budget. Its encoder is TF-IDF of words and pairs of words here, reduced (LSA).
    One scorer serves all members, and knows whose answer it reads. It does not see whether members
    agree.

    Attributes:
        directions: kept of the texts.
    """

    directions: int = 64

    name = "scorer"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        return asdict(self)

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had."""
        return None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Fit scorer and cascades."""
        members, n = data.members, len(train)
        design = TextDesign(*_pairs(data, train), directions=self.directions, seed=seed)
        columns = _columns(design, data, train)
        folds = [_of_pairs(fold, n, members) for fold in inner_folds(data, train, seed)]
        model = tuned_logistic(columns, data.correct[train, :members].T.ravel(), folds)
        scores = model.out_of_fold.reshape(members, n).T
        cascades = search_cascades(data, train, scores)
        return _Fitted(
            design=design,
            model=model,
            cascades=cascades,
            train=follow(data, cascades, train, scores),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    design: TextDesign
    model: TunedLogistic
    cascades: list[Cascade]
    train: Choices

    @property
    def dial(self) -> FloatArray:
        return share_dial()

    @property
    def fell_back(self) -> bool:
        return bool(np.isnan(self.model.strength))

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        scores = self.model.predict(_columns(self.design, data, positions))
        return follow(
            data, self.cascades, positions, scores.reshape(data.members, len(positions)).T
        )


def _of_pairs(fold: InnerFold, n: int, members: int) -> InnerFold:
    """Rows of all members' answers to the queries of a fold."""
    offsets = n * np.arange(members)[:, None]
    fitted, held = fold
    return (offsets + fitted).ravel(), (offsets + held).ravel()


def _columns(design: TextDesign, data: RuleRun, positions: Positions) -> FloatArray:
    return design.columns(*_pairs(data, positions))


def _pairs(data: RuleRun, positions: Positions) -> "tuple[csr_matrix, FloatArray]":
    """Counts and numbers of n * m pairs of question and answer, member by member."""
    from scipy.sparse import vstack

    questions = question_counts(data)[positions]
    about = question_numbers(data)[positions]
    counts = [questions + answer_counts(data, j)[positions] for j in range(data.members)]
    numbers = []
    for member in range(data.members):
        whose = np.zeros((len(positions), data.members))
        whose[:, member] = 1.0
        numbers.append(np.column_stack([about, answer_numbers(data, member)[positions], whose]))
    return vstack(counts, format="csr"), np.vstack(numbers)
