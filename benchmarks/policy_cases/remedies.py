"""Part `remedies`: other ways of fitting what steps are worth, beside the one that `train` has."""

import argparse
import json
import sys

import numpy as np
from policy_cases.policies import StepFit, dials
from policy_cases.policy_figures import (
    ABC_FORMS,
    pooled,
    pooled_relative,
    pyramid_figures,
    relative_costs,
)
from policy_cases.scored_folds import scored_folds
from policy_cases.suite_data import suite_data

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.training.csv_table import csv_text

__all__ = ["run"]

_FITS = {
    "as trained": StepFit(),
    **{f"penalty {penalty:g}": StepFit(penalty=penalty) for penalty in (1.0, 10.0, 40.0, 160.0)},
    "expected instead of realised": StepFit(realised=False),
}


def run(options: argparse.Namespace) -> None:
    """Fit what is not fitted yet; write remedies.csv."""
    figures = {name: {} for name in _FITS}
    curves = {name: {form: [] for form in ABC_FORMS} for name in _FITS}
    for pyramid, own in suite_data(options):
        folds = list(
            scored_folds(own, options.out / "scores", name=pyramid.name, seeds=options.seeds)
        )
        once = np.ones((1, own.n))
        for name, fit in _FITS.items():
            made = dials(own, folds, fit)
            figures[name][pyramid.name] = pyramid_figures(own, made, once)
            for form in ABC_FORMS:
                curve = relative_costs(own, made, once, policy="sequential", form=form)
                curves[name][form].append(curve)
    rows = [
        row
        for name in _FITS
        for form in ABC_FORMS
        for row in [_row(name, form, figures[name], curves[name][form])]
    ]
    for row in rows:
        sys.stdout.write(f"{json.dumps(row)}\n")
    write_text_atomically(options.out / "remedies.csv", csv_text(rows))
    sys.stdout.write(f"table: {options.out / 'remedies.csv'}\n")


def _row(
    name: str, form: str, figures: "dict[str, dict[str, np.ndarray]]", curves: "list[np.ndarray]"
) -> dict[str, object]:
    """Means over pyramids of one way of fitting, beside one form of ABC."""

    def mean(figure: str) -> float | None:
        return pooled({pyramid: own[figure] for pyramid, own in figures.items()}).value

    chosen = f"sequential chosen for {form}"
    return {
        "fit": name,
        "beside": form,
        "pyramids": len(figures),
        "chosen in training: cost over its": mean(f"{chosen}: cost over its"),
        "chosen in training: accuracy less its": mean(f"{chosen}: accuracy less its"),
        "on the curve: cost over its": mean(f"sequential cost over {form}'s at its accuracy"),
        "on the pooled curve: cost over its": pooled_relative(curves).value,
    }
