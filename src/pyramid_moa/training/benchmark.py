"""The router head to head with the field's rules on whole runs, cross-validated by question."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa.atomic_files import remove_leftovers, write_text_atomically
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError, DataError
from pyramid_moa.progress import Progress
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.baselines.all_rules import chosen_rules
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule import Rule
from pyramid_moa.training.baselines.rule_run import (
    Positions,
    RuleRun,
    content_hash,
    rule_run,
)
from pyramid_moa.training.baselines.starts import CheckpointStart, Pool, Start
from pyramid_moa.training.benchmark_page import write_benchmark_page
from pyramid_moa.training.benchmark_report import router_line, write_router_report
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_cells import CellCache
from pyramid_moa.training.head_to_head_figures import relative_curve, rule_figures
from pyramid_moa.training.head_to_head_first import write_behind_first
from pyramid_moa.training.head_to_head_folds import folds_of
from pyramid_moa.training.head_to_head_plots import run_curves, write_run_plot, write_suite_plot
from pyramid_moa.training.head_to_head_pooling import Measured, question_weights
from pyramid_moa.training.head_to_head_results import Part, RuleResult, rule_result
from pyramid_moa.training.head_to_head_table import scopes_of, write_tables
from pyramid_moa.training.label_curves import (
    STARTED,
    LabelPoint,
    Protocol,
    label_points,
    write_label_curves,
)
from pyramid_moa.training.report import check_report_folder

__all__ = ["benchmark"]

_CACHE, _PLOTS = "cache", "plots"
_VOTE, _ROUTER = "vote", "router"


def benchmark(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    config: TrainConfig | None = None,
    pools: Sequence[str | Path] = (),
    labels: Sequence[int] = (),
    init: str | Path | None = None,
    folds: int = 5,
    seeds: int = 3,
    seed: int = 0,
    rules: Sequence[str] | None = None,
    resamples: int = 1000,
    data_sets: Mapping[str, str] | None = None,
    own_grader: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Cross-validate every rule on each run and compare it with the vote rule (ABC).

    Leaves ``rules.csv`` (a row a rule, for each run, each data set and over all runs),
    ``differences.csv`` (to the vote, with paired intervals), ``behind_first.csv`` (to the rule that
    is first in a figure, likewise), ``rules.json`` (rules and differences, with every interval),
    plots with their numbers in ``plots``, one page with all of it (``report.html``), and of the
    router a report folder for each run and ``benchmark.csv`` with a row a run. Every cell (run,
    seed, fold, rule) is kept in ``cache``; a benchmark that was interrupted goes on there.

    Args:
        runs: run folders; all their queries are used, whatever their split.
        out: the folder.
        config: how routers are trained; the defaults where it is left out.
        pools: run folders of many models' answers; of the first with a run's grader another
            router takes part, ``router-from-pool``, which starts from what a router of all its
            models has learned on the questions of the training folds.
        labels: numbers of labels after which the router is measured, too: ``label_curves.csv``
            with its plot has them beside all labels, for own training and for one that starts from
            ``init``, or else from the pools.
        init: a checkpoint, or ``pretrained:NAME``.
        folds: how many.
        seeds: how many times all is repeated, with other folds.
        seed: the first; also of the bootstrap.
        rules: names of those that take part, beside the vote; all where it is None.
        resamples: of the bootstrap.
        data_sets: by name of a run the data set it counts to; the manifest's where it is None.
        own_grader: the caller's own ``module:function``, where the runs were graded by it.
        say: shown one line a run and rule.

    Returns:
        The rows of ``benchmark.csv``; none where the router takes no part.

    Raises:
        ConfigError: two runs have the same name, or a rule's name is unknown.
        RunFolderError: a run is missing, too small, or lacks costs.
        DataError: a report's place holds something else.
    """
    out = Path(out)
    paths = [Path(run).resolve() for run in runs]
    opened = [_pool(Path(pool), own_grader) for pool in pools]
    chosen = chosen_rules(config or TrainConfig(), rules, pools=opened)
    _check_numbers(seeds, resamples)
    _check_names(paths, out)
    loaded = {path.name: rule_run(read_labelled_run(path, own_grader=own_grader)) for path in paths}
    divisions = {
        name: {
            number: folds_of(data.hashes, folds=folds, seed=number, name=name)
            for number in range(seed, seed + seeds)
        }
        for name, data in loaded.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    cache = CellCache(out / _CACHE)
    remove_leftovers(out / _CACHE)
    fitted = [
        (name, data, [rule for rule in chosen if _takes_part(rule, name, data, say)])
        for name, data in loaded.items()
    ]
    results = {}
    cells = sum(len(own) for _, _, own in fitted) * folds * seeds
    with Progress("benchmark", total=cells) as progress:
        for name, data, own in fitted:
            results[name] = _Crossed(
                name=name, data=data, folds=folds, divisions=divisions[name], cache=cache
            ).results(own, progress)
            data.forget()
    rows = [
        _report(name, loaded[name], results[name], out, folds=folds, seed=seed)
        for name in loaded
        if _ROUTER in results[name]
    ]
    for row in rows:
        say(router_line(row))
    if rows:
        write_text_atomically(out / "benchmark.csv", csv_text(rows))
    belongs = {name: data.run.manifest.dataset for name, data in loaded.items()}
    belongs |= {name: data_set for name, data_set in (data_sets or {}).items() if name in loaded}
    entries, behind = _compare(loaded, results, belongs, out, seed=seed, resamples=resamples)
    label_rows = []
    if labels:
        starts = opened if init is None else [CheckpointStart(Router.load(init))]
        label_rows = write_label_curves(
            loaded,
            {
                name: _label_points(name, data, config or TrainConfig(), starts, labels, say)
                for name, data in loaded.items()
            },
            out,
            cache=cache,
            protocol=Protocol(
                folds=folds, seeds=range(seed, seed + seeds), seed=seed, resamples=resamples
            ),
            data_sets=belongs,
        )
    write_benchmark_page(
        out,
        manifests={name: data.run.manifest for name, data in loaded.items()},
        questions={name: data.n for name, data in loaded.items()},
        data_sets=belongs,
        protocol=f"{folds}-fold cross-validation by question, {_told(seed, seeds)}; intervals from "
        f"{resamples:,} resamples of the questions",
        entries=entries,
        behind=behind,
        labels=label_rows,
    )
    return rows


def _told(seed: int, seeds: int) -> str:
    return f"seed {seed}" if seeds == 1 else f"means over seeds {seed} to {seed + seeds - 1}"


def _label_points(
    name: str,
    data: RuleRun,
    config: TrainConfig,
    starts: Sequence[Start],
    labels: Sequence[int],
    say: Callable[[str], None],
) -> list[LabelPoint]:
    """Points of a run's curves; the curve that starts from another router where it can be had."""
    started = OurRule(config=config, starts=starts, name=STARTED)
    return label_points(config, starts if _takes_part(started, name, data, say) else (), labels)


def _pool(path: Path, own_grader: str | None) -> Pool:
    run = read_labelled_run(path, own_grader=own_grader)
    return Pool(run, content_hash=content_hash(run))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Crossed:
    """A run with its folds."""

    name: str
    data: RuleRun
    folds: int
    divisions: Mapping[int, Positions]
    cache: CellCache

    def results(self, rules: Sequence[Rule], progress: Progress) -> dict[str, RuleResult]:
        """Have every cell of the run, rule by rule, the vote first."""
        parts: dict[str, dict[int, list[Part]]] = {}
        for rule in rules:
            parts[rule.name] = {
                seed: [
                    self._part(rule, seed, fold, parts.get(_VOTE), progress)
                    for fold in range(self.folds)
                ]
                for seed in self.divisions
            }
        return {
            name: rule_result(self.data, own, is_vote=name == _VOTE) for name, own in parts.items()
        }

    def _part(
        self,
        rule: Rule,
        seed: int,
        fold: int,
        votes: Mapping[int, Sequence[Part]] | None,
        progress: Progress,
    ) -> Part:
        division = self.divisions[seed]
        train, test = np.flatnonzero(division != fold), np.flatnonzero(division == fold)
        cell = self.cache.cell(rule, self.data, division, folds=self.folds, fold=fold, seed=seed)
        progress.advance(note=f"{self.name}, seed {seed}, fold {fold + 1}, {rule.name}")
        vote = votes[seed][fold].cell if votes is not None else cell
        return Part(train=train, test=test, cell=cell, vote=vote)


def _takes_part(rule: Rule, name: str, data: RuleRun, say: Callable[[str], None]) -> bool:
    reason = rule.absent(data)
    if reason is not None:
        say(f"{name}: without {rule.name}: {reason}")
    return reason is None


def _report(
    name: str,
    data: RuleRun,
    results: Mapping[str, RuleResult],
    out: Path,
    *,
    folds: int,
    seed: int,
) -> dict[str, Any]:
    protocol = f"{folds}-fold cross-validation by question, seed {seed}"
    scores = results[_ROUTER].scores[0]
    return write_router_report(data, scores, out / name, protocol=protocol, seed=seed)


def _compare(
    loaded: Mapping[str, RuleRun],
    results: Mapping[str, Mapping[str, RuleResult]],
    data_sets: Mapping[str, str],
    out: Path,
    *,
    seed: int,
    resamples: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write tables and plots of all rules.

    Returns:
        The entries of ``rules.json``, and the rows of ``behind_first.csv``.
    """
    hashes = {name: data.hashes for name, data in loaded.items()}
    weights = question_weights(hashes, seed=seed, resamples=resamples)
    measured, details = [], {}
    plots = out / _PLOTS
    plots.mkdir(exist_ok=True)
    with Progress("figures and intervals", total=sum(map(len, results.values()))) as progress:
        for name, data in loaded.items():
            for rule, result in results[name].items():
                measured.append(
                    Measured(
                        run=name,
                        rule=rule,
                        figures=rule_figures(data, result, weights[name]),
                        relative=relative_curve(result, weights[name]),
                    )
                )
                details[name, rule] = {
                    "questions": data.n,
                    "fell_back": result.fell_back,
                    "seconds": result.seconds,
                }
                progress.advance(note=f"{name}, {rule}")
            manifest = data.run.manifest
            title = f"{name}: {len(manifest.members)} members, oracle {manifest.oracle}"
            write_run_plot(run_curves(data, results[name]), title, plots / name)
    scopes = scopes_of(measured, data_sets)
    write_suite_plot(scopes[0].pool, plots)
    return write_tables(scopes, details, out), write_behind_first(scopes, out)


def _check_numbers(seeds: int, resamples: int) -> None:
    if seeds < 1 or resamples < 0:
        raise ConfigError(
            f"expected 1 seed or more and 0 resamples or more, found {seeds} and {resamples}"
        )


def _check_names(paths: Sequence[Path], out: Path) -> None:
    names = Counter(path.name for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"expected runs of different names, one report folder each; found {', '.join(twice)} "
            "more than once; rename a run folder"
        )
    if own := sorted({_CACHE, _PLOTS, "suite_pareto", "report.html"} & set(names)):
        raise ConfigError(f"the benchmark uses the name {own[0]} itself; rename that run folder")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder for the benchmark, found a file")
    for name in names:
        check_report_folder(out / name)
