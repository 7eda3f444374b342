"""The numbers behind the plots, as JSON-ready mappings: what is drawn is also written down."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
from pyramid_moa.training.paths import path_rows
from pyramid_moa.training.point_results import PointResult
from pyramid_moa.training.wilson import wilson_interval

if TYPE_CHECKING:
    from pyramid_moa.training.stepwise_points import StepDial

__all__ = ["difficulty_data", "pareto_data", "paths_data", "plots_data", "reliability_data"]

_AXES = {
    "cost_ratio": "cost relative to asking the oracle every time (USD, all-in)",
    "cost_ratio_flops": "compute relative to asking the oracle every time (FLOPs, all-in)",
    "escalation_rate": "share of queries that go to the oracle",
}
_BAND_POINTS = 60
_HISTOGRAM_BINS = 20


def plots_data(
    outcomes: Outcomes,
    *,
    seed: int = 0,
    resamples: int = 1000,
    points: Sequence[PointResult] = (),
    dial: "StepDial | None" = None,
) -> dict[str, dict[str, object]]:
    """Gather the data of every plot, by the plot's name; see ``pareto_data``."""
    return {
        "pareto": pareto_data(outcomes, seed=seed, resamples=resamples, points=points, dial=dial),
        "paths": paths_data(outcomes),
        "reliability": reliability_data(outcomes),
        "difficulty": difficulty_data(outcomes),
    }


def pareto_data(
    outcomes: Outcomes,
    *,
    seed: int = 0,
    resamples: int = 1000,
    points: Sequence[PointResult] = (),
    dial: "StepDial | None" = None,
) -> dict[str, object]:
    """Accuracy against cost: models, rules, and the curves of either policy with their bands.

    Costs are in USD; in FLOPs where prices are unknown or zero; and where these are unknown too,
    the share of oracle calls stands in.

    Args:
        outcomes: the evaluated queries.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        points: what the checkpoint's operating points did with the same queries.
        dial: what every setting of the sequential policy came to on them, where there is one.

    Returns:
        ``axis`` (what x is), ``label``, ``price_note``, ``points`` (kind, name, x, accuracy),
        ``router``, ``band``, ``sequential``, ``sequential_band``, ``operating_points``,
        ``hindsight`` and ``random``. Settings step by step come in the order of their cost, not
        always that of their thresholds. Bands are pointwise 95 % bootstrap intervals of the
        accuracy: ``band`` at fixed shares of oracle calls, ``sequential_band`` at fixed settings.
    """
    curve = router_curve(outcomes)
    axis = next(name for name in _AXES if not np.isnan(getattr(curve, name)).any())
    helpful = hindsight_escalates(outcomes)

    def point(kind: str, name: str, x: float, correct: BoolArray) -> dict[str, object]:
        return {"kind": kind, "name": name, "x": x, "accuracy": float(np.mean(correct))}

    x_of = _x_of_calls(outcomes, axis)
    every = np.ones(outcomes.n, dtype=np.bool_)
    marks = [
        point("member", name, x_of(every, (k,), ~every), outcomes.member_correct[:, k])
        for k, name in enumerate(outcomes.members)
    ]
    if outcomes.mid_correct is not None:
        marks += [
            point("mid_oracle", name, _mid_x(outcomes, axis, k), outcomes.mid_correct[:, k])
            for k, name in enumerate(outcomes.mid_oracles)
        ]
    everyone = tuple(range(len(outcomes.members)))
    marks += [
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
    marks += [
        {"kind": "vote_rule", "name": f"{theta:.3g}", "x": float(x), "accuracy": float(accuracy)}
        for theta, x, accuracy in zip(
            votes.thresholds, getattr(votes, axis), votes.accuracy, strict=True
        )
    ]
    return {
        "axis": axis,
        "label": _AXES[axis],
        "price_note": outcomes.price_note if axis == "cost_ratio" else "",
        "points": marks,
        "router": _line(curve, axis),
        "band": _band(outcomes, curve, axis, seed=seed, resamples=resamples),
        "sequential": _dial_line(dial, axis),
        "sequential_band": _dial_band(dial, axis, seed=seed, resamples=resamples),
        "operating_points": [
            {
                "name": result.point.name,
                "policy": result.point.policy,
                "evaluated": result.point.name == outcomes.operating_point,
                "x": _operating_x(result.outcomes, axis),
                "accuracy": float(np.mean(result.outcomes.final_correct)),
            }
            for result in points
        ],
        "hindsight": _line(hindsight_curve(outcomes), axis),
        "random": _line(random_curve(outcomes), axis),
    }


def paths_data(outcomes: Outcomes) -> dict[str, object]:
    """Which ways through the pyramid were taken.

    Returns:
        ``models``: names of those that were asked, in the pyramid's order; ``paths``: as
        `pyramid_moa.training.paths.path_rows` gives them, None where a figure is unknown.
    """
    asked = {name for called in outcomes.models_called for name in called}
    models = (*outcomes.members, *outcomes.mid_oracles, outcomes.oracle)
    return {
        "models": [name for name in models if name in asked],
        "paths": [
            {
                name: None if isinstance(value, float) and np.isnan(value) else value
                for name, value in row.items()
            }
            for row in path_rows(outcomes)
        ],
    }


def reliability_data(outcomes: Outcomes) -> dict[str, object]:
    """Predicted against observed shares in the bins of the calibration error.

    Returns:
        Of the ensemble's failures ``bins``: mean probability, observed share with its 95 % Wilson
        interval, and number of queries; and ``histogram``: number of queries in each of 20 equal
        steps of the probability. ``oracle``: both for its being right, None where nobody says.
    """
    stated = not np.isnan(outcomes.p_oracle_right).any()
    return {
        **_reliability(outcomes.p_ensemble_fails, ~outcomes.ensemble_correct),
        "oracle": _reliability(outcomes.p_oracle_right, outcomes.oracle_correct)
        if stated
        else None,
    }


def _reliability(probabilities: FloatArray, happened: BoolArray) -> dict[str, object]:
    bin_of = equal_mass_bins(probabilities)
    bins = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        count, hits = int(np.sum(inside)), int(np.sum(happened[inside]))
        low, high = wilson_interval(hits, count)
        bins.append(
            {
                "probability": float(np.mean(probabilities[inside])),
                "observed": hits / count,
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


def _mid_x(outcomes: Outcomes, axis: str, place: int) -> float:
    """Where a mid oracle alone lies."""
    assert outcomes.mid_cost_usd is not None
    assert outcomes.mid_flops is not None
    if axis == "escalation_rate":
        return 0.0
    if axis == "cost_ratio":
        spent, alone = outcomes.mid_cost_usd[:, place], outcomes.oracle_cost_usd
    else:
        spent, alone = outcomes.mid_flops[:, place], outcomes.oracle_flops
    return float(cost_ratio(float(np.sum(spent)), float(np.sum(alone))))


def _dial_x(dial: "StepDial | None", axis: str) -> tuple["StepDial", FloatArray] | None:
    """The dial with each setting's place on the axis; None where it has none there."""
    if dial is None or axis == "cost_ratio_flops":
        return None
    xs = dial.cost_ratio if axis == "cost_ratio" else dial.escalated.mean(axis=1)
    return (dial, xs) if np.isfinite(xs).all() else None


def _dial_line(dial: "StepDial | None", axis: str) -> list[dict[str, float]]:
    placed = _dial_x(dial, axis)
    if placed is None:
        return []
    known, xs = placed
    accuracy = known.accuracy
    return [
        {
            "threshold": float(known.settings[place]),
            "x": float(xs[place]),
            "accuracy": float(accuracy[place]),
        }
        for place in np.argsort(xs, kind="stable")
    ]


def _dial_band(
    dial: "StepDial | None", axis: str, *, seed: int, resamples: int
) -> list[dict[str, float]]:
    """95 % of the resampled accuracies at every setting, drawn where the setting's cost lies."""
    placed = _dial_x(dial, axis)
    if placed is None:
        return []
    known, xs = placed
    n = known.correct.shape[1]
    right = known.correct.T.astype(np.float64)
    drawn = bootstrap(
        lambda weights: {"accuracy": weights @ right / n}, n, seed=seed, resamples=resamples
    )
    if not drawn:
        return []
    low, high = np.percentile(drawn["accuracy"], [2.5, 97.5], axis=0)
    return [
        {"x": float(xs[place]), "low": float(low[place]), "high": float(high[place])}
        for place in np.argsort(xs, kind="stable")
    ]


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
