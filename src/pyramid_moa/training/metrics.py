"""metrics.json: every figure of an evaluation, with intervals, as plain JSON values."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.training.bootstrap import bootstrap, percentile_interval
from pyramid_moa.training.decision_kinds import kind_masks
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
from pyramid_moa.training.paths import path_rows
from pyramid_moa.training.point_results import PointResult, point_rows

if TYPE_CHECKING:
    from pyramid_moa.training.stepwise_points import StepDial

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
    "sequential_curve": "every setting of the policy that goes step by step; its threshold is the "
    "accuracy that the price of one oracle call has to buy; points on the evaluated queries",
    "operating_points": "every point of the checkpoint, decided on the evaluated queries; drop is "
    "the oracle's accuracy less the point's. A promise held: yes, as measured here; within "
    "sampling error, where the 95 % interval reaches what was promised; no, where it does not",
    "paths": "queries that asked the same models in the same order at the operating point; cost "
    "ratio to the oracle's answers to the same queries",
    "decisions": "how many queries were decided how at the operating point, by the answer that was "
    "held before the oracle was asked",
    "failure_recall": "share of the queries whose answer was wrong before the oracle was asked, or "
    "without it, that asked it; those that asked it first are left out",
    "helpful_share_of_escalations": "share of the escalations that found a wrong answer and a "
    "right oracle; those that asked it first are left out",
    "cost_ratio_at_parity": "smallest cost ratio on the curve where the accuracy reaches the "
    "oracle's; above 1 it is that of members and oracle together",
    "hindsight": "asks every member, and the oracle exactly where the ensemble is wrong and the "
    "oracle right; who goes step by step may pay less",
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
    outcomes: Outcomes,
    *,
    seed: int = 0,
    resamples: int = 1000,
    points: Sequence[PointResult] = (),
    dial: "StepDial | None" = None,
) -> dict[str, object]:
    """Compute what metrics.json holds.

    Args:
        outcomes: the evaluated queries.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0 leaves the intervals out.
        points: what the checkpoint's operating points did with the same queries.
        dial: what every setting of the sequential policy came to on them, where there is one.

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
        "operating_points": point_rows(points, seed=seed, resamples=resamples),
        "sequential_curve": dial.curve() if dial is not None else [],
        "paths": path_rows(outcomes),
        "decisions": {key: int(mask.sum()) for key, mask in kind_masks(outcomes).items()},
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
        operating point takes beyond the oracle alone (negative: it is faster). Where it goes step
        by step, nothing is parallel but what was asked together, mid oracles count as members, and
        the two figures in parallel are None. ``ensemble_sequential_s`` is the sum of all members,
        asked or not.
    """
    names = (
        "ensemble_sequential_s",
        "members_parallel_s",
        "members_sequential_s",
        "oracle_s",
        "added_parallel_s",
        "added_sequential_s",
    )
    oracle = outcomes.oracle_latency_s
    beyond = np.where(outcomes.escalated, 0.0, -oracle)
    everyone = outcomes.member_latency_s.sum(axis=1)
    absent: dict[str, None] = {}
    if outcomes.policy == "sequential":
        before = outcomes.final_latency_s - np.where(outcomes.escalated, oracle, 0.0)
        never = np.zeros(outcomes.n)
        values = (everyone, never, before, oracle, never, before + beyond)
        absent = dict.fromkeys(("members_parallel_s", "added_parallel_s"))
    else:
        times = np.where(outcomes.members_called, outcomes.member_latency_s, 0.0)
        slowest, together = times.max(axis=1), times.sum(axis=1)
        values = (everyone, slowest, together, oracle, slowest + beyond, together + beyond)
    known = ~np.isnan(np.stack(values)).any(axis=0)
    if not known.any():
        return {"n": 0, **dict.fromkeys(names)}
    means = {
        name: float(np.mean(column[known])) for name, column in zip(names, values, strict=True)
    }
    return {"n": int(np.sum(known)), **means, **absent}


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
    mids = {}
    if outcomes.mid_oracles:
        assert outcomes.mid_cost_usd is not None
        assert outcomes.mid_flops is not None
        mid_usd, mid_flops = outcomes.mid_cost_usd.sum(0), outcomes.mid_flops.sum(0)
        mids = {
            name: {
                "accuracy": point[f"mid_oracles.{name}"],
                **costs(float(mid_usd[k]), float(mid_flops[k])),
            }
            for k, name in enumerate(outcomes.mid_oracles)
        }
    return {
        "members": {name: point[f"members.{name}"] for name in outcomes.members},
        "member_costs": {
            name: costs(float(member_usd[k]), float(member_flops[k]))
            for k, name in enumerate(outcomes.members)
        },
        "mid_oracles": mids,
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
    helpful = hindsight_escalates(outcomes)
    held = ~outcomes.asked_nobody_before
    failed = held & ~outcomes.held_correct
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
            "policy": outcomes.policy,
            "rule": outcomes.rule,
            "threshold": outcomes.threshold,
            **_under("operating_point.", point),
            "cost_usd": float(np.sum(outcomes.final_cost_usd)),
            "flops": float(np.sum(outcomes.final_flops)),
            "members_called_mean": float(np.mean(outcomes.members_called.sum(axis=1))),
            "failure_recall": _share(outcomes.escalated, failed),
            "helpful_share_of_escalations": _share(
                failed & outcomes.oracle_correct, held & outcomes.escalated
            ),
        },
    }


def _curves(outcomes: Outcomes, parity: float) -> dict[str, object]:
    """The router's curve, thinned, and what is read off the full one."""
    curve = router_curve(outcomes)
    kept = []
    if outcomes.policy == "parallel" and outcomes.rule == "failure":
        kept.append(int(np.argmin(np.abs(curve.thresholds - outcomes.threshold))))
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
