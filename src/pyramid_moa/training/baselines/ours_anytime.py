"""Our router, member by member: after every answer stop, ask the next member, or the oracle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa.errors import ConfigError
from pyramid_moa.router_model.state_values import StateValues
from pyramid_moa.training.baselines.cascade_routing import MOST_MEMBERS
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_trained import TrainedRouter
from pyramid_moa.training.baselines.rule import Choices, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.source_hash import source_hash
from pyramid_moa.training.baselines.stepwise import fit_steps, stepwise_choices
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.scored_sets import ScoredSets
from pyramid_moa.training.state_fit import lambdas
from pyramid_moa.training.state_walk import joined_walks, walk
from pyramid_moa.training.step_fit import PENALTY

__all__ = ["AnytimeRule"]

_ORACLE_AT_ONCE = np.array([-1.0])  # as operating points name it


@dataclass(frozen=True, kw_only=True)
class AnytimeRule:
    """The same router as ``router``'s, asked after every answer or once for all of them.

    It scores every set of members that has answered. What each next step is worth is a regression
    on its scores, fitted backwards from the whole pyramid on what became of the training queries,
    scored by the networks that had left them out. Before anybody has answered the question alone
    decides whom to ask first.

    The settings of lambda are followed by the oracle at once, nobody beside it, and by those of
    ``router`` itself, which asks everybody: what the training queries say chooses between them.

    Attributes:
        router: what is asked.
        name: in tables.
    """

    router: OurRule
    name: str = "router-anytime"

    def __post_init__(self) -> None:
        """Refuse a router of few labels: what steps are worth wants all of them."""
        if self.router.labels is not None:
            raise ConfigError(f"expected a router of all labels, found {self.router.labels}")

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        training = Path(__file__).parent.parent
        names = ("scored_sets", "state_fit", "state_walk")
        steps = [training / f"{name}.py" for name in names]
        steps.append(training.parent / "router_model" / "state_values.py")
        return self.router.settings() | {"penalty": PENALTY, "steps": source_hash(steps)}

    def absent(self, data: RuleRun) -> str | None:
        """It goes through all sets of members."""
        if data.members > MOST_MEMBERS:
            return f"{data.members} members have too many sets to go through"
        return self.router.absent(data)

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Train the router, then learn what the steps are worth."""
        everybody = self.router.fit(data, train, seed, held_out)
        trained = self.router.trained(data, train, seed, held_out)
        if trained is None:
            return _FellBack(everybody)
        evidence = ScoredSets(
            sets=trained.out_of_fold_sets(),
            questions=trained.questions(data, train),
            members=data.members,
        )
        steps = lambdas()
        parts = []
        for fitted, held in inner_folds(data, train, seed):
            values = _values(evidence.take(fitted), data, train[fitted], steps)
            parts.append((held, walk(values, evidence.take(held))))
        return _Fitted(
            everybody=everybody,
            trained=trained,
            values=_values(evidence, data, train, steps),
            dial=_joined_dial(everybody),
            train=_side_by_side(stepwise_choices(joined_walks(parts)), everybody.train),
        )


@dataclass(frozen=True, eq=False)
class _FellBack:
    """Where there was nothing to learn: members alone in place of every step."""

    everybody: FittedRule

    @property
    def dial(self) -> FloatArray:
        return _joined_dial(self.everybody)

    @property
    def train(self) -> Choices:
        return self._with_steps(self.everybody.train)

    @property
    def fell_back(self) -> bool:
        return True

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        return self._with_steps(self.everybody.decide(data, positions))

    def _with_steps(self, choices: Choices) -> Choices:
        count = len(lambdas())
        steps = Choices(
            called=np.repeat(choices.called[:1], count, axis=0),
            answer=np.repeat(choices.answer[:1], count, axis=0),
        )
        return _side_by_side(steps, choices)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    everybody: FittedRule
    trained: TrainedRouter
    values: StateValues
    dial: FloatArray
    train: Choices
    fell_back: bool = False

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        evidence = ScoredSets(
            sets=self.trained.sets(data, positions),
            questions=self.trained.questions(data, positions),
            members=data.members,
        )
        steps = stepwise_choices(walk(self.values, evidence))
        return _side_by_side(steps, self.everybody.decide(data, positions))


def _joined_dial(everybody: FittedRule) -> FloatArray:
    return np.concatenate([lambdas(), _ORACLE_AT_ONCE, everybody.dial])


def _side_by_side(steps: Choices, everybody: Choices) -> Choices:
    """The choices of all settings, in the order of the joined dial."""
    oracle = everybody.called.shape[2] - 1
    alone = np.zeros_like(everybody.called[:1])
    alone[..., oracle] = True
    return Choices(
        called=np.concatenate([steps.called, alone, everybody.called]),
        answer=np.concatenate(
            [steps.answer, np.full_like(everybody.answer[:1], oracle), everybody.answer]
        ),
        failure=everybody.failure,
    )


def _values(evidence: ScoredSets, data: RuleRun, train: Positions, dial: FloatArray) -> StateValues:
    return fit_steps(evidence, data, train, dial=dial, penalty=PENALTY, realised=True)
