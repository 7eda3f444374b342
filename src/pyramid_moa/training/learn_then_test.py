"""Learn then test: the cheapest, or most accurate, setting of a dial that keeps a promise.

Settings are tested one after another in an order that no calibration label has a part in, each at
the whole level, until one is not proven: with fixed-sequence testing the probability that any
setting is taken for proven that breaks the promise is at most the level. Source: Angelopoulos,
Bates, Candès, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
Control" (Annals of Applied Statistics 2025), section on fixed-sequence testing.

It does not matter how good the order is, only that it was fixed before: a bad one proves less.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pyramid_moa.training.drop_test import DropTest, evidence_of_drop
from pyramid_moa.training.outcomes import BoolArray, FloatArray
from pyramid_moa.training.risk_bounds import accuracy_p_value, mean_below_p_value

__all__ = [
    "Plan",
    "Tried",
    "cheapest_within_drop",
    "most_accurate",
    "proven_accurate",
    "proven_within_cost",
    "proven_within_drop",
]


# Standard deviations: twice as many as a proof at the usual level takes.
_NEARLY_SURE = 3.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is expected of K settings, from the safest to the cheapest, by other questions.

    Attributes:
        accuracy: [K].
        lost: share of questions that the oracle has right and the setting wrong, [K].
        gained: share that the setting has right and the oracle wrong, [K].
        questions: how many that rests on.
    """

    accuracy: FloatArray
    lost: FloatArray
    gained: FloatArray
    questions: int

    def start_within_drop(self, n: int, drop: float) -> int:
        """The safest setting that n questions are nearly sure to prove; later ones are cheaper.

        Where there is none it is the one that they are most likely to. Place 0 asks the oracle
        every time and needs no proof.
        """
        # Half a question each: a few questions that lost nothing do not say that none ever will.
        lost, gained = (
            n * (share * self.questions + 0.5) / (self.questions + 1)
            for share in (self.lost, self.gained)
        )
        evidence = evidence_of_drop(lost[1:], gained[1:], n, drop)
        return 1 + int(np.argmax(np.minimum(evidence, _NEARLY_SURE)))

    def start_accurate(self) -> int:
        """The most accurate setting, of equals the safest."""
        return int(np.argmax(self.accuracy))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """What K settings, from the safest to the cheapest, came to on n calibration questions.

    Attributes:
        correct: whether the final answer is right, bool [K, n].
        cost: of all calls, USD, [K, n]; nan where unknown.
        escalated: whether the oracle was asked, bool [K, n].
        oracle_correct: whether the oracle alone is, bool [n].
        oracle_cost: of asking the oracle alone, [n]; nan where unknown.
    """

    correct: BoolArray
    cost: FloatArray
    escalated: BoolArray
    oracle_correct: BoolArray
    oracle_cost: FloatArray

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.oracle_correct)

    @property
    def right(self) -> FloatArray:
        """Number of right answers, [K]."""
        right: FloatArray = self.correct.sum(axis=1).astype(np.float64)
        return right

    @property
    def lost(self) -> FloatArray:
        """Questions that the oracle has right and the setting wrong, [K]."""
        lost: FloatArray = (self.oracle_correct & ~self.correct).sum(axis=1).astype(np.float64)
        return lost

    @property
    def gained(self) -> FloatArray:
        """Questions that the setting has right and the oracle wrong, [K]."""
        gained: FloatArray = (~self.oracle_correct & self.correct).sum(axis=1).astype(np.float64)
        return gained


def cheapest_within_drop(
    lost: FloatArray, gained: FloatArray, plan: Plan, test: DropTest
) -> int | None:
    """The cheapest setting that is proven to be at most ``test.drop`` below the oracle.

    Args:
        lost: number of the test's n questions that the oracle has right and the setting wrong, [K].
        gained: the other way round, [K].
        plan: fixes the order.
        test: of one setting.

    Returns:
        Its place, or None where none is but place 0, which asks the oracle every time.
    """
    return _last(proven_within_drop(lost, gained, plan, test))


def proven_within_drop(
    lost: FloatArray, gained: FloatArray, plan: Plan, test: DropTest
) -> list[int]:
    """All settings that are proven to be, rising; arguments as in ``cheapest_within_drop``."""
    places = range(plan.start_within_drop(test.n, test.drop), len(lost))
    return _proven(places, lambda place: test.proves(int(lost[place]), int(gained[place])))


def proven_accurate(
    right: FloatArray, n: int, plan: Plan, accuracy: float, level: float
) -> list[int]:
    """All settings that are proven to be so accurate, rising.

    Args:
        right: number of right answers, [K].
        n: questions.
        plan: fixes the order.
        accuracy: the least.
        level: probability of a proof where the accuracy is smaller.
    """
    p = accuracy_p_value(right, n, accuracy)
    places = range(plan.start_accurate(), len(right))
    return _proven(places, lambda place: bool(p[place] <= level))


def proven_within_cost(excess: FloatArray, most: float, level: float) -> list[int]:
    """All settings whose mean excess is proven to be below 0, falling.

    Args:
        excess: what each question costs beyond what is allowed, the dearest setting first, [K, n].
        most: that it can be, above 0.
        level: probability of a proof where the mean excess is above 0.
    """
    p = mean_below_p_value(excess, most)
    return _proven(reversed(range(len(excess))), lambda place: bool(p[place] <= level))


def most_accurate(proven: Iterable[int], plan: Plan) -> int | None:
    """The setting, of those that are proven, from which other questions promise most."""
    # All that are proven are so at once, so that choosing among them costs nothing.
    return max(proven, key=lambda place: (plan.accuracy[place], place), default=None)


def _proven(places: Iterable[int], proves: Callable[[int], bool]) -> list[int]:
    """Fixed-sequence testing: those before the first that is not proven."""
    proven: list[int] = []
    for place in places:
        if not proves(place):
            break
        proven.append(place)
    return proven


def _last(places: list[int]) -> int | None:
    return places[-1] if places else None
