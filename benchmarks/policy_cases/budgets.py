"""Part `budgets`: what queries come to whose money is limited, and how long a decision takes.

Every query is taken step by step, with any price worth paying (lambda 0), until its budget has no
room for what a call is expected to cost. Budgets are shares of what asking everybody costs in the
mean.
"""

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray
from policy_cases.policies import step_values
from policy_cases.policy_figures import pooled, row_of
from policy_cases.scored_folds import ScoredFold, scored_folds
from policy_cases.suite_data import suite_data

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.router_model.step_policy import StepPolicy
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_pooling import question_weights
from pyramid_moa.training.state_fit import fit_later_stops
from pyramid_moa.training.step_fit import PENALTY

__all__ = ["run"]

_SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
_RESAMPLES = 1000
_SEEDS = 1


def run(options: argparse.Namespace) -> None:
    """Write budgets.csv: accuracy at each budget, and its gain over the one before."""
    data = {pyramid.name: own for pyramid, own in suite_data(options)}
    weights = question_weights(
        {name: own.hashes for name, own in data.items()}, seed=0, resamples=_RESAMPLES
    )
    right, overrun, times = {}, [], []
    for name, own in data.items():
        folds = scored_folds(own, options.out / "scores", name=name, seeds=_SEEDS)
        right[name], spent = _limited(own, folds, times)
        overrun.append(spent)
    rows = []
    for place, share in enumerate(_SHARES):
        accuracies = {
            name: weights[name] @ own[place] / weights[name].sum(axis=1)
            for name, own in right.items()
        }
        rows.append(row_of("all", f"budget {share}: accuracy", pooled(accuracies)))
        if place:
            gains = {
                name: weights[name] @ (own[place] - own[place - 1]) / weights[name].sum(axis=1)
                for name, own in right.items()
            }
            rows.append(row_of("all", f"budget {share}: gain over the one before", pooled(gains)))
        means = np.array([spent[place] for spent in overrun])
        rows.append(
            row_of(
                "all", f"budget {share}: spent of it", pooled({"all": means.mean(keepdims=True)})
            )
        )
    microseconds = np.quantile(np.array(times) * 1e6, [0.5, 0.99])
    for row in rows:
        sys.stdout.write(f"{row}\n")
    write_text_atomically(options.out / "budgets.csv", csv_text(rows))
    sys.stdout.write(
        f"a step is chosen in {microseconds[0]:.0f} microseconds (median), {microseconds[1]:.0f} "
        f"(99 %), of {len(times)} steps\ntable: {options.out / 'budgets.csv'}\n"
    )


def _limited(
    data: RuleRun, folds: "list[ScoredFold]", times: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each query is right at each budget, [shares, n]; mean share of it spent, [shares]."""
    names = [*(f"m{number}" for number in range(data.members)), "oracle"]
    right, spent = np.zeros((len(_SHARES), data.n)), np.zeros((len(_SHARES), data.n))
    for fold in folds:
        train = fold.train.positions
        values = step_values(data, fold.train, np.arange(len(train)))
        later = fit_later_stops(
            fold.train.sets, data.correct[train], groups=values.groups, penalty=PENALTY
        )
        policy = StepPolicy(members=tuple(names[:-1]), oracle="oracle", values=values, later=later)
        expected = dict(zip(names, data.cost[train].mean(axis=0), strict=True))
        total = sum(expected.values())
        for number, query in enumerate(fold.test.positions):
            for place, share in enumerate(_SHARES):
                right[place, query], spent[place, query] = _one(
                    data, fold, policy, expected, number, share * total, times
                )
        spent[:, fold.test.positions] /= np.array(_SHARES)[:, None] * total
    return right, spent.mean(axis=1)


def _read(fold: ScoredFold, subset: int, number: int) -> tuple[NDArray[np.float64], int]:
    """What is known of one query in a set, [1, d], and who stands for its answer, -1 for nobody."""
    if not subset:
        return fold.test.sets.questions[[number]], -1
    own = fold.test.sets.sets[subset - 1].take(np.array([number]))
    return own.columns, int(own.choice[0])


def _one(
    data: RuleRun,
    fold: ScoredFold,
    policy: StepPolicy,
    expected: dict[str, float],
    number: int,
    budget: float,
    times: list[float],
) -> tuple[float, float]:
    """Whether the answer is right, and what it cost."""
    query = fold.test.positions[number]
    asked: list[str] = []
    spent = 0.0
    while True:
        subset = sum(1 << policy.members.index(name) for name in asked)
        columns, answer = _read(fold, subset, number)
        left = budget - spent
        started = time.perf_counter()
        chosen = policy.next_step(
            asked,
            columns,
            answered=answer >= 0,
            worth_of_a_call=0.0,
            allowed=lambda groups, left=left: (
                sum(expected[name] for group in groups for name in group) <= left
            ),
        )
        times.append(time.perf_counter() - started)
        if not chosen.models:
            return float(answer >= 0 and data.correct[query, answer]), spent
        (model,) = chosen.models
        if model == "oracle":
            return float(data.correct[query, data.oracle]), spent + data.cost[query, -1]
        asked.append(model)
        spent += data.cost[query, policy.members.index(model)]
