"""All cells of a rule on a run, put together question by question.

Legend: n queries, m members, K settings, G budgets, S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pyramid_moa.training.baselines.fixed_rules import ALL_AGREE
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.head_to_head_cells import Cell
from pyramid_moa.training.head_to_head_curves import mixture_for_accuracy, mixtures
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = [
    "ABC",
    "AT_ABC_ACCURACY",
    "AT_ABC_COST",
    "BUDGETS",
    "MOST_ACCURATE",
    "Part",
    "RuleResult",
    "SeedScores",
    "rule_result",
    "seed_scores",
]

BUDGETS = 81
"""Budgets of a curve, from nothing to all members and the oracle."""

ABC, AT_ABC_COST, AT_ABC_ACCURACY, MOST_ACCURATE = range(BUDGETS, BUDGETS + 4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A cell and the same part's cell of the vote rule.

    Attributes:
        train: positions that were fitted on.
        test: positions that were decided.
        cell: the rule's.
        vote: the vote rule's.
    """

    train: Positions
    test: Positions
    cell: Cell
    vote: Cell


@dataclass(frozen=True, kw_only=True, eq=False)
class SeedScores:
    """Failure scores of one seed.

    Attributes:
        p_fail: float [n].
        own_fails: bool [n].
        own: column of the answer that is given without the oracle, int [n].
        p_own_fails: that it is wrong, float [n].
        fold: in which each query was tested, int [n].
    """

    p_fail: FloatArray
    own_fails: BoolArray
    own: Positions
    p_own_fails: FloatArray
    fold: Positions


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleResult:
    """Means over the seeds.

    Rows of ``chosen_correct`` and ``chosen_cost`` are what was chosen on training folds: the
    budgets, then ABC itself (all agree), the lottery at ABC's cost, the one at its accuracy, and
    the most accurate setting.

    Attributes:
        chosen_correct: expected correctness, float [G + 4, n].
        chosen_cost: expected cost in USD, float [G + 4, n].
        correct: at each setting, float [K, n].
        cost: USD, float [K, n].
        escalated: float [K, n].
        scores: one a seed; empty where the rule has none.
        is_probability: whether the scores are meant as probabilities.
        fell_back: number of cells in which there was nothing to learn.
        seconds: mean of a cell.
    """

    chosen_correct: FloatArray
    chosen_cost: FloatArray
    correct: FloatArray
    cost: FloatArray
    escalated: FloatArray
    scores: list[SeedScores]
    is_probability: bool
    fell_back: int
    seconds: float


def rule_result(data: RuleRun, parts: Mapping[int, Sequence[Part]], *, is_vote: bool) -> RuleResult:
    """Put cells together.

    Args:
        data: the run.
        parts: by seed, one a fold; together they test every query once.
        is_vote: whether the rule is the vote itself, whose operating points are ABC's.
    """
    seeds = list(parts.values())
    cells = [part.cell for own in seeds for part in own]
    first = cells[0]
    settings = len(first.dial)
    shape = (len(seeds), BUDGETS + 4, data.n)
    chosen_correct, chosen_cost = np.empty(shape), np.empty(shape)
    correct, cost, escalated = (np.empty((len(seeds), settings, data.n)) for _ in range(3))
    for number, own in enumerate(seeds):
        for part in own:
            weights = _weights(data, part, is_vote=is_vote)
            at, cell = part.test, part.cell
            abc = part.vote.dial == ALL_AGREE
            chosen_correct[number][:, at] = weights @ cell.correct
            chosen_cost[number][:, at] = weights @ cell.cost
            chosen_correct[number][ABC, at] = part.vote.correct[abc][0]
            chosen_cost[number][ABC, at] = part.vote.cost[abc][0]
            correct[number][:, at] = cell.correct
            cost[number][:, at] = cell.cost
            escalated[number][:, at] = cell.escalated
    return RuleResult(
        chosen_correct=chosen_correct.mean(axis=0),
        chosen_cost=chosen_cost.mean(axis=0),
        correct=correct.mean(axis=0),
        cost=cost.mean(axis=0),
        escalated=escalated.mean(axis=0),
        scores=[seed_scores(data.n, [(part.test, part.cell) for part in own]) for own in seeds]
        if len(first.p_fail)
        else [],
        is_probability=bool(first.is_probability),
        fell_back=sum(bool(cell.fell_back) for cell in cells),
        seconds=float(np.mean([cell.seconds for cell in cells])),
    )


def _weights(data: RuleRun, part: Part, *, is_vote: bool) -> FloatArray:
    """Lotteries over the settings, float [G + 4, K]; ABC's own row is left empty."""
    cell, vote = part.cell, part.vote
    abc = int(np.flatnonzero(vote.dial == ALL_AGREE)[0])
    spent = data.cost[part.train]
    most = float(spent.sum(axis=1).mean())
    points = cell.train_cost, cell.train_accuracy
    weights = np.zeros((BUDGETS + 4, len(cell.dial)))
    weights[:BUDGETS] = mixtures(*points, np.linspace(0.0, most, BUDGETS))
    if is_vote:
        weights[[AT_ABC_COST, AT_ABC_ACCURACY], abc] = 1.0
    else:
        weights[AT_ABC_COST] = mixtures(*points, vote.train_cost[[abc]])[0]
        weights[AT_ABC_ACCURACY] = mixture_for_accuracy(*points, float(vote.train_accuracy[abc]))
    weights[MOST_ACCURATE] = mixture_for_accuracy(*points, 1.0)
    return weights


def seed_scores(n: int, parts: Sequence[tuple[Positions, Cell]]) -> SeedScores:
    """Put the failure scores of one seed's folds together.

    Args:
        n: number of queries.
        parts: the queries that each fold tested, and its cell; together they test all once.
    """
    p_fail, fails = np.empty(n), np.empty(n, dtype=bool)
    own, p_own = np.empty(n, dtype=np.int64), np.empty(n)
    fold = np.empty(n, dtype=np.int64)
    for number, (test, cell) in enumerate(parts):
        p_fail[test], fails[test] = cell.p_fail, cell.own_fails
        own[test], p_own[test] = cell.own, cell.p_own_fails
        fold[test] = number
    return SeedScores(p_fail=p_fail, own_fails=fails, own=own, p_own_fails=p_own, fold=fold)
