"""The router against the vote rule on whole runs, cross-validated by question."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.cross_validation import cross_validated_scores
from pyramid_moa.training.operating_points import threshold_table
from pyramid_moa.training.replay import replay
from pyramid_moa.training.report import check_report_folder, write_report

__all__ = ["benchmark"]

_COLUMNS = (
    "run",
    "n",
    "ensemble_accuracy",
    "oracle_accuracy",
    "agreement_auroc",
    "failure_auroc",
    "failure_auroc_minus_agreement",
    "interval_low",
    "interval_high",
    "vote_rule_accuracy",
    "vote_rule_cost_ratio",
    "router_accuracy_at_vote_cost",
    "router_cost_ratio_at_vote_accuracy_in_hindsight",
    "hindsight_cost_ratio",
    "ece",
    "brier",
)


def benchmark(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    config: TrainConfig | None = None,
    folds: int = 5,
    seed: int = 0,
    own_grader: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Cross-validate the router on each run and set it beside the vote rule.

    Leaves a report folder for each run and ``benchmark.csv`` with one row a run.

    Args:
        runs: run folders; all their queries are used, whatever their split.
        out: the folder.
        config: how routers are trained; the defaults where it is left out.
        folds: how many.
        seed: of the division into folds and of the bootstrap.
        own_grader: the caller's own ``module:function``, where the runs were graded by it.
        say: shown one line a run.

    Returns:
        The rows of the table.

    Raises:
        ConfigError: two runs have the same name, which would be one report.
        RunFolderError: a run is missing, or can't be learned from.
        DataError: a report's place holds something else.
    """
    out = Path(out)
    paths = [Path(run).resolve() for run in runs]
    _check_names(paths, out)
    rows = []
    for path in paths:
        data = read_labelled_run(path, own_grader=own_grader)
        scores = cross_validated_scores(data, config or TrainConfig(), folds=folds, seed=seed)
        everything = list(range(len(data.queries)))
        undecided = OperatingPoint(name="none", threshold=1.0, target="")
        table = threshold_table(replay(data, everything, scores, undecided), split="all")
        # No label has a part in this threshold: it only fixes how often the oracle is asked.
        point = table.at_escalation_rate(
            table.vote_escalation_rate,
            name="vote-cost",
            target="asks the oracle as often as the vote rule (all agree) does",
        )
        metrics = write_report(
            replay(data, everything, scores, point),
            out / path.name,
            seed=seed,
            extra={
                "data set": data.manifest.dataset,
                "protocol": f"{folds}-fold cross-validation by question, seed {seed}",
                "pyramid": f"{', '.join(data.manifest.members)} -> {data.manifest.oracle}",
            },
        )
        rows.append(_row(path.name, metrics))
        say(_line(rows[-1]))
    write_text_atomically(out / "benchmark.csv", _csv(rows))
    return rows


def _check_names(paths: Sequence[Path], out: Path) -> None:
    names = Counter(path.name for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"expected runs of different names, one report folder each; found {', '.join(twice)} "
            "more than once; rename a run folder"
        )
    for name in names:
        check_report_folder(out / name)


def _row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    low, high = metrics["intervals"].get("differences.failure_auroc_minus_agreement_auroc") or (
        None,
        None,
    )
    router, agreement = metrics["failure_auroc"], metrics["agreement_auroc"]
    values = (
        name,
        metrics["n"],
        metrics["ensemble"]["accuracy"],
        metrics["oracle"]["accuracy"],
        agreement,
        router,
        None if router is None or agreement is None else router - agreement,
        low,
        high,
        metrics["vote_rule"]["accuracy"],
        metrics["vote_rule"]["cost_ratio"],
        metrics["router_at_vote_cost"]["accuracy"],
        metrics["router_at_vote_accuracy"]["cost_ratio"],
        metrics["hindsight"]["cost_ratio"],
        metrics["ece"],
        metrics["brier"],
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _line(row: dict[str, Any]) -> str:
    def shown(key: str) -> str:
        value = row[key]
        return "unknown" if value is None else f"{value:.3f}"

    return (
        f"{row['run']}: {row['n']} queries, failure AUROC {shown('failure_auroc')} against "
        f"agreement's {shown('agreement_auroc')} (difference "
        f"{shown('failure_auroc_minus_agreement')}, 95 % interval {shown('interval_low')} to "
        f"{shown('interval_high')})"
    )


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
