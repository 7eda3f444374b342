"""metrics.json: every figure of an evaluation, with intervals, as plain JSON values."""

import math
from collections.abc import Mapping

import numpy as np

from pyramid_moa.training.bootstrap import bootstrap, percentile_interval
from pyramid_moa.training.deferral import (
    area_under_hull,
    cost_ratio,
    hindsight_escalates,
    router_curve,
    thinned,
    vote_curve,
)
from pyramid_moa.training.failure_scores import ECE_BINS
from pyramid_moa.training.headline import HeadlineFigures
from pyramid_moa.training.outcomes import FloatArray, Outcomes

__all__ = [
    "METRICS_FORMAT",
    "calls_needed",
    "compute_metrics",
    "json_ready",
    "latencies",
]

METRICS_FORMAT = "pyramid-moa metrics 1"

_CPT_SHARES = (0.2, 0.5, 0.8)

DEFINITIONS = {
    "cost": "USD for all n queries; all-in: every member call counts, and the oracle's",
    "cost_ratio": "all-in cost over the cost of asking the oracle for every query",
    "curve": "the oracle is asked where p_ensemble_fails > threshold; threshold -1 asks it always; "
    "every member is asked; points on the evaluated queries, so choosing a threshold from them "
    "is hindsight",
    "cost_ratio_at_parity": "smallest cost ratio on the curve where the accuracy reaches the "
    "oracle's; above 1 it is that of members and oracle together",
    "hindsight": "asks the oracle exactly where the ensemble is wrong and the oracle right",
    "vote_rule": "asks the oracle unless all members agree on an answer (theta 1)",
    "router_at_vote_cost": "the router's ranking with exactly as many oracle calls as the vote "
    "rule makes; ties in the order of the queries",
    "router_at_vote_accuracy": "first point of the router's curve that reaches the accuracy of "
    "the vote rule",
    "failure_auroc": "label: the ensemble's answer is wrong; score: p_ensemble_fails",
    "vote_failure_auroc": "label: the majority vote is wrong; score: p_vote_fails",
    "agreement_auroc": "label: the majority vote is wrong; score: 1 - vote share",
    "ece": f"expected calibration error of p_ensemble_fails, {ECE_BINS} bins of equal mass "
    "(ties share a bin); biased upwards, more so on resamples",
    "brier": "mean squared error of p_ensemble_fails",
    "apgr": "average performance gap recovered: area under accuracy over the share of oracle "
    "calls, 0 for the ensemble alone and 1 for the oracle (RouteLLM)",
    "pgr": "performance gap recovered at the operating point (RouteLLM)",
    "cpt": "share of oracle calls on the curve that recovers 20, 50, 80 % of the gap (RouteLLM)",
    "aiq": "mean accuracy over budgets from members alone to members and oracle, on the curve's "
    "non-decreasing convex hull (RouterBench)",
    "headroom_captured": "(operating point - best single model) / (hindsight - best single model)",
    "flops": "2 x active parameters x tokens",
    "intervals": "95 % percentile bootstrap over questions; differences are paired",
}


def compute_metrics(
    outcomes: Outcomes, *, seed: int = 0, resamples: int = 1000
) -> dict[str, object]:
    """Compute what metrics.json holds.

    Args:
        outcomes: the evaluated queries.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0 leaves the intervals out.

    Returns:
        JSON-ready values; None where a figure is undefined (one class only, prices of zero,
        unknown counts). ``definitions`` says what each figure is.
    """
    figures = HeadlineFigures(outcomes=outcomes)
    point = {name: float(v[0]) for name, v in figures(np.ones((1, outcomes.n))).items()}
    resampled = bootstrap(figures, outcomes.n, seed=seed, resamples=resamples)
    metrics: dict[str, object] = {
        "format": METRICS_FORMAT,
        "n": outcomes.n,
        "reference": outcomes.reference,
        "price_note": outcomes.price_note,
        "tokens_estimated": outcomes.tokens_estimated,
        "failed_generations": outcomes.failed_generations,
        "cost_ratio_missing": _why_no_cost_ratio(outcomes),
        **_models(outcomes, point),
        **_rules(outcomes, point),
        **{
            name: point[name]
            for name in (
                "failure_auroc",
                "vote_failure_auroc",
                "agreement_auroc",
                "failure_average_precision",
                "ece",
                "brier",
                "cost_ratio_at_parity",
                "apgr",
                "pgr",
                "headroom_captured",
            )
        },
        **_curves(outcomes, point["cost_ratio_at_parity"]),
        "latency": latencies(outcomes),
        "differences": _under("differences.", point),
        "intervals": {name: percentile_interval(values) for name, values in resampled.items()},
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95},
        "definitions": DEFINITIONS,
    }
    ready = json_ready(metrics)
    assert isinstance(ready, dict)
    return ready


def json_ready(value: object) -> object:
    """Turn arrays, NumPy scalars, tuples and nan into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def calls_needed(escalation_rate: FloatArray, accuracy: FloatArray, share: float) -> float | None:
    """Share of oracle calls that recovers a share of the gap (CPT, RouteLLM).

    Args:
        escalation_rate: of a curve from no escalation to all, rising, float [k].
        accuracy: float [k].
        share: of the gap between the curve's first and last point.

    Returns:
        The rate at the first point that reaches it; None where there is no gap.
    """
    weak, strong = accuracy[0], accuracy[-1]
    if strong <= weak:
        return None
    reached = accuracy >= weak + share * (strong - weak) - 1e-9
    return float(escalation_rate[np.argmax(reached)])


def latencies(outcomes: Outcomes) -> dict[str, object]:
    """Mean seconds a query, over the queries whose times are all known.

    Returns:
        ``n`` of those queries; ``members_parallel_s`` (the slowest member) and
        ``members_sequential_s`` (their sum) of the members asked at the operating point;
        ``oracle_s``; and ``added_parallel_s``, ``added_sequential_s``: what the pyramid at its
        operating point takes beyond the oracle alone (negative: it is faster).
    """
    called = outcomes.members_called
    times = np.where(called, outcomes.member_latency_s, 0.0)
    known = ~np.isnan(times).any(axis=1) & ~np.isnan(outcomes.oracle_latency_s)
    names = (
        "members_parallel_s",
        "members_sequential_s",
        "oracle_s",
        "added_parallel_s",
        "added_sequential_s",
    )
    if not known.any():
        return {"n": 0, **dict.fromkeys(names)}
    parallel, sequential = times[known].max(axis=1), times[known].sum(axis=1)
    oracle = outcomes.oracle_latency_s[known]
    beyond = np.where(outcomes.escalated[known], 0.0, -oracle)
    values = (parallel, sequential, oracle, parallel + beyond, sequential + beyond)
    means = {name: float(np.mean(column)) for name, column in zip(names, values, strict=True)}
    return {"n": int(np.sum(known)), **means}


def _why_no_cost_ratio(outcomes: Outcomes) -> str | None:
    """Why cost ratios in USD are missing, or None where they are not."""
    if np.isnan(outcomes.oracle_cost_usd).any() or np.isnan(outcomes.member_cost_usd).any():
        return "the price of some answers is unknown"
    if np.sum(outcomes.oracle_cost_usd) == 0:
        return "the oracle's answers cost nothing at the given prices"
    return None


def _models(outcomes: Outcomes, point: Mapping[str, float]) -> dict[str, object]:
    """Accuracy and cost of each member, the ensemble and the oracle."""
    n = outcomes.n
    oracle_usd, oracle_flops = np.sum(outcomes.oracle_cost_usd), np.sum(outcomes.oracle_flops)

    def costs(usd: float, flops: float) -> dict[str, object]:
        return {
            "cost": usd,
            "cost_per_query": usd / n,
            "cost_ratio": float(cost_ratio(usd, oracle_usd)),
            "flops": flops,
            "cost_ratio_flops": float(cost_ratio(flops, oracle_flops)),
        }

    member_usd, member_flops = outcomes.member_cost_usd.sum(0), outcomes.member_flops.sum(0)
    return {
        "members": {name: point[f"members.{name}"] for name in outcomes.members},
        "member_costs": {
            name: costs(float(member_usd[k]), float(member_flops[k]))
            for k, name in enumerate(outcomes.members)
        },
        "vote": {"accuracy": point["vote.accuracy"]},
        "ensemble": {
            "accuracy": point["ensemble.accuracy"],
            **costs(float(member_usd.sum()), float(member_flops.sum())),
        },
        "oracle": {
            "name": outcomes.oracle,
            "accuracy": point["oracle.accuracy"],
            **costs(float(oracle_usd), float(oracle_flops)),
        },
    }


def _rules(outcomes: Outcomes, point: Mapping[str, float]) -> dict[str, object]:
    """Hindsight, vote rule and router: accuracy, escalation rate and cost."""
    escalated, failed = outcomes.escalated, ~outcomes.ensemble_correct
    helpful = hindsight_escalates(outcomes)
    return {
        "hindsight": {
            **_under("hindsight.", point),
            "escalation_rate": float(np.mean(helpful)),
        },
        "vote_rule": {"theta": 1.0, **_under("vote_rule.", point)},
        "vote_rules": [
            {("theta" if name == "threshold" else name): value for name, value in row.items()}
            for row in vote_curve(outcomes).points()
        ],
        "router_at_vote_cost": {
            **_under("router_at_vote_cost.", point),
            "escalation_rate": point["vote_rule.escalation_rate"],
        },
        "router_at_vote_accuracy": _under("router_at_vote_accuracy.", point),
        "operating_point": {
            "name": outcomes.operating_point,
            "threshold": outcomes.threshold,
            **_under("operating_point.", point),
            "cost_usd": float(np.sum(outcomes.final_cost_usd)),
            "flops": float(np.sum(outcomes.final_flops)),
            "members_called_mean": float(np.mean(outcomes.members_called.sum(axis=1))),
            "failure_recall": _share(escalated, failed),
            "helpful_share_of_escalations": _share(helpful, escalated),
        },
    }


def _curves(outcomes: Outcomes, parity: float) -> dict[str, object]:
    """The router's curve, thinned, and what is read off the full one."""
    curve = router_curve(outcomes)
    kept = [int(np.argmin(np.abs(curve.thresholds - outcomes.threshold)))]
    if math.isfinite(parity):
        kept.append(int(np.argmin(np.abs(curve.cost_ratio - parity))))
    flops = curve.cost_ratio_flops
    return {
        "curve": curve.points(thinned(curve, kept=kept)),
        "curve_points_in_full": len(curve.accuracy),
        "cost_ratio_flops_at_parity": float(
            flops[np.argmax(curve.accuracy >= curve.accuracy[-1] - 1e-9)]
        ),
        "aiq": area_under_hull(curve.cost_ratio, curve.accuracy),
        "cpt": {
            f"{share:g}": calls_needed(curve.escalation_rate, curve.accuracy, share)
            for share in _CPT_SHARES
        },
    }


def _under(prefix: str, point: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value for name, value in point.items() if name.startswith(prefix)
    }


def _share(true: np.ndarray, among: np.ndarray) -> float | None:
    """Share of the rows in ``among`` that are ``true``; None where there are none."""
    return float(np.mean(true[among])) if np.any(among) else None
