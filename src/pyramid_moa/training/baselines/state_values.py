"""What every set of members that have answered is worth: qualities, and the value of going on.

Legend: K settings of lambda, n queries, m members, d features of a set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pyramid_moa.training.baselines.rule import Choices, FailureScores
from pyramid_moa.training.baselines.rule_run import Positions
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["SetEvidence", "StateValues", "Step", "fit_state_values", "joined", "lambdas", "walk"]

# From a dear lambda to a free oracle.
_SETTINGS = 51


class SetEvidence(Protocol):
    """What n queries show once a set of members has answered; a set has one bit a member."""

    @property
    def members(self) -> int:
        """M."""
        ...

    def columns(self, subset: int) -> FloatArray:
        """Features, [n, d]; also of the empty set, 0."""
        ...

    def answer(self, subset: int) -> Positions:
        """Column of the answer that the set gives, as in `RuleRun.correct`; -1 where none, [n]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The steps there are from a set, and what each is worth.

    Attributes:
        stop: expected quality of the set's answer, float [n]; -inf where it gives none.
        oracle: expected quality of the oracle's answer, float [n].
        values: of stopping, of the oracle, and of each member in ``members``, less their costs,
            float [2 + members, K, n].
        members: those that have not answered.
    """

    stop: FloatArray
    oracle: FloatArray
    values: FloatArray
    members: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class StateValues:
    """Fitted regressions of every set.

    Attributes:
        ridges: one a set.
        members: m.
        prices: what each model's call costs in expected accuracy, float [K, m + 1].
    """

    ridges: "list[_Ridge]"
    members: int
    prices: FloatArray

    def step(self, evidence: SetEvidence, subset: int) -> Step:
        """Look at the steps from a set, for queries whose answers of the set are known."""
        predicted = self.ridges[subset].predict(evidence.columns(subset))
        return _step(predicted, evidence.answer(subset) >= 0, subset, self.members, self.prices)


def lambdas() -> FloatArray:
    """Accuracy that one oracle call's price has to buy, from dear to free: [K]."""
    return np.append(np.geomspace(3.0, 0.003, _SETTINGS - 1), 0.0)


def fit_state_values(
    evidence: SetEvidence,
    correct: BoolArray,
    cost: FloatArray,
    *,
    dial: FloatArray,
    penalty: float,
    realised: bool = False,
) -> StateValues:
    """Fit every set, from the largest to the empty one.

    Args:
        evidence: of n queries.
        correct: whether each answer is right, as in `RuleRun.correct`, [n, m + 2].
        cost: of each model's answer, USD, [n, m + 1].
        dial: accuracy that the price of one oracle call has to buy, [K]; with none of them
            only qualities are fitted.
        penalty: of the ridge regressions.
        realised: what going on is worth is learned from what became of the queries that went on
            (Longstaff and Schwartz 2001), not from what was expected of them: the best of several
            noisy expectations is expected too high.
    """
    members = evidence.members
    mean_cost = cost.mean(axis=0)
    prices = dial[:, None] * mean_cost / mean_cost[-1]  # [K, m + 1]
    right = correct.astype(np.float64)
    oracle = right[:, [members]]
    sets = 1 << members
    ridges: list[_Ridge | None] = [None] * sets
    worth: dict[int, FloatArray] = {}  # [K, n] by set
    for subset in reversed(range(sets)):
        answer, columns = evidence.answer(subset), evidence.columns(subset)
        given = np.take_along_axis(right, np.maximum(answer, 0)[:, None], axis=1)
        stop = np.where((answer >= 0)[:, None], given, 0.0)
        later = [worth[subset | 1 << j].T for j in _others(subset, members)]
        targets = np.hstack([stop, oracle, *later])
        ridge = _fit_ridge(columns, targets, penalty)
        ridges[subset] = ridge
        expected = _step(ridge.predict(columns), answer >= 0, subset, members, prices).values
        if realised:
            became = _step(targets, answer >= 0, subset, members, prices).values
            best = expected.argmax(axis=0)
            worth[subset] = np.take_along_axis(became, best[None], axis=0)[0]
        else:
            worth[subset] = expected.max(axis=0)
    return StateValues(
        ridges=[ridge for ridge in ridges if ridge is not None], members=members, prices=prices
    )


def walk(
    values: StateValues, evidence: SetEvidence, *, failure: FailureScores | None = None
) -> Choices:
    """Let every query take its best steps, at every setting.

    Args:
        values: of the steps.
        evidence: of n queries.
        failure: scores to hand on.
    """
    members, n = evidence.members, len(evidence.answer(0))
    shape = (len(values.prices), n)
    state = np.zeros(shape, dtype=np.int64)
    called = np.zeros((*shape, members + 1), dtype=bool)
    answer = np.full(shape, members)
    going = np.ones(shape, dtype=bool)
    # A set's bits are a smaller number than those of any set that it can grow into.
    for subset in range(1 << members):
        here = going & (state == subset)
        if not here.any():
            continue
        step = values.step(evidence, subset)
        best = step.values.argmax(axis=0)  # [K, n]
        stops = here & (best == 0)
        answer[stops] = np.broadcast_to(evidence.answer(subset), shape)[stops]
        called[here & (best == 1), members] = True
        going &= ~(here & (best < 2))
        for place, member in enumerate(step.members):
            goes = here & (best == 2 + place)
            called[goes, member] = True
            state[goes] |= 1 << member
    return Choices(called=called, answer=answer, failure=failure)


def joined(parts: Sequence[tuple[Positions, Choices]]) -> Choices:
    """Put the choices of left-out parts into the order of the training queries."""
    order = np.argsort(np.concatenate([held for held, _ in parts]))
    return Choices(
        called=np.concatenate([part.called for _, part in parts], axis=1)[:, order],
        answer=np.concatenate([part.answer for _, part in parts], axis=1)[:, order],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ridge:
    centre: FloatArray  # [d]
    scale: FloatArray  # [d]
    slopes: FloatArray  # [d, targets]
    offsets: FloatArray  # [targets]

    def predict(self, columns: FloatArray) -> FloatArray:
        values: FloatArray = ((columns - self.centre) / self.scale) @ self.slopes + self.offsets
        return values


def _fit_ridge(columns: FloatArray, targets: FloatArray, penalty: float) -> _Ridge:
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    scaled = (columns - centre) / scale
    offsets = targets.mean(axis=0)
    gram = scaled.T @ scaled + penalty * np.eye(scaled.shape[1])
    slopes = np.linalg.solve(gram, scaled.T @ (targets - offsets))
    return _Ridge(centre=centre, scale=scale, slopes=slopes, offsets=offsets)


def _step(
    worth: FloatArray, answered: BoolArray, subset: int, members: int, prices: FloatArray
) -> Step:
    """Bring what steps are worth, [n, 2 + others * K], into order."""
    others, settings = _others(subset, members), len(prices)
    stop, oracle = np.clip(worth[:, :2].T, 0.0, 1.0)
    stop = np.where(answered, stop, -np.inf)  # nothing to stop with
    later = worth[:, 2:].T.reshape(len(others), settings, len(worth))
    values = np.concatenate(
        [
            np.broadcast_to(stop, (1, settings, len(stop))),
            (oracle - prices[:, -1:])[None],
            later - prices.T[others][:, :, None],
        ]
    )
    return Step(stop=stop, oracle=oracle, values=values, members=others)


def _others(subset: int, members: int) -> list[int]:
    return [member for member in range(members) if not subset >> member & 1]
