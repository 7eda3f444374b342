"""Going step by step: after every answer the step that is worth most is taken.

Under a budget a step is worth what can still be afforded after it: where nothing is left for the
oracle, what the best set of members' answers is worth that there is money and time for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.policy import Scores
from pyramid_moa.router_model.set_scores import SET_COLUMNS
from pyramid_moa.router_model.state_values import (
    Ridge,
    StateValues,
    Step,
    larger_sets,
    reachable_sets,
    steps_from,
)

__all__ = ["MOST_MEMBERS", "Allowed", "Chosen", "StepPolicy"]

MOST_MEMBERS = 7
"""More have too many sets to go through."""

Allowed = Callable[[Sequence[Sequence[str]]], bool]
"""Whether a query's budget has room for asking these groups of models, one after another."""

_LATER = "later/"
_PARTS = ("centre", "scale", "slopes", "offsets")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The next step of a query.

    Attributes:
        models: to be asked at once; nobody where the query ends here.
        worth: expected quality of the answer that it leads to, less what it costs to get there.
        limited: whether without a budget another step would have been taken.
    """

    models: tuple[str, ...]
    worth: float
    limited: bool = False


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Groups that are asked one after another: their places, names, and price in oracle calls."""

    key: frozenset[int]
    names: list[tuple[str, ...]]
    price: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ends:
    """Sets that a query may stop with.

    Attributes:
        best_first: how right their answers will be, and the sets.
        room: of the budget.
    """

    best_first: list[tuple[float, int]]
    room: Allowed
    _known: dict[frozenset[int], bool] = field(default_factory=dict)

    def has_room(self, way: _Way) -> bool:
        """Whether there is a budget for all of it; what comes first makes no difference."""
        if way.key not in self._known:
            self._known[way.key] = self.room(way.names)
        return self._known[way.key]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPolicy:
    """Fitted values of steps, for members and an oracle by name.

    Attributes:
        members: M names, in the order of a set's bits.
        oracle: its name.
        values: of every set that can be come to.
        later: by set, how right the answers of the sets will be that it can grow into, in the order
            of ``larger_sets``. Empty in checkpoints of earlier versions: there a step whose budget
            then ends is believed to be worth what it is worth without one.
    """

    members: tuple[str, ...]
    oracle: str
    values: StateValues
    later: Mapping[int, Ridge] = field(default_factory=dict)
    # Found once: putting them together anew at every step would take longer than all else.
    _ways: "dict[tuple[int, int], _Way | None]" = field(default_factory=dict, init=False)
    # Likewise: of a dial's many settings a point needs one.
    _at_settings: dict[tuple[int, int], StateValues] = field(default_factory=dict, init=False)

    def next_step(
        self,
        asked: Sequence[str],
        columns: NDArray[np.float64],
        *,
        answered: bool,
        worth_of_a_call: float,
        allowed: Allowed | None = None,
    ) -> Chosen:
        """Choose what is worth most.

        Args:
            asked: members that were asked, whether they answered or failed.
            columns: what is read of them, or of the question where nobody was asked, [1, d].
            answered: whether they gave an answer to stop with.
            worth_of_a_call: accuracy that the price of one oracle call has to buy; the nearest
                setting of the dial is taken. Below 0 the oracle is asked at once, every time.
            allowed: whether there is still a budget for asking some groups one after another; for
                all there are where it is left out.
        """
        wants_oracle = worth_of_a_call < 0
        if wants_oracle and (allowed is None or allowed([(self.oracle,)])):
            return Chosen(models=(self.oracle,), worth=1.0)
        subset = sum(1 << self.members.index(name) for name in asked)
        setting = int(np.abs(self.values.dial - worth_of_a_call).argmin())
        step = self._at(subset, setting).step(columns, np.array([answered]), subset)
        free = worth = step.values[:, 0, 0]
        if allowed is not None:
            call = float(self.values.dial[setting])
            worth = self._affordable(step, columns, subset, call, allowed)
        place = int(worth.argmax())
        return Chosen(
            models=self._models(step, place),
            worth=float(worth[place]),
            limited=wants_oracle or place != int(free.argmax()),
        )

    def expected(
        self, columns: NDArray[np.float64], models: Sequence[str], oracle: str
    ) -> Scores | None:
        """What is to be expected of some members' answer, and of the oracle's, before any is asked.

        Args:
            columns: what is read of the question, [1, d].
            models: the members.
            oracle: its name.

        Returns:
            None where the checkpoint does not tell, or tells of others.
        """
        if oracle != self.oracle or not set(models) <= set(self.members):
            return None
        subset = sum(1 << self.members.index(name) for name in models)
        larger = larger_sets(0, self.values.ridges)
        if not self.later or subset not in larger:
            return None
        right = self.later[0].predict(columns)[0, larger.index(subset)]
        up = self._at(0, 0).step(columns, np.array([False]), 0).oracle[0]
        return Scores(
            p_ensemble_fails=float(1.0 - np.clip(right, 0.0, 1.0)), p_oracle_right=float(up)
        )

    def _models(self, step: Step, place: int) -> tuple[str, ...]:
        """Who is asked in one of the steps, in the order of ``Step.values``."""
        if place < 2:
            return ((), (self.oracle,))[place]
        return self._names(self.values.groups[step.groups[place - 2]])

    def _at(self, subset: int, setting: int) -> StateValues:
        key = subset, setting
        if key not in self._at_settings:
            self._at_settings[key] = self.values.at_setting(subset, setting)
        return self._at_settings[key]

    def _affordable(
        self,
        step: Step,
        columns: NDArray[np.float64],
        subset: int,
        call: float,
        allowed: Allowed,
    ) -> NDArray[np.float64]:
        """What steps are worth while a budget lasts, [2 + groups]; -inf where it has no room."""
        worth = step.values[:, 0, 0].copy()
        oracle = (self.oracle,)
        if not allowed([oracle]):
            worth[1] = -np.inf
        ends: _Ends | None = None
        for place, number in enumerate(step.groups, start=2):
            names = self._names(self.values.groups[number])
            if not allowed([names]):
                worth[place] = -np.inf
            elif self.later and not allowed([names, oracle]):
                ends = ends or self._ends(columns, subset, allowed)
                worth[place] = self._best_end(ends, subset, number, call)
        return worth

    def _ends(self, columns: NDArray[np.float64], subset: int, allowed: Allowed) -> "_Ends":
        right = np.clip(self.later[subset].predict(columns)[0], 0.0, 1.0)
        larger = larger_sets(subset, self.values.ridges)
        told = np.nan_to_num(right, nan=-np.inf).tolist()
        return _Ends(best_first=sorted(zip(told, larger, strict=True), reverse=True), room=allowed)

    def _best_end(self, ends: "_Ends", subset: int, first: int, call: float) -> float:
        """What it is worth to ask a group, and more members as far as the budget goes, and stop.

        Args:
            ends: where one may stop.
            subset: who has been asked.
            first: place of the group.
            call: accuracy that the price of an oracle call has to buy.
        """
        own, best = self.values.groups[first], -np.inf
        for right, end in ends.best_first:
            if right <= best:
                break  # nor will those that follow be better
            if own & ~end:
                continue
            way = self._way(first, end & ~subset & ~own)
            if way is not None and right - call * way.price > best and ends.has_room(way):
                best = right - call * way.price
        return float(best)

    def _way(self, first: int, rest: int) -> "_Way | None":
        """A group and then the rest, as many at once as may be; None where groups do not do it."""
        if (first, rest) not in self._ways:
            groups, places, left = self.values.groups, [first], rest
            for number in sorted(range(len(groups)), key=lambda place: -groups[place].bit_count()):
                if not groups[number] & ~left:
                    places.append(number)
                    left &= ~groups[number]
            self._ways[first, rest] = (
                None
                if left
                else _Way(
                    key=frozenset(places),
                    names=[self._names(groups[number]) for number in places],
                    price=float(self.values.prices[places].sum()),
                )
            )
        return self._ways[first, rest]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All of it by name, as a checkpoint holds it."""
        found: dict[str, NDArray[Any]] = {
            "dial": self.values.dial,
            "prices": self.values.prices,
            "groups": np.array(self.values.groups, dtype=np.int64),
        }
        named = {str(subset): ridge for subset, ridge in self.values.ridges.items()}
        named |= {f"{_LATER}{subset}": ridge for subset, ridge in self.later.items()}
        for name, ridge in named.items():
            for part in _PARTS:
                found[f"{name}/{part}"] = np.ascontiguousarray(getattr(ridge, part))
        return found

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        *,
        members: Sequence[str],
        oracle: str,
        question_features: int,
        source: str,
    ) -> "StepPolicy":
        """Put it together from what ``tensors`` gave.

        Args:
            tensors: by name.
            members: their names, in the order of the bits.
            oracle: its name.
            question_features: that the first step is chosen by.
            source: the file, for errors.

        Raises:
            CheckpointError: they are not those of so many members, or damaged.
        """
        wrong = [
            name
            for name, value in tensors.items()
            if value.dtype != (np.int64 if name == "groups" else np.float64)
        ]
        if wrong or tensors.get("groups", np.zeros(0)).size >= 1 << MOST_MEMBERS:
            raise CheckpointError(
                f"{source}: damaged: the values of steps are of other types or sizes: "
                f"{', '.join(wrong[:4]) or 'groups'}"
            )
        try:
            groups = [int(group) for group in tensors["groups"]]
            dial, prices = tensors["dial"], tensors["prices"]
            if not _are_groups(groups, len(members)):
                raise CheckpointError(
                    f"{source}: expected groups of {len(members)} members, found {groups[:8]}"
                )
            reachable = reachable_sets(groups)
            ridges = {subset: _ridge(tensors, str(subset)) for subset in reachable}
            later = {}
            if any(name.startswith(_LATER) for name in tensors):
                later = {
                    subset: _ridge(tensors, f"{_LATER}{subset}")
                    for subset in reachable
                    if larger_sets(subset, reachable)
                }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: damaged: the values of steps are not whole ({error}); train again"
            ) from error
        fits = prices.shape == (len(groups) + 1,) and dial.ndim == 1 and len(dial) > 0
        targets = {subset: 2 + len(steps_from(subset, groups)) * len(dial) for subset in reachable}
        larger = {subset: len(larger_sets(subset, reachable)) for subset in reachable}
        fits = fits and all(
            _fits(
                ridge, features=SET_COLUMNS if subset else question_features, targets=told[subset]
            )
            for own, told in ((ridges, targets), (later, larger))
            for subset, ridge in own.items()
        )
        finite = all(np.isfinite(value).all() for value in tensors.values())
        if not (fits and finite and len(tensors) == 3 + len(_PARTS) * (len(ridges) + len(later))):
            raise CheckpointError(f"{source}: damaged: the values of steps do not fit each other")
        values = StateValues(ridges=ridges, groups=tuple(groups), dial=dial, prices=prices)
        return cls(members=tuple(members), oracle=oracle, values=values, later=later)

    def _names(self, group: int) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.members) if group >> place & 1)


def _are_groups(groups: Sequence[int], members: int) -> bool:
    """Whether these are sets of members, each once, and not more than can be gone through."""
    known = all(0 < group < 1 << members for group in groups)
    return known and members <= MOST_MEMBERS and len(set(groups)) == len(groups)


def _ridge(tensors: Mapping[str, NDArray[Any]], name: str) -> Ridge:
    return Ridge(**{part: tensors[f"{name}/{part}"] for part in _PARTS})


def _fits(ridge: Ridge, *, features: int, targets: int) -> bool:
    return (
        ridge.centre.shape == ridge.scale.shape == (features,)
        and bool(np.all(ridge.scale > 0))
        and ridge.slopes.shape == (features, targets)
        and ridge.offsets.shape == (targets,)
    )
