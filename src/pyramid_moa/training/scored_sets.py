"""What a router says of queries, set by set, as values of steps are fitted and walked on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["ScoredSets"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSets:
    """Evidence on n queries once any set of M members has answered.

    Attributes:
        sets: 2**M - 1 entries, as ``score_sets`` gives them.
        questions: signs of the questions as the network reads them, [n, Q].
        members: M.
    """

    sets: Sequence[SetScores]
    questions: FloatArray
    members: int

    def columns(self, subset: int) -> FloatArray:
        """What the worth of steps is read from, [n, d]."""
        return self.sets[subset - 1].columns if subset else self.questions

    def answer(self, subset: int) -> NDArray[np.int64]:
        """Member behind the set's answer, -1 where there is none, [n]."""
        return self.sets[subset - 1].choice if subset else np.full(len(self.questions), -1)

    def take(self, index: NDArray[np.int64]) -> "ScoredSets":
        """Some of the queries, by position."""
        return ScoredSets(
            sets=[own.take(index) for own in self.sets],
            questions=self.questions[index],
            members=self.members,
        )
