"""Cascade routing (ETH-like): after every answer the step that is worth most is taken.

A state is the set of members that have answered. From each the rule may stop with the vote of
those members, ask the oracle and end, or ask one more member. A step is worth the expected quality
of the answer that it leads to, minus lambda times the cost of getting there.

Legend: K settings of lambda, n queries.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyramid_moa.router_model.state_values import StateValues
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.rule import Choices, FailureScores, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.stepwise import fit_steps, stepwise_choices
from pyramid_moa.training.baselines.subset_votes import subset_vote
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.baselines.text_features import question_counts, question_numbers
from pyramid_moa.training.outcomes import BoolArray, FloatArray
from pyramid_moa.training.state_fit import lambdas
from pyramid_moa.training.state_walk import Walk, joined_walks, walk

__all__ = ["MOST_MEMBERS", "CascadeRoutingRule"]

MOST_MEMBERS = 7
"""More have too many sets to go through."""

_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


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
        if data.members > MOST_MEMBERS:
            return f"{data.members} members have too many sets to go through"
        return None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Choose the penalty and fit all sets."""
        folds = [
            (held, _Evidence(data, train[fitted], design), _Evidence(data, train[held], design))
            for fitted, held in inner_folds(data, train, seed)
            for design in [_question_design(data, train[fitted], self.directions, seed)]
        ]
        penalty = min(
            _PENALTIES,
            key=lambda value: sum(_quality_error(own, other, value) for _, own, other in folds),
        )
        dial = lambdas()
        design = _question_design(data, train, self.directions, seed)
        return _Fitted(
            dial=dial,
            design=design,
            values=_values(_Evidence(data, train, design), dial, penalty),
            walked=joined_walks(
                [(held, walk(_values(own, dial, penalty), other)) for held, own, other in folds]
            ),
        )


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What questions and votes of some queries say."""

    data: RuleRun
    positions: Positions
    design: TextDesign

    @property
    def members(self) -> int:
        return self.data.members

    def columns(self, subset: int) -> FloatArray:
        counts, numbers = question_counts(self.data), question_numbers(self.data)
        about = self.design.columns(counts[self.positions], numbers[self.positions])
        if not subset:
            return about
        return np.hstack([about, subset_vote(self.data, subset).features[self.positions]])

    def answer(self, subset: int) -> Positions:
        if not subset:
            return np.full(len(self.positions), -1)
        return subset_vote(self.data, subset).answer[self.positions]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    dial: FloatArray
    design: TextDesign
    values: StateValues
    walked: Walk
    fell_back: bool = False  # a regression on one class is its mean

    @property
    def train(self) -> Choices:
        return stepwise_choices(self.walked)

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        evidence = _Evidence(data, positions, self.design)
        full = (1 << data.members) - 1
        everybody = self.values.step(evidence.columns(full), evidence.answer(full) >= 0, full)
        failure = FailureScores(
            values=1.0 - everybody.stop,
            answer=np.full(len(positions), data.vote),
            is_probability=True,
        )
        return stepwise_choices(walk(self.values, evidence), failure=failure)


def _question_design(data: RuleRun, train: Positions, directions: int, seed: int) -> TextDesign:
    """Fit the embedding of questions on training queries."""
    return TextDesign(
        question_counts(data)[train],
        question_numbers(data)[train],
        directions=directions,
        seed=seed,
    )


def _values(own: _Evidence, dial: FloatArray, penalty: float) -> StateValues:
    data, train = own.data, own.positions
    return fit_steps(own, data, train, dial=dial, penalty=penalty)


def _quality_error(own: _Evidence, other: _Evidence, penalty: float) -> float:
    """Squared error of all sets' qualities on queries that were left out."""
    values = _values(own, np.zeros(0), penalty)
    correct = other.data.correct[other.positions]
    total = 0.0
    for subset in range(1 << other.members):
        step = values.step(other.columns(subset), other.answer(subset) >= 0, subset)
        total += _squared(step.oracle, correct[:, other.data.oracle])
        if subset:
            right = np.take_along_axis(correct, other.answer(subset)[:, None], axis=1)[:, 0]
            total += _squared(step.stop, right)
    return total


def _squared(predicted: FloatArray, right: BoolArray) -> float:
    return float(np.sum(np.square(predicted - right)))
