"""What a decision rule is: fitted on some queries, it decides others at every dial setting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["Choices", "FailureScores", "FittedRule", "HeldOut", "Rule"]

HeldOut = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class FailureScores:
    """How sure a rule is that an answer is wrong.

    Attributes:
        values: larger where failure is likelier, float [n].
        answer: column of the answer that is scored, as in `RuleRun.correct`, int [n].
        is_probability: whether the values are meant as probabilities.
        own: column of the answer that the rule gives without the oracle, where it may be another
            one, int [n].
        own_values: that this one is wrong, float [n].
    """

    values: FloatArray
    answer: NDArray[np.int64]
    is_probability: bool
    own: NDArray[np.int64] | None = None
    own_values: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """What a rule does with n queries at the K settings of its dial. It holds no label.

    Attributes:
        called: which models are asked, and paid for, bool [K, n, m + 1].
        answer: column of the answer that is given, as in `RuleRun.correct`, int [K, n].
        failure: scores of the answer without the oracle, or None where the rule has none.
    """

    called: BoolArray
    answer: NDArray[np.int64]
    failure: FailureScores | None = None


class FittedRule(Protocol):
    """A rule with all its choices made.

    Attributes:
        dial: the K settings, float [K]; the same place means the same in every fold.
        train: what it does with the queries that it was fitted on, each decided by a fit that had
            left it out where the rule learns anything; operating points are chosen on it.
        fell_back: whether there was nothing to learn (one class) and the rule did without.
    """

    @property
    def dial(self) -> FloatArray: ...  # noqa: D102 - told above
    @property
    def train(self) -> Choices: ...  # noqa: D102 - likewise
    @property
    def fell_back(self) -> bool: ...  # noqa: D102 - likewise

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        """Decide queries that it was not fitted on; labels have no part in it.

        Args:
            data: the run.
            positions: of the queries, int [n].
        """
        ...


class Rule(Protocol):
    """A decision rule before it has seen any label."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted, as JSON."""
        ...

    def absent(self, data: RuleRun) -> str | None:
        """Why it can't be fitted on a run, or None where it can."""
        ...

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Fit it.

        Args:
            data: the run.
            train: positions of the queries whose labels may be read.
            seed: of all that is drawn.
            held_out: whether a question, by its hash, is kept from this fit, in whatever run it
                stands.
        """
        ...
