"""From a fitted network to a policy that goes step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import ConfigError
from pyramid_moa.records import Generation
from pyramid_moa.router_model.card import TypicalCall
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.state_values import StateValues, reachable_sets, single_members
from pyramid_moa.router_model.step_policy import MOST_MEMBERS, StepPolicy
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.outcomes import BoolArray, FloatArray
from pyramid_moa.training.scored_sets import ScoredSets
from pyramid_moa.training.set_scores import score_sets
from pyramid_moa.training.state_fit import fit_later_stops, fit_state_values, lambdas
from pyramid_moa.training.state_walk import Walk, joined_walks, walk

__all__ = [
    "PENALTY",
    "Answered",
    "answered_by",
    "fit_step_policy",
    "out_of_fold_walk",
    "scored_sets_of",
    "typical_calls",
    "why_no_steps",
]

PENALTY = 40.0
"""Of the ridge regressions of steps' values."""
_PARTS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What became of n queries whoever is asked: M members or mid oracles, then the oracle.

    Attributes:
        correct: whether each answer is right, bool [n, M + 1].
        cost: of each answer in USD; a call that failed costs nothing: float [n, M + 1].
        oracle_failed: where the oracle gave no answer because its call failed, bool [n].
    """

    correct: BoolArray
    cost: FloatArray
    oracle_failed: BoolArray

    def take(self, index: NDArray[np.int64]) -> "Answered":
        """Some of the queries, by position."""
        return Answered(
            correct=self.correct[index],
            cost=self.cost[index],
            oracle_failed=self.oracle_failed[index],
        )


def answered_by(run: LabelledRun, positions: Sequence[int], models: Sequence[str]) -> Answered:
    """Lay out what the models of a run answered.

    Args:
        run: the labelled data.
        positions: of the queries.
        models: names, the oracle's last.
    """
    rows = [[run.generations[name][index] for name in models] for index in positions]
    return Answered(
        correct=np.array([[bool(row.correct) for row in own] for own in rows]),
        cost=np.array([[_cost(row) for row in own] for own in rows]),
        oracle_failed=np.array([own[-1].error is not None for own in rows]),
    )


def typical_calls(run: LabelledRun, positions: Sequence[int]) -> dict[str, TypicalCall]:
    """What an answer of each model takes, in the mean; nothing is said of one without a price."""
    calls = {}
    for name in run.manifest.models:
        rows = [run.generations[name][index] for index in positions]
        rows = [row for row in rows if row.error is None]
        cost = float(np.mean([_cost(row) for row in rows])) if rows else np.nan
        times = [row.latency_s for row in rows]
        known = [seconds for seconds in times if seconds is not None]
        if np.isfinite(cost):
            calls[name] = TypicalCall(
                cost_usd=cost,
                latency_s=float(np.mean(known)) if known and len(known) == len(times) else None,
            )
    return calls


def why_no_steps(
    run: LabelledRun, calls: dict[str, TypicalCall], questions: Sequence[str]
) -> str | None:
    """Why nothing can be said of steps on a run; None where it can.

    Args:
        run: the labelled data.
        calls: what calls take there.
        questions: hashes of those that steps would be fitted on.
    """
    members = len(run.manifest.models) - 1
    if members > MOST_MEMBERS:
        return f"{members} members have too many sets to go through, {MOST_MEMBERS} at most"
    if unknown := [name for name in run.manifest.models if name not in calls]:
        return f"the price of {', '.join(unknown)} is not known"
    if calls[run.manifest.oracle].cost_usd <= 0:
        return "the oracle costs nothing"
    if len(np.unique(_parts(questions))) < 2:
        return f"{len(set(questions))} different questions are too few to leave any of them out"
    return None


def scored_sets_of(
    network: RouterNetwork, examples: Examples, held_out: torch.Tensor | None = None
) -> ScoredSets:
    """Score every set of members; see ``score_sets``."""
    standard = network.standard_question(examples.question)
    return ScoredSets(
        sets=score_sets(network, examples, held_out),
        questions=standard.double().numpy(),
        members=examples.members,
    )


def fit_step_policy(
    evidence: ScoredSets,
    answered: Answered,
    run: LabelledRun,
    calls: dict[str, TypicalCall],
    *,
    usd_per_second: float,
) -> StepPolicy:
    """Fit what steps are worth.

    Args:
        evidence: of the queries that it is fitted on, scored by networks that had left them out.
        answered: what became of them.
        run: names of the models.
        calls: what a call of each takes.
        usd_per_second: price of a second waited for; with one, members may be asked together.
    """
    *members, oracle = run.manifest.models
    groups = (
        single_members(len(members))
        if usd_per_second == 0
        else reachable_sets(single_members(len(members)))[1:]
    )
    prices = _prices(groups, members, oracle, calls, usd_per_second)
    values = _fit(evidence, answered, groups, prices)
    later = fit_later_stops(evidence, answered.correct, groups=groups, penalty=PENALTY)
    return StepPolicy(members=tuple(members), oracle=oracle, values=values, later=later)


def out_of_fold_walk(
    policy: StepPolicy, evidence: ScoredSets, answered: Answered, questions: Sequence[str]
) -> Walk:
    """What a policy comes to on the queries that it was fitted on, each by a fit without it.

    Args:
        policy: fitted on all of them; its groups and prices are used.
        evidence: of the queries.
        answered: what became of them.
        questions: hashes of the questions; the same one is never in two parts.
    """
    part = _parts(questions)
    walks = []
    for number in np.unique(part):
        held, fitted = np.flatnonzero(part == number), np.flatnonzero(part != number)
        groups, prices = policy.values.groups, policy.values.prices
        values = _fit(evidence.take(fitted), answered.take(fitted), groups, prices)
        walks.append((held, walk(values, evidence.take(held))))
    return joined_walks(walks)


def _parts(questions: Sequence[str]) -> NDArray[np.int64]:
    return np.array([int(text[:8], 16) % _PARTS for text in questions])


def _fit(
    evidence: ScoredSets, answered: Answered, groups: Sequence[int], prices: FloatArray
) -> StateValues:
    return fit_state_values(
        evidence,
        answered.correct,
        groups=groups,
        prices=prices,
        dial=lambdas(),
        penalty=PENALTY,
        realised=True,
    )


def _prices(
    groups: Sequence[int],
    members: Sequence[str],
    oracle: str,
    calls: dict[str, TypicalCall],
    usd_per_second: float,
) -> FloatArray:
    """Of asking each group at once, and the oracle, in the price of one oracle call: [G + 1]."""
    together = [
        [name for place, name in enumerate(members) if group >> place & 1] for group in groups
    ]
    spent = [
        sum(calls[name].cost_usd for name in names)
        + usd_per_second * (_slowest(names, calls) if usd_per_second else 0.0)
        for names in [*together, [oracle]]
    ]
    return np.array(spent, dtype=np.float64) / spent[-1]


def _slowest(names: Sequence[str], calls: dict[str, TypicalCall]) -> float:
    times = [calls[name].latency_s for name in names]
    if unknown := [name for name, seconds in zip(names, times, strict=True) if seconds is None]:
        raise ConfigError(
            f"steps.usd_per_second: expected a run with measured latencies, found none of "
            f"{', '.join(unknown)}; leave it at 0"
        )
    return max(seconds for seconds in times if seconds is not None)


def _cost(row: Generation) -> float:
    if row.error is not None:
        return 0.0
    return np.nan if row.cost_usd is None else row.cost_usd
