"""The sequential policy of a training: fitted, and its operating points chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.step_policy import StepPolicy
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import held_out_parts
from pyramid_moa.training.outcomes import BoolArray, FloatArray
from pyramid_moa.training.scored_sets import ScoredSets
from pyramid_moa.training.state_walk import Walk, walk
from pyramid_moa.training.step_fit import (
    Answered,
    answered_by,
    fit_step_policy,
    out_of_fold_walk,
    scored_sets_of,
    typical_calls,
    why_no_steps,
)

__all__ = ["StepDial", "Stepwise", "fit_stepwise", "router_dial"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepDial:
    """What every setting of a sequential policy came to on n queries, K settings.

    Attributes:
        settings: accuracy that the price of one oracle call had to buy, falling, float [K].
        correct: whether the final answer is right, bool [K, n].
        cost: of all calls, USD, float [K, n].
        escalated: whether the oracle was asked, bool [K, n].
        oracle_correct: whether asking the oracle every time is, bool [n].
        oracle_cost: of that, USD, float [n].
        oracle_first_correct: whether the final answer is, where the oracle is asked at once and
            members only if it fails, bool [n].
        oracle_first_cost: of that, USD, float [n].
    """

    settings: FloatArray
    correct: BoolArray
    cost: FloatArray
    escalated: BoolArray
    oracle_correct: BoolArray
    oracle_cost: FloatArray
    oracle_first_correct: BoolArray
    oracle_first_cost: FloatArray

    @property
    def accuracy(self) -> FloatArray:
        """Float [K]."""
        mean: FloatArray = self.correct.mean(axis=1)
        return mean

    @property
    def cost_ratio(self) -> FloatArray:
        """All-in, relative to asking the oracle every time, float [K]."""
        ratio: FloatArray = self.cost.sum(axis=1) / self.oracle_cost.sum()
        return ratio

    def point(self, setting: int, *, name: str, target: str, split: str) -> OperatingPoint:
        """A setting as an operating point, with what it came to here."""
        return OperatingPoint(
            name=name,
            threshold=float(self.settings[setting]),
            target=target,
            split=split,
            questions=self.correct.shape[1],
            accuracy=float(self.accuracy[setting]),
            escalation_rate=float(self.escalated[setting].mean()),
            cost_ratio=float(self.cost_ratio[setting]),
            policy="sequential",
        )

    def curve(self) -> list[dict[str, float | None]]:
        """All settings as plain values."""
        lost = (self.oracle_correct & ~self.correct).mean(axis=1)
        gained = (self.correct & ~self.oracle_correct).mean(axis=1)
        return [
            {
                "threshold": float(self.settings[place]),
                "escalation_rate": float(self.escalated[place].mean()),
                "accuracy": float(self.accuracy[place]),
                "lost": float(lost[place]),
                "gained": float(gained[place]),
                "cost_ratio": float(self.cost_ratio[place]),
            }
            for place in range(len(self.settings))
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stepwise:
    """A fitted sequential policy, and what it came to on queries that it was not fitted on.

    Attributes:
        policy: fitted.
        validation: what its settings came to on the queries that it was fitted on, out of fold.
        dial: what they came to on those that points are chosen on.
        split: of these.
    """

    policy: StepPolicy
    validation: StepDial
    dial: StepDial
    split: str

    def points(self, parallel: OperatingPoint) -> list[OperatingPoint]:
        """Operating points.

        Args:
            parallel: the default point of the policy that asks all members at once.
        """
        accuracy, cost = self.dial.accuracy, self.dial.cost_ratio
        points = []
        wanted = parallel.accuracy
        if wanted is not None and (good := np.flatnonzero(accuracy >= wanted - 1e-12)).size:
            points.append(
                self.dial.point(
                    int(good[np.argmin(cost[good])]),
                    name="sequential",
                    target=f"the accuracy of {parallel.name}, step by step, at the least cost",
                    split=self.split,
                )
            )
        best = np.flatnonzero(accuracy == accuracy.max())
        points.append(
            self.dial.point(
                int(best[np.argmin(cost[best])]),
                name="sequential-accurate",
                target="the most accurate, step by step",
                split=self.split,
            )
        )
        return points


def fit_stepwise(
    run: LabelledRun,
    fitted_on: Sequence[int],
    calibration: Sequence[int],
    examples: Examples,
    network: RouterNetwork,
    config: TrainConfig,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Stepwise | None:
    """Fit what steps are worth, and see what each setting comes to.

    Args:
        run: the labelled data.
        fitted_on: positions of the queries that the network was fitted on.
        calibration: positions of those kept for choosing points; where there are none the fitted
            ones are decided out of fold.
        examples: of the whole run.
        network: fitted.
        config: of the training.
        say: told why there is no such policy.

    Returns:
        The policy, or None where nothing can be said of steps.
    """
    calls = typical_calls(run, fitted_on)
    own = examples.take(fitted_on)
    if reason := why_no_steps(run, calls, own.questions):
        say(f"no sequential policy: {reason}")
        return None
    held_out = held_out_parts(own.questions, seeds=config.network.seeds, seed=config.seed)
    evidence = scored_sets_of(network, own, held_out)
    answered = answered_by(run, fitted_on, run.manifest.models)
    policy = fit_step_policy(
        evidence, answered, run, calls, usd_per_second=config.steps.usd_per_second
    )
    walked = out_of_fold_walk(policy, evidence, answered, own.questions)
    first_tier = len(run.manifest.members)
    validation = dial = _dial(policy, walked, evidence, answered, first_tier)
    if calibration:
        dial = step_dial(run, policy, network, examples.take(calibration), calibration)
    return Stepwise(
        policy=policy,
        validation=validation,
        dial=dial,
        split="calibration" if calibration else "train and validation, out of fold",
    )


def router_dial(run: LabelledRun, router: Router, positions: Sequence[int]) -> StepDial:
    """See what each setting of a router's sequential policy comes to on some queries.

    Args:
        run: the labelled data, of the models that the router knows steps to.
        router: with its policy.
        positions: of queries that it was not fitted on.
    """
    assert router.steps is not None
    examples = gather_examples(
        run,
        router.features,
        hidden_key=router.card.hidden_key,
        verifier=router.verifier,
        positions=positions,
    )
    return step_dial(run, router.steps, router.network, examples, positions)


def step_dial(
    run: LabelledRun,
    policy: StepPolicy,
    network: RouterNetwork,
    examples: Examples,
    positions: Sequence[int],
) -> StepDial:
    """See the same of a policy and a network whose examples are there.

    Args:
        run: the labelled data.
        policy: of its models.
        network: that it was fitted with.
        examples: of the queries, in this order.
        positions: of the queries.
    """
    # Sets have a bit for each member in the policy's order, which the run's need not be.
    order = [run.manifest.models_before_oracle.index(name) for name in policy.members]
    evidence = scored_sets_of(network, examples.of_members(order))
    answered = answered_by(run, positions, [*policy.members, policy.oracle])
    first_tier = sum(name in run.manifest.members for name in policy.members)
    return _dial(policy, walk(policy.values, evidence), evidence, answered, first_tier)


def _dial(
    policy: StepPolicy,
    walked: Walk,
    evidence: ScoredSets,
    answered: Answered,
    first_tier: int,
) -> StepDial:
    """Account for every query; where the oracle fails the best answer there was is given.

    Where the oracle was asked before anybody else, and failed, all members are asked then.
    """
    n, everybody = np.arange(len(answered.correct)), (1 << first_tier) - 1
    # Members come before mid oracles in a policy, as in the run that it was fitted on.
    members = evidence.answer(everybody)
    spent = (walked.called * answered.cost).sum(axis=2)
    in_vain = walked.called[..., -1] & answered.oracle_failed
    alone = in_vain & ~walked.called[..., :-1].any(axis=2)
    given = np.where(in_vain, np.where(alone, members, walked.held), walked.answer)
    late = answered.cost[:, :first_tier].sum(axis=1)
    first = np.where(answered.oracle_failed, members, answered.correct.shape[1] - 1)
    return StepDial(
        settings=policy.values.dial,
        correct=_right(answered, given, n),
        cost=spent + np.where(alone, late, 0.0),
        escalated=walked.called[..., -1],
        oracle_correct=answered.correct[:, -1],
        oracle_cost=answered.cost[:, -1],
        oracle_first_correct=_right(answered, first, n),
        oracle_first_cost=answered.cost[:, -1] + np.where(answered.oracle_failed, late, 0.0),
    )


def _right(answered: Answered, given: NDArray[np.int64], n: NDArray[np.int64]) -> BoolArray:
    """Whether answers are right, given by their column; nobody's, -1, is not."""
    right: BoolArray = (given >= 0) & answered.correct[n, np.maximum(given, 0)]
    return right
