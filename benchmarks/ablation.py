"""What each feature group is worth: the router without it, beside the router with all of them.

    python benchmarks/ablation.py --data ../shared/data --out build/ablation

Over six pyramids of recorded_suite.yaml, two of each data set: 5 folds by question, the same folds
and seeds for all. Leaves ablation.csv: failure AUROC of the vote's answer within folds and log-loss
without each group, and their difference to all groups with a paired 95 % interval over questions.
A group that makes no sense for a data set's answers is not left out there, for it is not there.
Goes on where it was interrupted. The folder of recorded answers is not part of this repository.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from suite import import_pyramid, read_suite

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.progress import Progress
from pyramid_moa.router_model.features import groups_for
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule_run import RuleRun, rule_run
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.failure_scores import log_loss
from pyramid_moa.training.head_to_head_cells import CellCache
from pyramid_moa.training.head_to_head_figures import within_folds
from pyramid_moa.training.head_to_head_folds import folds_of
from pyramid_moa.training.head_to_head_pooling import Measured, Pool, question_weights
from pyramid_moa.training.head_to_head_results import seed_scores
from pyramid_moa.training.head_to_head_table import scopes_of
from pyramid_moa.training.outcomes import FloatArray

PYRAMIDS = (
    "gsm8k-easy-70b",
    "gsm8k-hard-claude-3.5",
    "math-l5-hard-100b",
    "math-l5-hard-gpt-4o",
    "crux-hard-100b",
    "crux-hard-claude-3.5",
)
WHOLE = "all groups"
_FOLDS = 5


def main() -> None:
    """Import what is missing, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/ablation"))
    parser.add_argument("--pyramids", nargs="+", default=list(PYRAMIDS))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    pyramids = [one for one in read_suite().pyramids if one.name in options.pyramids]
    runs = options.out / "runs"
    for pyramid in pyramids:
        if not (runs / pyramid.name).exists():
            import_pyramid(pyramid, options.data, runs)
    loaded = {one.name: rule_run(read_labelled_run(runs / one.name)) for one in pyramids}
    ablate(
        loaded,
        {name: rules_of(data) for name, data in loaded.items()},
        {one.name: one.dataset for one in pyramids},
        options.out,
        seeds=options.seeds,
    )


def ablate(
    loaded: Mapping[str, RuleRun],
    rules: Mapping[str, Sequence[OurRule]],
    data_sets: Mapping[str, str],
    out: Path,
    *,
    seeds: int,
) -> None:
    """Measure routers beside the one that has everything; write ``ablation.csv``.

    Args:
        loaded: runs by name.
        rules: for each run its routers, named for what they do without, among them ``WHOLE``.
        data_sets: for each run its data set.
        out: folder of the table and of what an interrupted call has left.
        seeds: how many divisions into folds.
    """
    hashes = {name: data.hashes for name, data in loaded.items()}
    weights = question_weights(hashes, seed=0, resamples=1000)
    measured = _measure(loaded, rules, weights, CellCache(out / "cache"), seeds)
    rows = _rows(measured, data_sets)
    for row in rows:
        if row["scope"] != "run":
            auroc, loss = row["failure_auroc_less_all"], row["log_loss_less_all"]
            sys.stdout.write(
                f"{row['of']}: without {row['without']}: failure AUROC {auroc:+.4f}, "
                f"log-loss {loss:+.4f}\n"
            )
    write_text_atomically(out / "ablation.csv", csv_text(rows))
    sys.stdout.write(f"table: {out / 'ablation.csv'}\n")


def rules_of(data: RuleRun) -> list[OurRule]:
    """The router with all groups that a run's answers can have, and without each of them."""
    config = TrainConfig(hidden_states="none")
    groups = groups_for(config.groups, data.run.grader)
    rules = [OurRule(config=config, name=WHOLE)]
    for group in groups:
        if group != "agreement":  # which is what the vote is made of
            others = [other for other in groups if other != group]
            rules.append(OurRule(config=replace(config, groups=others), name=group))
    return rules


def _measure(
    loaded: Mapping[str, RuleRun],
    rules: Mapping[str, Sequence[OurRule]],
    weights: Mapping[str, FloatArray],
    cache: CellCache,
    seeds: int,
) -> list[Measured]:
    """Every router on every run, means over the seeds."""
    measured = []
    total = sum(map(len, rules.values())) * _FOLDS * seeds
    with Progress("ablation", total=total) as progress:
        for name, data in loaded.items():
            for rule in rules[name]:
                figures = []
                for seed in range(seeds):
                    figures.append(_figures(name, data, rule, seed, cache, weights[name]))
                    progress.advance(_FOLDS, note=f"{name}, seed {seed}, {rule.name}")
                means = {key: np.mean([one[key] for one in figures], axis=0) for key in figures[0]}
                nothing = np.zeros((len(weights[name]), 0))
                measured.append(Measured(run=name, rule=rule.name, figures=means, relative=nothing))
            data.forget()
    return measured


def _rows(measured: Sequence[Measured], data_sets: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a scope and group, beside the router that has them all."""
    rows = []
    for scope in scopes_of(measured, data_sets):
        pool = Pool(measured=scope.pool.measured, reference=WHOLE)
        for name in pool.rules:
            row: dict[str, Any] = {"scope": scope.kind, "of": scope.name, "without": name}
            for figure in ("failure_auroc", "log_loss"):
                less = pool.difference(name, figure)
                low, high = less.interval or (None, None)
                row |= {
                    figure: pool.figure(name, figure).value,
                    f"{figure}_less_all": less.value,
                    f"{figure}_less_all_low": low,
                    f"{figure}_less_all_high": high,
                }
            rows.append(row)
    return rows


def _figures(
    name: str, data: RuleRun, rule: OurRule, seed: int, cache: CellCache, weights: FloatArray
) -> dict[str, FloatArray]:
    division = folds_of(data.hashes, folds=_FOLDS, seed=seed, name=name)
    parts = [
        (
            np.flatnonzero(division == fold),
            cache.cell(rule, data, division, folds=_FOLDS, fold=fold, seed=seed),
        )
        for fold in range(_FOLDS)
    ]
    scores = seed_scores(data.n, parts)
    return {
        "failure_auroc": within_folds(scores, weights)["auroc"],
        "log_loss": log_loss(scores.p_fail, scores.own_fails, weights),
    }


if __name__ == "__main__":
    main()
