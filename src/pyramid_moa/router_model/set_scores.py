"""What a router says of one set of members that have answered, of the others nothing being known.

Legend: n queries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SET_COLUMNS", "SetScores"]

SET_COLUMNS = 8
"""Numbers that the worth of a step is read from."""

FloatArray = NDArray[np.float64]

_FAR = 7.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SetScores:
    """Of one set of members.

    Attributes:
        right: probability of the most probable answer, as the networks say it, float [n].
        runner_up: of the next one, float [n].
        nobody: that none of the answers is right, float [n].
        oracle: that the oracle's is, float [n].
        choice: number of the first member with the most probable answer, -1 where there is none,
            int [n].
    """

    right: FloatArray
    runner_up: FloatArray
    nobody: FloatArray
    oracle: FloatArray
    choice: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> "SetScores":
        """Some of the queries, by position."""
        return SetScores(
            right=self.right[index],
            runner_up=self.runner_up[index],
            nobody=self.nobody[index],
            oracle=self.oracle[index],
            choice=self.choice[index],
        )

    @property
    def columns(self) -> FloatArray:
        """What the worth of the next step is read from: few numbers, so that few labels do."""
        odds = np.log(np.clip(self.right, 1e-6, None) / np.clip(1.0 - self.right, 1e-6, None))
        return np.column_stack(
            [
                self.right,
                self.right**2,
                np.clip(odds, -_FAR, _FAR),
                self.oracle,
                self.oracle**2,
                self.right * self.oracle,
                self.nobody,
                self.runner_up,
            ]
        )
