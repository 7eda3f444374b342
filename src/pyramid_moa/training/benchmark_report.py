"""The router's report of a run in a benchmark, and its row of benchmark.csv."""

from pathlib import Path
from typing import Any

from pyramid_moa.router_model.policy import OperatingPoint, Scores
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.head_to_head_results import SeedScores
from pyramid_moa.training.operating_points import threshold_table
from pyramid_moa.training.replay import replay
from pyramid_moa.training.report import write_report

__all__ = ["router_line", "write_router_report"]

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


def write_router_report(
    data: RuleRun, scores: SeedScores, out: Path, *, protocol: str, seed: int
) -> dict[str, Any]:
    """Write the report folder of the router's out-of-fold scores.

    Args:
        data: the run.
        scores: of one seed.
        out: the report folder; its name is the run's.
        protocol: how the scores came about, in words.
        seed: of the bootstrap.

    Returns:
        The run's row of benchmark.csv.
    """
    run = data.run
    columns = (scores.p_own_fails.tolist(), scores.p_fail.tolist(), scores.own.tolist())
    own = [
        Scores(
            p_ensemble_fails=p_own,
            p_oracle_right=None,
            p_vote_fails=p_vote,
            choice=column if column < data.members else None,
        )
        for p_own, p_vote, column in zip(*columns, strict=True)
    ]
    everything = list(range(data.n))
    undecided = OperatingPoint(name="none", threshold=1.0, target="")
    table = threshold_table(replay(run, everything, own, undecided), split="all")
    # No label has a part in this threshold: it only fixes how often the oracle is asked.
    point = table.at_escalation_rate(
        table.vote_escalation_rate,
        name="vote-cost",
        target="asks the oracle as often as the vote rule (all agree) does",
    )
    metrics = write_report(
        replay(run, everything, own, point),
        out,
        seed=seed,
        extra={
            "data set": run.manifest.dataset,
            "protocol": protocol,
            "pyramid": f"{', '.join(run.manifest.members)} -> {run.manifest.oracle}",
        },
    )
    return _row(out.name, metrics)


def router_line(row: dict[str, Any]) -> str:
    """Say a row of benchmark.csv in one line."""

    def shown(key: str) -> str:
        value = row[key]
        return "unknown" if value is None else f"{value:.3f}"

    return (
        f"{row['run']}: {row['n']} queries, failure AUROC {shown('failure_auroc')} against "
        f"agreement's {shown('agreement_auroc')} (difference "
        f"{shown('failure_auroc_minus_agreement')}, 95 % interval {shown('interval_low')} to "
        f"{shown('interval_high')})"
    )


def _row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    low, high = metrics["intervals"].get(
        "differences.vote_failure_auroc_minus_agreement_auroc"
    ) or (
        None,
        None,
    )
    # Of the same answers: the majority's.
    router, agreement = metrics["vote_failure_auroc"], metrics["agreement_auroc"]
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
