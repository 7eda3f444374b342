"""Part `savings`: what going step by step saves, beside asking everybody at once and beside ABC."""

import argparse
import json
import sys

import numpy as np
from policy_cases.policies import POLICIES, dials
from policy_cases.policy_figures import (
    ABC_FORMS,
    RELATIVE,
    Figure,
    pooled,
    pooled_relative,
    pyramid_figures,
    relative_costs,
    row_of,
)
from policy_cases.savings_plot import plot_savings
from policy_cases.scored_folds import scored_folds
from policy_cases.suite_data import suite_data

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_pooling import question_weights

__all__ = ["run"]

_RESAMPLES = 1000
_WEAK = 0.93


def run(options: argparse.Namespace) -> None:
    """Fit what is not fitted yet; write savings.csv, savings_curves.csv and savings_curves.svg."""
    classes, data = {}, {}
    for pyramid, own in suite_data(options):
        classes[pyramid.name], data[pyramid.name] = pyramid.oracle_class, own
    weights = question_weights(
        {name: own.hashes for name, own in data.items()}, seed=0, resamples=_RESAMPLES
    )
    figures, curves = {}, {}
    for name, own in data.items():
        folds = scored_folds(own, options.out / "scores", name=name, seeds=options.seeds)
        made = dials(own, folds)
        figures[name] = pyramid_figures(own, made, weights[name])
        for policy in POLICIES[:3]:
            for form in ABC_FORMS:
                curve = relative_costs(own, made, weights[name], policy=policy, form=form)
                curves.setdefault((policy, form), []).append(curve)
    rows = [*_pooled_rows(figures, classes), *_curve_rows(curves), *_pyramid_rows(figures)]
    write_text_atomically(options.out / "savings.csv", csv_text(rows))
    means = {
        f"{policy}, beside {form}": np.mean([curve[0] for curve in own], axis=0)
        for (policy, form), own in curves.items()
    }
    plot_savings(options.out / "savings_curves.svg", RELATIVE, means)
    for row in rows:
        if row["scope"] != "pyramid" and row["value"] is not None:
            sys.stdout.write(f"{json.dumps(row)}\n")
    sys.stdout.write(f"table: {options.out / 'savings.csv'}\n")


def _pooled_rows(
    figures: "dict[str, dict[str, np.ndarray]]", classes: dict[str, str]
) -> list[dict[str, object]]:
    weak = [name for name in figures if figures[name]["oracle accuracy"][0] < _WEAK]
    scopes = {
        "all": list(figures),
        "70b-class oracles": [name for name in figures if classes[name] == "70b"],
        "larger and hosted oracles": [name for name in figures if classes[name] != "70b"],
        "oracles under 93 %": weak,
    }
    rows = []
    for figure in next(iter(figures.values())):
        values = {name: own[figure] for name, own in figures.items()}
        rows += [row_of(scope, figure, pooled(values, names)) for scope, names in scopes.items()]
    return rows


def _curve_rows(
    curves: "dict[tuple[str, str], list[np.ndarray]]",
) -> list[dict[str, object]]:
    return [
        row_of("all", f"{policy}: pooled cost at the accuracy of {form}", pooled_relative(own))
        for (policy, form), own in curves.items()
    ]


def _pyramid_rows(figures: "dict[str, dict[str, np.ndarray]]") -> list[dict[str, object]]:
    rows = []
    for pyramid, own in figures.items():
        for figure, values in own.items():
            one: Figure = pooled({pyramid: values})
            rows.append(row_of("pyramid", f"{pyramid}: {figure}", one))
    return rows
