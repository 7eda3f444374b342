"""Part `steps-promise`: how often a promise of the sequential policy is broken.

The questions of a pyramid's table, each decided at every setting by a router and a policy that had
left it out, are taken for the whole population, so that the true drop of every setting is known.
Calibration questions are drawn from it with replacement; the order of settings is that of the
training queries of the first fold.
"""

import argparse
import sys

import numpy as np
from numpy.typing import NDArray
from policy_cases.policies import sequential_walks
from policy_cases.scored_folds import scored_folds
from policy_cases.suite_data import suite_data

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.drop_test import DropTest
from pyramid_moa.training.learn_then_test import Plan, cheapest_within_drop

__all__ = ["run"]

_DROPS = (0.005, 0.01, 0.02)
_SIZES = (300, 1000, 5000)
_LEVEL = 0.05


def run(options: argparse.Namespace) -> None:
    """Write steps_promise.csv: a row a pyramid, drop and number of questions, and the means."""
    tests = {(n, drop): DropTest(n=n, drop=drop, level=_LEVEL) for n in _SIZES for drop in _DROPS}
    rows: list[dict[str, object]] = []
    for pyramid, data in suite_data(options):
        folds = list(scored_folds(data, options.out / "scores", name=pyramid.name, seeds=1))
        right, spent = np.zeros((0, 0)), np.zeros((0, 0))
        plan = None
        for fold in folds:
            own, other = sequential_walks(data, fold)
            if plan is None:
                right = np.zeros((len(other[0]), data.n))
                spent = np.zeros_like(right)
                plan = _plan(data, fold.train.positions, own[0])
            # The oracle at once first, as in `steps_path`; then from free to dear.
            right[:, fold.test.positions] = other[0][::-1]
            spent[:, fold.test.positions] = other[1][::-1]
        assert plan is not None
        for (n, drop), test in tests.items():
            rows.append(
                {
                    "pyramid": pyramid.name,
                    "questions": n,
                    "drop": drop,
                    **_draws(data, right, spent, plan, test, options.draws),
                }
            )
    for n, drop in tests:
        own_rows = [row for row in rows if (row["questions"], row["drop"]) == (n, drop)]
        names = ("broken", "unproven", "cost_ratio", "cost_over_best")
        means = {
            name: float(np.mean([float(str(row[name])) for row in own_rows])) for name in names
        }
        worst = max(float(str(row["broken"])) for row in own_rows)
        sys.stdout.write(f"{n} questions, drop {drop}: {means}, worst {worst}\n")
        rows.append({"pyramid": "mean", "questions": n, "drop": drop, **means})
    write_text_atomically(options.out / "steps_promise.csv", csv_text(rows))
    sys.stdout.write(f"table: {options.out / 'steps_promise.csv'}\n")


def _plan(data: RuleRun, at: NDArray[np.int64], right: NDArray[np.float64]) -> Plan:
    """What training says of the settings, the oracle at once first."""
    oracle = data.correct[at, data.oracle].astype(np.float64)
    settings = right[::-1]
    return Plan(
        accuracy=settings.mean(axis=1),
        lost=(oracle * (1 - settings)).mean(axis=1),
        gained=((1 - oracle) * settings).mean(axis=1),
        questions=len(at),
    )


def _draws(
    data: RuleRun,
    right: NDArray[np.float64],
    spent: NDArray[np.float64],
    plan: Plan,
    test: DropTest,
    draws: int,
) -> dict[str, float]:
    """Of so many draws of calibration questions, how many broke the promise, and what it cost."""
    oracle = data.correct[:, data.oracle].astype(np.float64)
    lost, gained = oracle * (1 - right), (1 - oracle) * right
    drop = (lost - gained).mean(axis=1)
    cost = spent.mean(axis=1)
    best = cost[drop <= test.drop + 1e-12].min()
    rng = np.random.default_rng(0)
    broken = unproven = 0
    costs = []
    for _ in range(draws):
        counts = rng.multinomial(test.n, np.full(data.n, 1 / data.n)).astype(np.float64)
        place = cheapest_within_drop(lost @ counts, gained @ counts, plan, test)
        unproven += place is None
        place = 0 if place is None else place
        broken += drop[place] > test.drop + 1e-12
        costs.append(cost[place])
    return {
        "broken": broken / draws,
        "unproven": unproven / draws,
        "cost_ratio": float(np.mean(costs) / data.cost[:, -1].mean()),
        "cost_over_best": float(np.mean(costs) / best),
    }
