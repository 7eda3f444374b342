"""Going step by step: after every answer the step that is worth most is taken."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.set_scores import SET_COLUMNS
from pyramid_moa.router_model.state_values import Ridge, StateValues, reachable_sets, steps_from

__all__ = ["MOST_MEMBERS", "Allowed", "Chosen", "StepPolicy"]

MOST_MEMBERS = 7
"""More have too many sets to go through."""

Allowed = Callable[[Sequence[str]], bool]
"""Whether a query's budget has room for asking these models at once."""

_PARTS = ("centre", "scale", "slopes", "offsets")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The next step of a query.

    Attributes:
        models: to be asked at once; nobody where the query ends here.
        worth: expected quality of the answer that it leads to, less what it costs to get there.
        limited: whether a budget forbade a step that would have been worth more.
    """

    models: tuple[str, ...]
    worth: float
    limited: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPolicy:
    """Fitted values of steps, for members and an oracle by name.

    Attributes:
        members: M names, in the order of a set's bits.
        oracle: its name.
        values: of every set that can be come to.
    """

    members: tuple[str, ...]
    oracle: str
    values: StateValues

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
            allowed: which models there is still a budget for; all where it is left out.
        """
        wants_oracle = worth_of_a_call < 0
        if wants_oracle and (allowed is None or allowed([self.oracle])):
            return Chosen(models=(self.oracle,), worth=1.0)
        subset = sum(1 << self.members.index(name) for name in asked)
        step = self.values.step(columns, np.array([answered]), subset)
        setting = int(np.abs(self.values.dial - worth_of_a_call).argmin())
        worth = step.values[:, setting, 0]
        groups = [self._names(self.values.groups[place]) for place in step.groups]
        models: list[tuple[str, ...]] = [(), (self.oracle,), *groups]
        order = np.argsort(-worth, kind="stable")
        for place in order:
            if not models[place] or allowed is None or allowed(models[place]):
                break
        else:
            raise AssertionError("stopping is always allowed")
        return Chosen(
            models=models[place],
            worth=float(worth[place]),
            limited=wants_oracle or bool(place != order[0]),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All of it by name, as a checkpoint holds it."""
        found: dict[str, NDArray[Any]] = {
            "dial": self.values.dial,
            "prices": self.values.prices,
            "groups": np.array(self.values.groups, dtype=np.int64),
        }
        for subset, ridge in self.values.ridges.items():
            for part in _PARTS:
                found[f"{subset}/{part}"] = np.ascontiguousarray(getattr(ridge, part))
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
            ridges = {
                subset: Ridge(**{part: tensors[f"{subset}/{part}"] for part in _PARTS})
                for subset in reachable_sets(groups)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: damaged: the values of steps are not whole ({error}); train again"
            ) from error
        fits = prices.shape == (len(groups) + 1,) and dial.ndim == 1 and len(dial) > 0
        fits = fits and all(
            _fits(
                ridge,
                features=SET_COLUMNS if subset else question_features,
                targets=2 + len(steps_from(subset, groups)) * len(dial),
            )
            for subset, ridge in ridges.items()
        )
        finite = all(np.isfinite(value).all() for value in tensors.values())
        if not (fits and finite and len(tensors) == 3 + len(_PARTS) * len(ridges)):
            raise CheckpointError(f"{source}: damaged: the values of steps do not fit each other")
        values = StateValues(ridges=ridges, groups=tuple(groups), dial=dial, prices=prices)
        return cls(members=tuple(members), oracle=oracle, values=values)

    def _names(self, group: int) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.members) if group >> place & 1)


def _are_groups(groups: Sequence[int], members: int) -> bool:
    """Whether these are sets of members, each once, and not more than can be gone through."""
    known = all(0 < group < 1 << members for group in groups)
    return known and members <= MOST_MEMBERS and len(set(groups)) == len(groups)


def _fits(ridge: Ridge, *, features: int, targets: int) -> bool:
    return (
        ridge.centre.shape == ridge.scale.shape == (features,)
        and bool(np.all(ridge.scale > 0))
        and ridge.slopes.shape == (features, targets)
        and ridge.offsets.shape == (targets,)
    )
