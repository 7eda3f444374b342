"""How good a router is after so many labels: its own training beside one that starts from another.

Every point is cross-validated like the rules of the benchmark, in cells of the same cache. What is
learned from is some of the training folds' labels; what is measured is the whole test fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.errors import ConfigError
from pyramid_moa.progress import Progress
from pyramid_moa.training.baselines.fixed_rules import VoteRule
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule import Rule
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.baselines.starts import Start
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.failure_scores import calibration_error, log_loss
from pyramid_moa.training.fit import FEWEST_LABELS
from pyramid_moa.training.head_to_head_cells import CellCache
from pyramid_moa.training.head_to_head_figures import expected_calibration_error, within_folds
from pyramid_moa.training.head_to_head_folds import folds_of
from pyramid_moa.training.head_to_head_pooling import Estimate, Measured, Pool, question_weights
from pyramid_moa.training.head_to_head_results import SeedScores, seed_scores
from pyramid_moa.training.head_to_head_table import scopes_of
from pyramid_moa.training.label_plot import write_label_plot
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["OWN", "STARTED", "VOTE", "LabelPoint", "Protocol", "label_points", "write_label_curves"]

VOTE, OWN, STARTED = "vote", "router", "router-started"
"""Names of the curves: agreement alone, without a start, and with one."""

_FIGURES = ("failure_auroc", "failure_average_precision", "ece", "ece_in_excess", "log_loss")


@dataclass(frozen=True, kw_only=True)
class LabelPoint:
    """A point of a curve.

    Attributes:
        curve: which.
        labels: how many labels are learned from, None for all of the training folds.
        rule: that learns from them.
    """

    curve: str
    labels: int | None
    rule: Rule

    @property
    def name(self) -> str:
        """Unlike that of any other point."""
        return f"{self.curve}, {'all' if self.labels is None else self.labels} labels"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures come about.

    Attributes:
        folds: of the cross-validation, by question.
        seeds: the seeds of its divisions and fits.
        seed: of the bootstrap.
        resamples: of it.
    """

    folds: int = 5
    seeds: Sequence[int] = (0,)
    seed: int = 0
    resamples: int = 1000


def label_points(
    config: TrainConfig, starts: Sequence[Start], labels: Sequence[int]
) -> list[LabelPoint]:
    """Points of all curves: the vote, own training, and one that starts from another router.

    Args:
        config: how routers are trained.
        starts: what is started from; none leaves that curve out.
        labels: numbers of labels; all of them come besides.

    Raises:
        ConfigError: a number is negative.
    """
    if wrong := [number for number in labels if number < 0]:
        raise ConfigError(f"labels: expected 0 or more, found {wrong}")
    numbers: list[int | None] = [*sorted(set(labels)), None]
    points = [LabelPoint(curve=VOTE, labels=None, rule=VoteRule())]
    points += [
        LabelPoint(curve=OWN, labels=number, rule=OurRule(config=config, labels=number))
        for number in numbers
        if number is None or number >= FEWEST_LABELS
    ]
    if starts:
        points += [
            LabelPoint(
                curve=STARTED,
                labels=number,
                rule=OurRule(config=config, starts=starts, labels=number, name=STARTED),
            )
            for number in numbers
        ]
    return points


def write_label_curves(
    loaded: Mapping[str, RuleRun],
    points: Mapping[str, Sequence[LabelPoint]],
    out: Path,
    *,
    cache: CellCache,
    protocol: Protocol,
    data_sets: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Measure all points and write ``label_curves.csv``, ``.svg`` and ``.png``.

    Args:
        loaded: runs by name.
        points: of each run.
        out: a folder that exists.
        cache: of cells.
        protocol: how.
        data_sets: by name of a run the data set it counts to.

    Returns:
        The rows of the table: a point on a run, on the runs of a data set, or on all.
    """
    hashes = {name: data.hashes for name, data in loaded.items()}
    weights = question_weights(hashes, seed=protocol.seed, resamples=protocol.resamples)
    measured = []
    fits = sum(map(len, points.values())) * protocol.folds * len(protocol.seeds)
    with Progress("label curves", total=fits) as progress:
        for name, data in loaded.items():
            for point, scores, fell_back in _measure(
                name, data, points[name], cache, protocol, progress
            ):
                probable = point.curve != VOTE and not fell_back
                figures = _figures(scores, weights[name], are_probabilities=probable)
                measured.append(
                    Measured(
                        run=name,
                        rule=point.name,
                        figures=figures,
                        relative=np.zeros((len(weights[name]), 0)),
                    )
                )
            data.forget()
    named = {point.name: point for own in points.values() for point in own}
    rows = [
        row
        for scope in scopes_of(measured, data_sets)
        for row in _rows(scope.kind, scope.name, scope.pool, named)
    ]
    write_text_atomically(out / "label_curves.csv", csv_text(rows))
    write_label_plot(rows, out / "label_curves")
    return rows


def _measure(
    name: str,
    data: RuleRun,
    points: Sequence[LabelPoint],
    cache: CellCache,
    protocol: Protocol,
    progress: Progress,
) -> list[tuple[LabelPoint, list[SeedScores], bool]]:
    """Failure scores of every point, one entry a seed, and whether any fit fell back on the vote.

    All points of a fold come before the next fold, so that they share what they start from.
    """
    scores: list[list[SeedScores]] = [[] for _ in points]
    fell_back = [False for _ in points]
    for seed in protocol.seeds:
        division = folds_of(data.hashes, folds=protocol.folds, seed=seed, name=name)
        parts: list[list[Any]] = [[] for _ in points]
        for fold in range(protocol.folds):
            for place, (point, own) in enumerate(zip(points, parts, strict=True)):
                cell = cache.cell(
                    point.rule, data, division, folds=protocol.folds, fold=fold, seed=seed
                )
                own.append((np.flatnonzero(division == fold), cell))
                fell_back[place] |= bool(cell.fell_back)
                progress.advance(note=f"{name}, seed {seed}, fold {fold + 1}, {point.name}")
        for own, all_seeds in zip(parts, scores, strict=True):
            all_seeds.append(seed_scores(data.n, own))
    return list(zip(points, scores, fell_back, strict=True))


def _figures(
    scores: Sequence[SeedScores], weights: FloatArray, *, are_probabilities: bool
) -> dict[str, FloatArray]:
    """Means over seeds, [b] each; what only probabilities have is nan for the vote's shares."""
    by_seed = []
    for one in scores:
        ranked = within_folds(one, weights)
        figures = {
            "failure_auroc": ranked["auroc"],
            "failure_average_precision": ranked["precision"],
        }
        if are_probabilities:
            error = calibration_error(one.p_fail, one.own_fails, weights)
            figures |= {
                "ece": error,
                "ece_in_excess": error - expected_calibration_error(one.p_fail),
                "log_loss": log_loss(one.p_fail, one.own_fails, weights),
            }
        by_seed.append(figures)
    unknown = np.full(len(weights), np.nan)
    return {
        name: np.mean([figures.get(name, unknown) for figures in by_seed], axis=0)
        for name in _FIGURES
    }


def _rows(
    kind: str, name: str, pool: Pool, points: Mapping[str, LabelPoint]
) -> list[dict[str, Any]]:
    """A row a point: its figures, and how far its AUROC is from own training on all labels."""
    whole = Pool(measured=pool.measured, reference=f"{OWN}, all labels")
    rows = []
    for rule in pool.rules:
        point = points[rule]
        values = {figure: whole.figure(rule, figure) for figure in _FIGURES}
        auroc, less = values["failure_auroc"], whole.difference(rule, "failure_auroc")
        rows.append(
            {
                "scope": kind,
                "of": name,
                "runs": auroc.runs,
                "curve": point.curve,
                "labels": "all" if point.labels is None else point.labels,
                **{figure: value.value for figure, value in values.items()},
                **_interval("failure_auroc", auroc),
                "auroc_less_own_training": less.value,
                **_interval("auroc_less_own_training", less),
            }
        )
    return rows


def _interval(name: str, estimate: Estimate) -> dict[str, float | None]:
    low, high = asdict(estimate)["interval"] or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}
