"""Cascade routing (ETH-like): after every answer the step that is worth most is taken.

A state is the set of members that have answered. From each the rule may stop with the vote of
those members, ask the oracle and end, or ask one more member. A step is worth the expected quality
of the answer that it leads to, minus lambda times the cost of getting there.

Legend: K settings of lambda, n queries.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyramid_moa.training.baselines.dial import SETTINGS
from pyramid_moa.training.baselines.inner_folds import InnerFold, inner_folds
from pyramid_moa.training.baselines.rule import Choices, FailureScores, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.state_values import (
    StateValues,
    fit_state_values,
    question_design,
)
from pyramid_moa.training.baselines.subset_votes import subset_vote
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["CascadeRoutingRule"]

_PENALTIES = (1.0, 10.0, 100.0, 1000.0)
_MOST_MEMBERS = 7


@dataclass(frozen=True, kw_only=True)
class CascadeRoutingRule:
    """Quality of every model for every set of models already run, by ridge regression.

    Source: Dekoninck, Baader and Vechev 2024, "A unified approach to routing and cascading for
    LLMs". Their expected best over all larger sets of models is found by going backwards through
    the sets: a set is worth what its best next step is. The penalty of the regressions is chosen
    by cross-validation; lambda is swept.

    Attributes:
        directions: kept of the question's text.
    """

    directions: int = 8

    name = "cascade-routing"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        return asdict(self)

    def absent(self, data: RuleRun) -> str | None:
        """It goes through all sets of members."""
        if data.members > _MOST_MEMBERS:
            return f"{data.members} members have too many sets to go through"
        return None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Choose the penalty and fit all sets."""
        lambdas = _lambdas()
        folds = inner_folds(data, train, seed)
        designs = [
            question_design(data, train[fitted], directions=self.directions, seed=seed)
            for fitted, _ in folds
        ]
        penalty = min(
            _PENALTIES, key=lambda value: _quality_error(data, train, folds, designs, value)
        )
        parts = []
        for (fitted, held), design in zip(folds, designs, strict=True):
            values = fit_state_values(data, train[fitted], design, lambdas=lambdas, penalty=penalty)
            parts.append((held, _choices(values, data, train[held])))
        design = question_design(data, train, directions=self.directions, seed=seed)
        return _Fitted(
            dial=lambdas,
            values=fit_state_values(data, train, design, lambdas=lambdas, penalty=penalty),
            train=_joined(parts),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    dial: FloatArray
    values: StateValues
    train: Choices
    fell_back: bool = False  # a regression on one class is its mean

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        return _choices(self.values, data, positions)


def _lambdas() -> FloatArray:
    """Accuracy that one oracle call's price has to buy, from dear to free: [K]."""
    return np.append(np.geomspace(3.0, 0.003, SETTINGS - 1), 0.0)


def _quality_error(
    data: RuleRun,
    train: Positions,
    folds: Sequence[InnerFold],
    designs: Sequence[TextDesign],
    penalty: float,
) -> float:
    """Squared error of all sets' qualities on queries that were left out."""
    total = 0.0
    for (fitted, held), design in zip(folds, designs, strict=True):
        values = fit_state_values(data, train[fitted], design, lambdas=np.zeros(0), penalty=penalty)
        tested = train[held]
        for subset in range(1 << data.members):
            step = values.step(data, subset, tested)
            total += _squared(step.oracle, data.correct[tested, data.oracle])
            if subset:
                answer = subset_vote(data, subset).answer[tested]
                total += _squared(step.stop, data.correct[tested, answer])
    return total


def _squared(predicted: FloatArray, right: BoolArray) -> float:
    return float(np.sum(np.square(predicted - right)))


def _choices(values: StateValues, data: RuleRun, positions: Positions) -> Choices:
    """Let every query take its steps, at every setting."""
    shape = (len(values.prices), len(positions))
    state = np.zeros(shape, dtype=np.int64)
    called = np.zeros((*shape, data.members + 1), dtype=bool)
    answer = np.full(shape, data.oracle)
    going = np.ones(shape, dtype=bool)
    failure = None
    # A set's bits are a smaller number than those of any set that it can grow into.
    for subset in range(1 << data.members):
        here = going & (state == subset)
        last = subset == (1 << data.members) - 1
        if not here.any() and not last:
            continue
        step = values.step(data, subset, positions)
        best = step.values.argmax(axis=0)  # [K, n]
        if subset:
            stops = here & (best == 0)
            vote = np.broadcast_to(subset_vote(data, subset).answer[positions], shape)
            answer[stops] = vote[stops]
        called[here & (best == 1), data.oracle] = True
        going &= ~(here & (best < 2))
        for place, member in enumerate(step.members):
            goes = here & (best == 2 + place)
            called[goes, member] = True
            state[goes] |= 1 << member
        if last:
            failure = FailureScores(
                values=1.0 - step.stop,
                answer=np.full(len(positions), data.vote),
                is_probability=True,
            )
    return Choices(called=called, answer=answer, failure=failure)


def _joined(parts: Sequence[tuple[Positions, Choices]]) -> Choices:
    """Put the choices of left-out parts into the order of the training queries."""
    order = np.argsort(np.concatenate([held for held, _ in parts]))
    return Choices(
        called=np.concatenate([part.called for _, part in parts], axis=1)[:, order],
        answer=np.concatenate([part.answer for _, part in parts], axis=1)[:, order],
    )
