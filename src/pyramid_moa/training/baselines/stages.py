"""Cascades of single models, cheapest first: thresholds of all stages by grid search (FrugalGPT).

A cascade asks its stages in turn and takes the first answer whose score reaches the stage's
threshold; the last stage is the oracle. For each budget the search keeps the cascade that is most
accurate on training queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from pyramid_moa.training.baselines.dial import SETTINGS
from pyramid_moa.training.baselines.rule import Choices, FailureScores
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["Cascade", "follow", "search_cascades"]

# FrugalGPT's cascades have at most three models, the last of which is the strong one.
_STAGES = 2
_GRID = 13


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Members in the order they are asked, each with the least score that it is believed with."""

    members: tuple[int, ...]
    thresholds: tuple[float, ...]


def search_cascades(data: RuleRun, train: Positions, scores: FloatArray) -> list[Cascade]:
    """Find the best cascade within each of K budgets.

    Args:
        data: the run.
        train: positions of n training queries.
        scores: how sure each member's answer is right, by fits that had left the query out,
            float [n, m].

    Returns:
        K cascades; the budgets rise evenly from the cheapest cascade's cost to the dearest's.
    """
    found = []
    correct, cost = data.correct[train], data.cost[train]
    for cascade in _candidates(cost, scores):
        called, answer = _follow_one(data, scores, cascade)
        right = np.take_along_axis(correct, answer[:, None], axis=1).mean()
        found.append((float((cost * called).sum(axis=1).mean()), float(right), cascade))
    found.sort(key=lambda entry: entry[0])
    costs = np.array([entry[0] for entry in found])
    chosen = []
    for budget in np.linspace(costs[0], costs[-1], SETTINGS):
        within = found[: int(np.searchsorted(costs, budget * (1 + 1e-9), side="right"))]
        # Of equally accurate ones the cheapest: the first.
        chosen.append(max(within, key=lambda entry: entry[1])[2])
    return chosen


def follow(data: RuleRun, cascades: list[Cascade], positions: Positions, s: FloatArray) -> Choices:
    """Take queries through K cascades.

    Args:
        data: the run.
        cascades: K.
        positions: of n queries.
        s: scores of the members' answers, float [n, m].

    Returns:
        The choices; the score of the vote's first member says whether the vote fails.
    """
    pairs = [_follow_one(data, s, cascade) for cascade in cascades]
    winner = data.winner[positions]
    believed = np.take_along_axis(s, np.maximum(winner, 0)[:, None], axis=1)[:, 0]
    failure = FailureScores(
        values=np.where(winner < 0, 1.0, 1.0 - believed),
        answer=np.full(len(s), data.vote),
        is_probability=True,
    )
    return Choices(
        called=np.stack([called for called, _ in pairs]),
        answer=np.stack([answer for _, answer in pairs]),
        failure=failure,
    )


def _candidates(cost: FloatArray, scores: FloatArray) -> Iterator[Cascade]:
    """Every cascade that is tried."""
    members = cost.shape[1] - 1
    cheapest_first = np.argsort(cost[:, :-1].mean(axis=0), kind="stable").tolist()
    # From believing always to believing never.
    levels = np.quantile(scores, np.linspace(0, 1, _GRID - 1), axis=0)  # [grid - 1, m]
    levels[0] = -np.inf
    levels = np.vstack([levels, np.full(members, np.inf)])
    for length in range(1, min(_STAGES, members) + 1):
        for chain in combinations(cheapest_first, length):
            for grid in product(*(levels[:, member].tolist() for member in chain)):
                yield Cascade(members=chain, thresholds=grid)
    yield Cascade(members=(), thresholds=())
    for level in levels:  # the longest chain, one quantile for all stages
        chain = tuple(cheapest_first)
        yield Cascade(members=chain, thresholds=tuple(float(level[member]) for member in chain))


def _follow_one(data: RuleRun, scores: FloatArray, cascade: Cascade) -> tuple[BoolArray, Positions]:
    n = len(scores)
    called = np.zeros((n, data.members + 1), dtype=bool)
    answer = np.full(n, data.oracle)
    going = np.ones(n, dtype=bool)
    for member, threshold in zip(cascade.members, cascade.thresholds, strict=True):
        called[:, member] = going
        believed = going & (scores[:, member] >= threshold)
        answer[believed] = member
        going &= ~believed
    called[:, data.oracle] = going
    return called, answer
