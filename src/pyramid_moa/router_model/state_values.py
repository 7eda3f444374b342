"""What every set of members that have answered is worth: qualities, and the value of going on.

From a set there are these steps: stop with its answer, ask the oracle and end, or ask a group of
members that have not answered, all at once. A step is worth the expected quality of the answer
that it leads to, less what it costs.

Legend: K settings of the dial, n queries, M members, G groups, d features of a set. A set of
members is a whole number with one bit a member; the empty set is 0.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Ridge",
    "StateValues",
    "Step",
    "larger_sets",
    "reachable_sets",
    "single_members",
    "steps_from",
]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ridge:
    """A fitted linear regression of several targets.

    Attributes:
        centre: of the features, [d].
        scale: of the features, [d].
        slopes: [d, targets].
        offsets: [targets].
    """

    centre: FloatArray
    scale: FloatArray
    slopes: FloatArray
    offsets: FloatArray

    def predict(self, columns: FloatArray) -> FloatArray:
        """Targets [n, targets] from features [n, d]."""
        values: FloatArray = ((columns - self.centre) / self.scale) @ self.slopes + self.offsets
        return values

    def of_targets(self, places: Sequence[int]) -> "Ridge":
        """The regression of some of the targets alone."""
        return Ridge(
            centre=self.centre,
            scale=self.scale,
            slopes=np.ascontiguousarray(self.slopes[:, places]),
            offsets=self.offsets[places],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The steps there are from a set, and what each is worth.

    Attributes:
        stop: expected quality of the set's answer, float [n]; -inf where it gives none.
        oracle: expected quality of the oracle's answer, float [n].
        values: of stopping, of the oracle, and of each group in ``groups``, less their costs,
            float [2 + groups, K, n].
        groups: places, among the G groups, of those that have not answered.
    """

    stop: FloatArray
    oracle: FloatArray
    values: FloatArray
    groups: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class StateValues:
    """Fitted regressions of every set that can be come to.

    Attributes:
        ridges: by set.
        groups: the G groups of members that are asked at once, each a set.
        dial: accuracy that the price of one oracle call has to buy, [K].
        prices: what the calls of each group, and of the oracle, cost in the price of one oracle
            call, [G + 1].
    """

    ridges: Mapping[int, Ridge]
    groups: Sequence[int]
    dial: FloatArray
    prices: FloatArray

    def step(self, columns: FloatArray, answered: BoolArray, subset: int) -> Step:
        """Look at the steps from a set.

        Args:
            columns: features of n queries whose answers of the set are known, [n, d].
            answered: whether the set gives an answer, [n].
            subset: the set.
        """
        worth = self.ridges[subset].predict(columns)
        return valued(worth, answered, subset, self.groups, self.dial, self.prices)

    def at_setting(self, subset: int, setting: int) -> "StateValues":
        """The same of one set at one setting of the dial, which it is the whole dial of."""
        later = range(len(steps_from(subset, self.groups)))
        places = [0, 1, *(2 + group * len(self.dial) + setting for group in later)]
        return StateValues(
            ridges={subset: self.ridges[subset].of_targets(places)},
            groups=self.groups,
            dial=self.dial[[setting]],
            prices=self.prices,
        )


def valued(
    worth: FloatArray,
    answered: BoolArray,
    subset: int,
    groups: Sequence[int],
    dial: FloatArray,
    prices: FloatArray,
) -> Step:
    """Bring what steps are worth, [n, 2 + groups * K], into order, and take off their costs."""
    left = steps_from(subset, groups)
    stop, oracle = np.clip(worth[:, :2].T, 0.0, 1.0)
    # Where nothing can be said the oracle is asked, as the parallel policy does.
    stop = np.where(answered & ~np.isnan(stop), stop, -np.inf)  # or nothing to stop with
    oracle = np.where(np.isnan(oracle), 1.0, oracle)
    later = worth[:, 2:].T.reshape(len(left), len(dial), len(worth))
    costs = dial[:, None] * prices  # [K, G + 1]
    values = np.empty((2 + len(left), len(dial), len(worth)))
    values[0] = stop
    values[1] = oracle - costs[:, -1:]
    values[2:] = np.where(np.isnan(later), -np.inf, later) - costs.T[left][:, :, None]
    return Step(stop=stop, oracle=oracle, values=values, groups=left)


def steps_from(subset: int, groups: Sequence[int]) -> list[int]:
    """Places of the groups of which nobody is in a set."""
    return [place for place, group in enumerate(groups) if not group & subset]


def reachable_sets(groups: Sequence[int]) -> list[int]:
    """Sets that can be come to by asking groups, the empty one first, rising.

    A set is a smaller number than any that it can grow into.
    """
    found = {0}
    for _ in groups:
        found |= {one | group for one in found for group in groups if not one & group}
    return sorted(found)


def larger_sets(subset: int, reachable: Collection[int]) -> list[int]:
    """Of the sets that can be come to, those that a set can grow into, rising."""
    return [
        one
        for one in sorted(reachable)
        if one != subset and not subset & ~one and one ^ subset in reachable
    ]


def single_members(members: int) -> list[int]:
    """Groups of one member each."""
    return [1 << member for member in range(members)]
