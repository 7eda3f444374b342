"""Part `waiting`: what a price on seconds does to cost, time and accuracy.

Few tables record latencies, so they are simulated: a third of a second to the first token, and then
so many tokens a second, by active parameters (`_SPEEDS`; a hosted model whose size is not known
counts as one of 70B). Models that are asked together take as long as the slowest.

Each policy stands at the setting that is as accurate as ABC (all agree) on the training folds at
the least price, waiting included where it is priced. A second is priced at a share of what an
oracle call costs for each second that it takes.
"""

import argparse
import sys

import numpy as np
from numpy.typing import NDArray
from policy_cases.scored_folds import Part, ScoredFold, scored_folds
from policy_cases.suite_data import suite_data

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.router_model.state_values import reachable_sets, single_members
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.state_fit import fit_state_values, lambdas
from pyramid_moa.training.state_walk import Walk, joined_walks, walk
from pyramid_moa.training.step_fit import PENALTY

__all__ = ["run"]

Floats = NDArray[np.float64]

_FIRST_TOKEN_S = 0.3
# Up to so many billion active parameters: tokens a second.
_SPEEDS = ((4.0, 150.0), (15.0, 100.0), (40.0, 50.0), (np.inf, 30.0))
_SHARES = (0.0, 0.3, 1.0)


def run(options: argparse.Namespace) -> None:
    """Write waiting.csv: a row a pyramid and policy, and the means."""
    rows: list[dict[str, object]] = []
    for pyramid, data in suite_data(options):
        folds = scored_folds(data, options.out / "scores", name=pyramid.name, seeds=1)
        rows += _measured(pyramid.name, data, list(folds))
    policies = list(dict.fromkeys(str(row["policy"]) for row in rows))
    for policy in policies:
        own = [row for row in rows if row["policy"] == policy]
        means = {
            name: float(np.mean([row[name] for row in own]))
            for name in ("accuracy", "cost_ratio", "seconds", "seconds_99")
        }
        rows.append({"pyramid": "mean", "policy": policy, **means})
        sys.stdout.write(f"{rows[-1]}\n")
    write_text_atomically(options.out / "waiting.csv", csv_text(rows))
    sys.stdout.write(f"table: {options.out / 'waiting.csv'}\n")


def seconds_of(data: RuleRun) -> Floats:
    """Simulated latency of each model's answer to each query, [n, M + 1]."""
    manifest = data.run.manifest
    columns = []
    for cost in manifest.costs:
        billions = (cost.active_parameters or 70e9) / 1e9
        speed = next(tokens for most, tokens in _SPEEDS if billions <= most)
        rows = data.run.generations[cost.name]
        columns.append([_FIRST_TOKEN_S + (row.completion_tokens or 0) / speed for row in rows])
    return np.array(columns).T


def _measured(name: str, data: RuleRun, folds: list[ScoredFold]) -> list[dict[str, object]]:
    seconds = seconds_of(data)
    full = 2**data.members - 1
    ways = {"all at once, then the oracle": ([full], 0.0)}
    for share in _SHARES:
        groups = reachable_sets(single_members(data.members))[1:]
        label = f"step by step, a second at {share:g} of the oracle's"
        ways[label] = (groups if share else single_members(data.members), share)
    rows = []
    for policy, (groups, share) in ways.items():
        right, spent, took = np.zeros(data.n), np.zeros(data.n), np.zeros(data.n)
        for fold in folds:
            test = fold.test.positions
            made = _decided(data, fold, seconds, groups, share)
            right[test], spent[test], took[test] = made
        rows.append(
            {
                "pyramid": name,
                "policy": policy,
                "accuracy": float(right.mean()),
                "cost_ratio": float(spent.sum() / data.cost[:, -1].sum()),
                "seconds": float(took.mean()),
                "seconds_99": float(np.quantile(took, 0.99)),
            }
        )
    return rows


def _decided(
    data: RuleRun, fold: ScoredFold, seconds: Floats, groups: list[int], share: float
) -> tuple[Floats, Floats, Floats]:
    """Right, cost and seconds of the fold's queries at the setting chosen in training."""
    train, test = fold.train, fold.test
    at = train.positions
    cost, time = data.cost[at].mean(axis=0), seconds[at].mean(axis=0)
    rate = share * cost[-1] / time[-1]
    prices = _prices(groups, data.members, cost, time, rate)

    def fitted(index: NDArray[np.int64], part: Part) -> Walk:
        values = fit_state_values(
            train.sets.take(index),
            data.correct[at[index]],
            groups=groups,
            prices=prices,
            dial=lambdas(),
            penalty=PENALTY,
            realised=True,
        )
        return walk(values, part.sets)

    parts = []
    for own, held in inner_folds(data, at, fold.seed):
        left = Part(positions=at[held], sets=train.sets.take(held), heads=train.heads[held])
        parts.append((held, fitted(own, left)))
    accuracy, money, waited = _outcome(data, seconds, at, joined_walks(parts), groups)
    agreed = (data.winner[at] >= 0) & (data.share[at] >= 1.0 - 1e-9)
    abc = np.where(agreed, data.correct[at, data.vote], data.correct[at, data.oracle]).mean()
    paid = money.mean(axis=1) + rate * waited.mean(axis=1)
    good = np.flatnonzero(accuracy.mean(axis=1) >= abc - 1e-12)
    setting = int(good[np.argmin(paid[good])] if len(good) else accuracy.mean(axis=1).argmax())
    everything = fitted(np.arange(len(at)), test)
    right, spent, took = _outcome(data, seconds, test.positions, everything, groups)
    return right[setting], spent[setting], took[setting]


def _prices(groups: list[int], members: int, cost: Floats, time: Floats, rate: float) -> Floats:
    prices = []
    for group in [*groups, 1 << members]:
        asked = [place for place in range(members + 1) if group >> place & 1]
        prices.append(cost[asked].sum() + rate * time[asked].max())
    return np.array(prices) / prices[-1]


def _outcome(
    data: RuleRun, seconds: Floats, at: NDArray[np.int64], walked: Walk, groups: list[int]
) -> tuple[Floats, Floats, Floats]:
    """Right, cost and seconds, [K, n]; members that were asked together count once."""
    right = data.correct[at, walked.answer].astype(np.float64)
    spent = (walked.called * data.cost[at]).sum(axis=2)
    took = walked.called[..., -1] * seconds[at, -1]
    for number, together in enumerate(walked.together):
        asked = [place for place in range(data.members) if groups[number] >> place & 1]
        took = took + together * seconds[at][:, asked].max(axis=1)
    return right, spent, took
