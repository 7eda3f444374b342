"""The numbers behind the plots, as JSON-ready mappings: what is drawn is also written down."""

from collections.abc import Callable

import numpy as np

from pyramid_moa.training.bootstrap import bootstrap
from pyramid_moa.training.deferral import (
    DeferralCurve,
    cost_ratio,
    hindsight_curve,
    hindsight_escalates,
    random_curve,
    router_curve,
    thinned,
    vote_curve,
)
from pyramid_moa.training.failure_scores import equal_mass_bins
from pyramid_moa.training.outcomes import BoolArray, FloatArray, Outcomes

__all__ = ["difficulty_data", "pareto_data", "plots_data", "reliability_data", "wilson_interval"]

_AXES = {
    "cost_ratio": "cost relative to asking the oracle every time (USD, all-in)",
    "cost_ratio_flops": "compute relative to asking the oracle every time (FLOPs, all-in)",
    "escalation_rate": "share of queries that go to the oracle",
}
_BAND_POINTS = 60
_HISTOGRAM_BINS = 20


def plots_data(
    outcomes: Outcomes, *, seed: int = 0, resamples: int = 1000
) -> dict[str, dict[str, object]]:
    """Gather the data of every plot, by the plot's name."""
    return {
        "pareto": pareto_data(outcomes, seed=seed, resamples=resamples),
        "reliability": reliability_data(outcomes),
        "difficulty": difficulty_data(outcomes),
    }


def pareto_data(outcomes: Outcomes, *, seed: int = 0, resamples: int = 1000) -> dict[str, object]:
    """Accuracy against cost: models, rules, curves and the bootstrap band of the router's curve.

    Costs are in USD; in FLOPs where prices are unknown or zero; and where these are unknown too,
    the share of oracle calls stands in.

    Args:
        outcomes: the evaluated queries.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        ``axis`` (what x is), ``label``, ``price_note``, ``points`` (kind, name, x, accuracy),
        ``router``, ``band``, ``hindsight`` and ``random``.
    """
    curve = router_curve(outcomes)
    axis = next(name for name in _AXES if not np.isnan(getattr(curve, name)).any())
    helpful = hindsight_escalates(outcomes)

    def point(kind: str, name: str, x: float, correct: BoolArray) -> dict[str, object]:
        return {"kind": kind, "name": name, "x": x, "accuracy": float(np.mean(correct))}

    x_of = _x_of_calls(outcomes, axis)
    every = np.ones(outcomes.n, dtype=np.bool_)
    points = [
        point("member", name, x_of(every, (k,), ~every), outcomes.member_correct[:, k])
        for k, name in enumerate(outcomes.members)
    ]
    everyone = tuple(range(len(outcomes.members)))
    points += [
        point("ensemble", "ensemble", x_of(every, everyone, ~every), outcomes.ensemble_correct),
        point("oracle", outcomes.oracle, x_of(~every, (), every), outcomes.oracle_correct),
        point(
            "hindsight",
            "hindsight",
            x_of(every, everyone, helpful),
            outcomes.ensemble_correct | outcomes.oracle_correct,
        ),
        point(
            "operating_point",
            outcomes.operating_point,
            _operating_x(outcomes, axis),
            outcomes.final_correct,
        ),
    ]
    votes = vote_curve(outcomes)
    points += [
        {"kind": "vote_rule", "name": f"{theta:.3g}", "x": float(x), "accuracy": float(accuracy)}
        for theta, x, accuracy in zip(
            votes.thresholds, getattr(votes, axis), votes.accuracy, strict=True
        )
    ]
    return {
        "axis": axis,
        "label": _AXES[axis],
        "price_note": outcomes.price_note if axis == "cost_ratio" else "",
        "points": points,
        "router": _line(curve, axis),
        "band": _band(outcomes, curve, axis, seed=seed, resamples=resamples),
        "hindsight": _line(hindsight_curve(outcomes), axis),
        "random": _line(random_curve(outcomes), axis),
    }


def reliability_data(outcomes: Outcomes) -> dict[str, object]:
    """Predicted against observed failures in the bins of the calibration error.

    Returns:
        ``bins``: mean probability, observed share with its 95 % Wilson interval, and number of
        queries; ``histogram``: number of queries in each of 20 equal steps of the probability.
    """
    probabilities, failed = outcomes.p_ensemble_fails, ~outcomes.ensemble_correct
    bin_of = equal_mass_bins(probabilities)
    bins = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        count, failures = int(np.sum(inside)), int(np.sum(failed[inside]))
        low, high = wilson_interval(failures, count)
        bins.append(
            {
                "probability": float(np.mean(probabilities[inside])),
                "observed": failures / count,
                "low": low,
                "high": high,
                "n": count,
            }
        )
    edges = np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(probabilities, bins=edges)
    histogram = [
        {"from": float(low), "to": float(high), "n": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return {"bins": bins, "histogram": histogram}


def difficulty_data(outcomes: Outcomes) -> dict[str, object]:
    """Who is escalated: by how many members are right, and by how many stand behind the vote.

    Returns:
        ``by_members_right`` and ``by_votes``: for each group that occurs its number of queries,
        the share escalated, and the accuracy before (ensemble) and after (final answers).
    """
    members = len(outcomes.members)
    right = outcomes.member_correct.sum(axis=1)
    behind = np.rint(outcomes.vote_share * members).astype(np.int64)
    return {
        "members": members,
        "by_members_right": _groups(outcomes, right),
        "by_votes": _groups(outcomes, behind),
    }


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share, spread = hits / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / n + spread / (4 * n)))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _groups(outcomes: Outcomes, group_of: np.ndarray) -> list[dict[str, float]]:
    groups = []
    for group in np.unique(group_of)[::-1]:
        inside = group_of == group
        groups.append(
            {
                "group": int(group),
                "n": int(np.sum(inside)),
                "escalated": float(np.mean(outcomes.escalated[inside])),
                "accuracy_before": float(np.mean(outcomes.ensemble_correct[inside])),
                "accuracy_after": float(np.mean(outcomes.final_correct[inside])),
            }
        )
    return groups


def _x_of_calls(
    outcomes: Outcomes, axis: str
) -> Callable[[BoolArray, tuple[int, ...], BoolArray], float]:
    """Place on the axis what asks some members, where they are asked, and the oracle."""
    if axis == "escalation_rate":
        return lambda _asked, _members, escalated: float(np.mean(escalated))
    usd = axis == "cost_ratio"
    member = outcomes.member_cost_usd if usd else outcomes.member_flops
    oracle = outcomes.oracle_cost_usd if usd else outcomes.oracle_flops

    def x(asked: BoolArray, members: tuple[int, ...], escalated: BoolArray) -> float:
        spent = np.sum(member[asked][:, list(members)]) + np.sum(oracle[escalated])
        return float(cost_ratio(float(spent), float(np.sum(oracle))))

    return x


def _operating_x(outcomes: Outcomes, axis: str) -> float:
    if axis == "escalation_rate":
        return float(np.mean(outcomes.escalated))
    if axis == "cost_ratio":
        spent, alone = np.sum(outcomes.final_cost_usd), np.sum(outcomes.oracle_cost_usd)
    else:
        spent, alone = np.sum(outcomes.final_flops), np.sum(outcomes.oracle_flops)
    return float(cost_ratio(float(spent), float(alone)))


def _line(curve: DeferralCurve, axis: str) -> list[dict[str, float]]:
    xs = getattr(curve, axis)
    return [{"x": float(xs[i]), "accuracy": float(curve.accuracy[i])} for i in thinned(curve)]


def _band(
    outcomes: Outcomes, curve: DeferralCurve, axis: str, *, seed: int, resamples: int
) -> list[dict[str, float]]:
    """95 % of the resampled curves at fixed shares of oracle calls."""
    order = np.argsort(-outcomes.p_ensemble_fails, kind="stable")
    gain = outcomes.oracle_correct[order].astype(np.float64) - outcomes.ensemble_correct[order]
    shares = np.linspace(0.0, 1.0, min(_BAND_POINTS, outcomes.n + 1))

    def accuracies(weights: FloatArray) -> dict[str, FloatArray]:
        drawn = weights[:, order]
        calls = np.pad(np.cumsum(drawn, axis=1), ((0, 0), (1, 0))) / outcomes.n
        gained = np.pad(np.cumsum(drawn * gain, axis=1), ((0, 0), (1, 0))) / outcomes.n
        start = weights @ outcomes.ensemble_correct / outcomes.n
        rows = [np.interp(shares, x, y) for x, y in zip(calls, gained, strict=True)]
        return {"accuracy": np.array(rows) + start[:, None]}

    drawn = bootstrap(accuracies, outcomes.n, seed=seed, resamples=resamples)
    if not drawn:
        return []
    low, high = np.percentile(drawn["accuracy"], [2.5, 97.5], axis=0)
    xs = np.interp(shares, curve.escalation_rate, getattr(curve, axis))
    return [
        {"x": float(x), "low": float(a), "high": float(b)}
        for x, a, b in zip(xs, low, high, strict=True)
    ]
