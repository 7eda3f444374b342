"""The settings that a promise is looked for among, and what they come to on labelled questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.policy import OperatingPoint, Scores, goes_up
from pyramid_moa.training.learn_then_test import Plan, Tried
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.replay import replay
from pyramid_moa.training.stepwise_points import StepDial

__all__ = [
    "ALWAYS",
    "NEVER",
    "CostCap",
    "DialPath",
    "cost_cap",
    "steps_path",
    "threshold_path",
    "tried_steps",
    "try_thresholds",
]

ALWAYS, NEVER = -1.0, 1.0
"""Thresholds with which the oracle is asked every time, and not once."""
_SETTINGS = 100
# Where a checkpoint does not say it: of the accepted questions, how many tell the two apart.
_APART = 0.05
# A router that comes with the package has met no pyramid: probabilities evenly spread in log-odds,
# the more accurate the more often the oracle is asked.
_UNKNOWN: list[dict[str, float | None]] = [
    {
        "threshold": 1 / (1 + math.exp(-log_odds / 10)),
        "escalation_rate": (70 - log_odds) / 140,
        "accuracy": (70 - log_odds) / 140,
    }
    for log_odds in range(-70, 71)
]
# A question may cost so many times what the dearest of the others did; beyond, it is cut off.
_HEADROOM = 2.0
_FEWEST = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class DialPath:
    """Settings of a dial in a fixed order, which no calibration label has a part in.

    Attributes:
        points: K, from the one that asks the oracle every time to the cheapest.
        plan: what is expected of them.
    """

    points: Sequence[OperatingPoint]
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class CostCap:
    """The most that a question can cost, as far as a promise of costs is concerned.

    Attributes:
        before_oracle_usd: of all models before the oracle together.
        oracle_usd: of the oracle.
        told: where they are from, in words.
    """

    before_oracle_usd: float
    oracle_usd: float
    told: str


def threshold_path(validation_curve: Sequence[dict[str, float | None]], questions: int) -> DialPath:
    """Thresholds of the parallel policy, evenly spread over the escalation rates of validation.

    Args:
        validation_curve: a router card's, which is of questions that the router was fitted on, out
            of fold; its last row asks the oracle every time. Empty where it was fitted on none.
        questions: how many those were.
    """
    curve = validation_curve[::-1] or _UNKNOWN
    rate = _column(curve, "escalation_rate")
    accuracy = _column(curve, "accuracy")
    if "lost" in curve[0]:
        lost, gained = _column(curve, "lost"), _column(curve, "gained")
    else:
        drop, apart = accuracy[0] - accuracy, _APART * (1 - rate)
        lost, gained = np.maximum(drop, 0.0) + apart, np.maximum(-drop, 0.0) + apart
    rates = np.linspace(1.0, 0.0, _SETTINGS)

    def along(values: FloatArray) -> FloatArray:
        found: FloatArray = np.interp(-rates, -rate, values)
        return found

    thresholds = along(_column(curve, "threshold"))
    thresholds[0], thresholds[-1] = ALWAYS, NEVER
    undecided = OperatingPoint(name="undecided", threshold=NEVER, target="")
    return DialPath(
        points=[replace(undecided, threshold=float(threshold)) for threshold in thresholds],
        plan=Plan(
            accuracy=along(accuracy),
            lost=along(lost),
            gained=along(gained),
            questions=questions,
        ),
    )


def try_thresholds(
    run: LabelledRun, positions: Sequence[int], scores: Sequence[Scores], path: DialPath
) -> Tried:
    """See what every setting of the parallel policy comes to.

    Args:
        run: stored generations and labels.
        positions: of the queries.
        scores: one each.
        path: of points of the parallel policy.
    """
    never, always = (
        replay(run, positions, scores, replace(path.points[0], threshold=threshold, rule="failure"))
        for threshold in (NEVER + 1, ALWAYS)
    )
    asked = np.array([[goes_up(score, point) for score in scores] for point in path.points])
    return Tried(
        correct=np.where(asked, always.final_correct, never.final_correct),
        cost=np.where(asked, always.final_cost_usd, never.final_cost_usd),
        escalated=asked,
        oracle_correct=always.oracle_correct,
        oracle_cost=always.oracle_cost_usd,
    )


def steps_path(steps_curve: Sequence[dict[str, float | None]], questions: int) -> DialPath:
    """Settings of the sequential policy, the oracle at once before all others.

    Args:
        steps_curve: a router card's, of questions that router and policy were fitted on, out of
            fold; from dear to free.
        questions: how many those were.
    """
    curve = steps_curve[::-1]
    # What asking the oracle every time loses or gains is nothing, and its accuracy that of others
    # less what they gain.
    oracle = _column(curve, "accuracy") + _column(curve, "lost") - _column(curve, "gained")
    undecided = OperatingPoint(name="undecided", threshold=ALWAYS, target="", policy="sequential")

    def with_oracle(values: FloatArray, first: float) -> FloatArray:
        return np.concatenate([[first], values])

    thresholds = with_oracle(_column(curve, "threshold"), ALWAYS)
    return DialPath(
        points=[replace(undecided, threshold=float(threshold)) for threshold in thresholds],
        plan=Plan(
            accuracy=with_oracle(_column(curve, "accuracy"), float(oracle.mean())),
            lost=with_oracle(_column(curve, "lost"), 0.0),
            gained=with_oracle(_column(curve, "gained"), 0.0),
            questions=questions,
        ),
    )


def tried_steps(dial: StepDial) -> Tried:
    """What the settings of ``steps_path`` come to.

    Args:
        dial: what those of the policy came to, from dear to free.
    """

    def with_oracle(values: NDArray[Any], first: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([first[None], values[::-1]])

    return Tried(
        correct=with_oracle(dial.correct, dial.oracle_first_correct),
        cost=with_oracle(dial.cost, dial.oracle_first_cost),
        escalated=with_oracle(dial.escalated, np.ones_like(dial.oracle_correct)),
        oracle_correct=dial.oracle_correct,
        oracle_cost=dial.oracle_cost,
    )


def cost_cap(run: LabelledRun, positions: Sequence[int]) -> CostCap:
    """Bound the cost of a question by those of the run that no promise is looked for on.

    Args:
        run: stored generations.
        positions: of the calibration queries.

    Raises:
        RunFolderError: there are too few others, or a price is missing.
    """
    own = set(positions)
    others = [index for index in range(len(run.queries)) if index not in own]
    if len(others) < _FEWEST:
        raise RunFolderError(
            f"expected {_FEWEST} questions or more of other splits, to bound what a question can "
            f"cost, found {len(others)}; label more, or ask for an accuracy or a drop"
        )

    def most(names: Sequence[str]) -> float:
        rows = [run.generations[name] for name in names]
        return _HEADROOM * max(sum(own[i].cost_usd or 0.0 for own in rows) for i in others)

    before, oracle = most(run.manifest.models_before_oracle), most([run.manifest.oracle])
    return CostCap(
        before_oracle_usd=before,
        oracle_usd=oracle,
        told=f"a question counts as no dearer than {before:.3g} USD and {oracle:.3g} USD more for "
        f"the oracle, {_HEADROOM:g} times the most of {len(others)} others",
    )


def _column(curve: Sequence[dict[str, float | None]], name: str) -> FloatArray:
    return np.array([row[name] for row in curve], dtype=np.float64)
