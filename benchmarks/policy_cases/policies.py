"""What policies come to on queries that neither the router nor the policy was fitted on.

Every policy is a dial of K settings. Parallel ones ask all members and then the oracle where a
score is above a threshold; thresholds are quantiles of the scores of training queries. Sequential
ones go step by step. The forms of agreement-based cascading (ABC) have one setting each: accept
where all agree.

Legend: n queries, M members, K settings.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from policy_cases.scored_folds import Part, ScoredFold

from pyramid_moa.router_model.policy import log_odds
from pyramid_moa.router_model.state_values import StateValues
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.baselines.stepwise import fit_steps
from pyramid_moa.training.outvoting import choose_margin
from pyramid_moa.training.state_fit import lambdas
from pyramid_moa.training.state_walk import joined_walks, walk
from pyramid_moa.training.step_fit import PENALTY

__all__ = ["POLICIES", "Dial", "StepFit", "dials", "sequential_walks", "step_values"]

Floats = NDArray[np.float64]

POLICIES = (
    "parallel",
    "gain",
    "sequential",
    "oracle",
    "everybody",
    "abc",
    "abc-sequential",
    "abc-three-tiers",
)
_THRESHOLDS = 101


@dataclass(frozen=True, kw_only=True)
class StepFit:
    """How the worth of steps is fitted; by default as `train` does.

    Attributes:
        penalty: of the ridge regressions.
        realised: from what became of queries, not from what was expected of them.
    """

    penalty: float = PENALTY
    realised: bool = True


_AS_TRAINED = StepFit()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dial:
    """A policy at its K settings: means over seeds, each query decided by a fit without it.

    Attributes:
        correct: share of the seeds in which the final answer is right, float [K, n].
        cost: of all calls, USD, float [K, n].
        train_accuracy: on the training queries of each fold, out of fold, [seeds * folds, K].
        train_cost: mean cost there, USD, [seeds * folds, K].
        test: positions of each fold's queries, one entry a fold of a seed.
        correct_of: in each of those the final answers that are right, [K, its queries].
        cost_of: likewise what they cost.
    """

    correct: Floats
    cost: Floats
    train_accuracy: Floats
    train_cost: Floats
    test: list[NDArray[np.int64]]
    correct_of: list[Floats]
    cost_of: list[Floats]


def dials(
    data: RuleRun, folds: Iterable[ScoredFold], fit: StepFit = _AS_TRAINED
) -> dict[str, Dial]:
    """Let every policy decide every query.

    Args:
        data: the run.
        folds: of all seeds.
        fit: how the worth of steps is fitted.
    """
    rows: dict[str, list[tuple[Floats, Floats, Floats, Floats]]] = {name: [] for name in POLICIES}
    tests = []
    for fold in folds:
        tests.append(fold.test.positions)
        for name, made in _decided(data, fold, fit).items():
            rows[name].append(made)
    return {name: _dial(data, tests, own) for name, own in rows.items()}


def _dial(
    data: RuleRun, tests: list[NDArray[np.int64]], rows: list[tuple[Floats, Floats, Floats, Floats]]
) -> Dial:
    settings = len(rows[0][0])
    correct, cost = np.zeros((settings, data.n)), np.zeros((settings, data.n))
    for test, (right, spent, _, _) in zip(tests, rows, strict=True):
        correct[:, test] += right
        cost[:, test] += spent
    seeds = sum(len(test) for test in tests) / data.n
    return Dial(
        correct=correct / seeds,
        cost=cost / seeds,
        train_accuracy=np.array([row[2] for row in rows]),
        train_cost=np.array([row[3] for row in rows]),
        test=tests,
        correct_of=[row[0] for row in rows],
        cost_of=[row[1] for row in rows],
    )


def _decided(
    data: RuleRun, fold: ScoredFold, fit: StepFit
) -> "dict[str, tuple[Floats, Floats, Floats, Floats]]":
    """By policy: right and cost on the fold's queries, accuracy and mean cost in training."""
    made = {}
    for name, train, test in _parallel(fold):
        quantiles = np.quantile(train, np.linspace(1.0, 0.0, _THRESHOLDS))
        thresholds = np.concatenate([[np.inf], quantiles, [-np.inf]])
        made[name] = (
            *_above(data, fold.test, test, thresholds),
            *_means(_above(data, fold.train, train, thresholds)),
        )
    made["sequential"] = _sequential(data, fold, fit)
    made["everybody"] = _everybody(data, fold)
    for name, decide in (
        ("oracle", _oracle),
        ("abc", _abc),
        ("abc-sequential", _abc_sequential),
        ("abc-three-tiers", _abc_three_tiers),
    ):
        made[name] = (
            *decide(data, fold.test.positions),
            *_means(decide(data, fold.train.positions)),
        )
    return made


def _means(made: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return made[0].mean(axis=1), made[1].mean(axis=1)


def _parallel(fold: ScoredFold) -> list[tuple[str, Floats, Floats]]:
    """Scores of training and test queries: p(fails), and what the oracle is expected to gain."""
    fails = [_fails(part) for part in (fold.train, fold.test)]
    gains = [
        part.heads[:, 2] - (1.0 - own)
        for part, own in zip((fold.train, fold.test), fails, strict=True)
    ]
    return [("parallel", *fails), ("gain", *gains)]


def _fails(part: Part) -> Floats:
    """An ensemble without an answer fails for certain."""
    return np.where(part.sets.sets[-1].choice < 0, 1.0, part.heads[:, 0])


def _above(data: RuleRun, part: Part, scores: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
    at = part.positions
    choice = part.sets.sets[-1].choice
    own = data.correct[at, np.where(choice >= 0, choice, data.vote)]
    asked = scores[None] > thresholds[:, None]
    right = np.where(asked, data.correct[at, data.oracle], own)
    spent = data.cost[at, :-1].sum(axis=1) + asked * data.cost[at, -1]
    return _with_oracle_alone(data, at, right, spent)


def _sequential(
    data: RuleRun, fold: ScoredFold, fit: StepFit
) -> tuple[Floats, Floats, Floats, Floats]:
    own, other = sequential_walks(data, fold, fit)
    return (*other, *_means(own))


def sequential_walks(
    data: RuleRun, fold: ScoredFold, fit: StepFit = _AS_TRAINED
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Right and cost, [K, n] each, of training queries out of fold, and of the fold's queries.

    Settings go from a dear oracle to a free one, and last the oracle at once.
    """
    train, test = fold.train, fold.test
    walks = []
    for fitted, held in inner_folds(data, train.positions, fold.seed):
        values = step_values(data, train, fitted, fit)
        walks.append((held, walk(values, train.sets.take(held))))
    values = step_values(data, train, np.arange(len(train.positions)), fit)
    own, other = joined_walks(walks), walk(values, test.sets)
    return (
        _walked(data, train.positions, own.called, own.answer),
        _walked(data, test.positions, other.called, other.answer),
    )


def step_values(
    data: RuleRun, part: Part, index: NDArray[np.int64], fit: StepFit = _AS_TRAINED
) -> StateValues:
    """Fit what steps are worth on some of the training queries, one member at a time."""
    return fit_steps(
        part.sets.take(index),
        data,
        part.positions[index],
        dial=lambdas(),
        penalty=fit.penalty,
        realised=fit.realised,
    )


def _walked(
    data: RuleRun,
    at: NDArray[np.int64],
    called: NDArray[np.bool_],
    answer: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    spent = (called * data.cost[at]).sum(axis=2)
    return _with_oracle_alone(data, at, data.correct[at, answer], spent)


def _with_oracle_alone(
    data: RuleRun, at: NDArray[np.int64], right: NDArray[np.bool_], spent: Floats
) -> tuple[Floats, Floats]:
    """Every dial has one setting more: the oracle at once, nobody beside it."""
    right = np.vstack([right, data.correct[at, data.oracle]])
    return right.astype(np.float64), np.vstack([spent, data.cost[at, -1]])


def _everybody(data: RuleRun, fold: ScoredFold) -> tuple[Floats, Floats, Floats, Floats]:
    """Ask members and oracle; the ensemble outvotes it by a margin chosen in training, if any."""
    surer, gains = _outvoting(data, fold.train)
    margin = choose_margin(surer, gains)
    parts = []
    for part in (fold.test, fold.train):
        surer, gains = _outvoting(data, part)
        kept = surer > (np.inf if margin is None else margin)
        right = data.correct[part.positions, data.oracle] + np.where(kept, gains, 0)
        parts.append((right[None].astype(np.float64), data.cost[part.positions].sum(axis=1)[None]))
    return (*parts[0], *_means(parts[1]))


def _outvoting(data: RuleRun, part: Part) -> tuple[Floats, NDArray[np.int64]]:
    """By how much the ensemble is surer than the oracle, and what keeping its answer gains."""
    at, choice = part.positions, part.sets.sets[-1].choice
    own, oracle = 1.0 - _fails(part), part.heads[:, 2]
    surer = np.array(
        [log_odds(float(p)) - log_odds(float(q)) for p, q in zip(own, oracle, strict=True)]
    )
    right = data.correct[at, np.maximum(choice, 0)].astype(np.int64)
    gains = right - data.correct[at, data.oracle]
    # Where both give the same answer there is nothing to keep.
    return surer, np.where((choice >= 0) & ~_as_the_oracle(data, at, choice), gains, 0)


def _as_the_oracle(
    data: RuleRun, at: NDArray[np.int64], choice: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Where the member that was chosen says what the oracle says, bool [n]."""
    run = data.run
    oracle = run.generations[run.manifest.oracle]
    same = []
    for query, member in zip(at, choice, strict=True):
        own = run.generations[run.manifest.members[member]][query].answer
        other = oracle[query].answer
        same.append(own is not None and other is not None and run.grader.equal(own, other))
    return np.array(same, dtype=bool)


def _oracle(data: RuleRun, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    return data.correct[at, data.oracle][None].astype(np.float64), data.cost[at, -1][None]


def _abc(data: RuleRun, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """All members at once, then the oracle unless all agree."""
    agreed = _all_agree(data, at)
    right = np.where(agreed, data.correct[at, data.vote], data.correct[at, data.oracle])
    spent = data.cost[at, :-1].sum(axis=1) + ~agreed * data.cost[at, -1]
    return right[None].astype(np.float64), spent[None]


def _abc_sequential(data: RuleRun, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The same, member by member, cheapest first: the oracle as soon as two differ."""
    right, _ = _abc(data, at)
    order = np.argsort(data.cost[:, :-1].mean(axis=0), kind="stable")
    spent, going = np.zeros(len(at)), np.ones(len(at), dtype=bool)
    first = data.clusters[at, order[0]]
    for member in order:
        spent += going * data.cost[at, member]
        own = data.clusters[at, member]
        going &= (own >= 0) & (own == first)
    # Equality is to the first of those who are alike; whoever differs from it ends the row.
    spent += ~_all_agree(data, at) * data.cost[at, -1]
    return right, spent[None]


def _abc_three_tiers(data: RuleRun, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """All members but the dearest; the dearest where they differ; the oracle where it does, too."""
    order = np.argsort(data.cost[:, :-1].mean(axis=0), kind="stable")
    cheap, dear = order[:-1], order[-1]
    own = data.clusters[at][:, cheap]
    agreed = (own[:, 0] >= 0) & (own == own[:, :1]).all(axis=1)
    plurality = _plurality(own)
    seconded = (plurality >= 0) & (data.clusters[at, dear] == plurality)
    winner = np.where(agreed, own[:, 0], plurality)
    right = np.where(
        agreed | seconded,
        data.correct[at, np.maximum(winner, 0)],
        data.correct[at, data.oracle],
    )
    spent = data.cost[at][:, cheap].sum(axis=1)
    spent = spent + ~agreed * data.cost[at, dear] + ~(agreed | seconded) * data.cost[at, -1]
    return right[None].astype(np.float64), spent[None]


def _plurality(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """The answer that most stand behind, the first-listed member's among equals; -1 for none."""
    votes = (clusters[:, :, None] == clusters[:, None, :]).sum(axis=2) * (clusters >= 0)
    best = votes.argmax(axis=1)
    return np.where(votes.max(axis=1) > 0, clusters[np.arange(len(clusters)), best], -1)


def _all_agree(data: RuleRun, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    agreed: NDArray[np.bool_] = (data.winner[at] >= 0) & (data.share[at] >= 1.0 - 1e-9)
    return agreed
