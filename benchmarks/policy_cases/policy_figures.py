"""Figures of policies, per pyramid and pooled, with paired intervals over the questions.

Legend: b resamples, the first of which is the sample itself, K settings, n queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from policy_cases.policies import Dial

from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.bootstrap import percentile_interval
from pyramid_moa.training.head_to_head_curves import cost_to_reach, interpolated, smoothed

__all__ = [
    "ABC_FORMS",
    "RELATIVE",
    "Figure",
    "pooled",
    "pooled_relative",
    "pyramid_figures",
    "relative_costs",
    "row_of",
]

Floats = NDArray[np.float64]

ABC_FORMS = ("abc", "abc-sequential", "abc-three-tiers")
# What an operating point may be chosen among.
_CHOSEN_AMONG = {
    "parallel": ("parallel",),
    "sequential": ("sequential",),
    "either policy": ("parallel", "gain", "sequential"),
}
_LEVELS = 10
RELATIVE = np.linspace(0.05, 1.6, 63)
# A threshold stands beside a value of computation at these shares of the oracle's cost.
_SHARES = (0.5, 0.7, 0.9)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its 95 % interval.

    Attributes:
        value: None where it is undefined.
        low: of the interval.
        high: of the interval.
        pyramids: over how many it is a mean.
    """

    value: float | None
    low: float | None
    high: float | None
    pyramids: int


def pyramid_figures(data: RuleRun, dials: Mapping[str, Dial], weights: Floats) -> dict[str, Floats]:
    """All figures of one pyramid.

    Args:
        data: the run.
        dials: by policy.
        weights: of its queries, [b, n].

    Returns:
        By name [b]; nan where a figure is undefined.
    """
    curves = {name: _curve(data, dial, weights) for name, dial in dials.items()}
    figures = {
        "sequential cost over parallel's at the same accuracy": _same_accuracy(
            curves["sequential"], curves["parallel"]
        ),
        "oracle accuracy": curves["oracle"][1][:, 0],
    }
    for share in _SHARES:
        at = np.full((len(weights), 1), share)
        reads = [interpolated(*curves[name], at)[:, 0] for name in ("gain", "parallel")]
        figures[f"gain less parallel: accuracy at cost {share}"] = reads[0] - reads[1]
    for form in ABC_FORMS:
        cost, accuracy = curves[form][0][:, 0], curves[form][1][:, 0]
        figures[f"{form}: accuracy"], figures[f"{form}: cost"] = accuracy, cost
        for name in ("sequential", "parallel"):
            reached = cost_to_reach(*curves[name], accuracy)
            # Where its accuracy is never reached the whole dial is spent, and in vain.
            reached = np.where(np.isnan(reached), curves[name][0].max(axis=1), reached) / cost
            figures[f"{name} cost over {form}'s at its accuracy"] = reached
        for name, policies in _CHOSEN_AMONG.items():
            chosen = _chosen(data, [dials[own] for own in policies], dials[form], weights)
            figures[f"{name} chosen for {form}: cost over its"] = chosen[1]
            figures[f"{name} chosen for {form}: accuracy less its"] = chosen[0]
    best, less_oracle = _most_accurate(data, dials, weights), "less the oracle: accuracy"
    figures[f"most accurate setting of either policy {less_oracle}"] = best
    everybody, oracle = dials["everybody"].correct[0], dials["oracle"].correct[0]
    total = weights.sum(axis=1)
    figures[f"everybody asked, oracle outvoted {less_oracle}"] = (
        weights @ (everybody - oracle) / total
    )
    return figures


def relative_costs(
    data: RuleRun, dials: Mapping[str, Dial], weights: Floats, *, policy: str, form: str
) -> Floats:
    """Accuracy less a form of ABC's at costs relative to its own, [b, places]; nan before a curve.

    Args:
        data: the run.
        dials: by policy.
        weights: of its queries.
        policy: whose curve.
        form: of ABC.
    """
    cost, accuracy = _curve(data, dials[policy], weights)
    other_cost, other_accuracy = _curve(data, dials[form], weights)
    places = other_cost * RELATIVE
    return interpolated(cost, smoothed(accuracy), places) - other_accuracy


def pooled(values: Mapping[str, Floats], names: "list[str] | None" = None) -> Figure:
    """Mean over pyramids for which the sample itself has a value.

    Args:
        values: by pyramid [b].
        names: of the pyramids; all where left out.
    """
    own = [values[name] for name in (names or list(values)) if np.isfinite(values[name][0])]
    if not own:
        return Figure(value=None, low=None, high=None, pyramids=0)
    mean = np.nanmean(np.array(own), axis=0)
    low, high = percentile_interval(mean[1:]) or (None, None)
    return Figure(value=float(mean[0]), low=low, high=high, pyramids=len(own))


def pooled_relative(curves: "list[Floats]") -> Figure:
    """Where the mean relative curve reaches ABC's accuracy: cost over ABC's.

    It begins where every pyramid's curve does.
    """
    mean = np.mean(curves, axis=0)
    known = np.isfinite(mean[0])
    shown = np.where(np.isfinite(mean[:, known]), mean[:, known], mean[[0]][:, known])
    at = np.broadcast_to(RELATIVE[known], shown.shape)
    values = cost_to_reach(at, shown, np.zeros(len(shown)))
    low, high = percentile_interval(values[1:]) or (None, None)
    value = float(values[0]) if np.isfinite(values[0]) else None
    return Figure(value=value, low=low, high=high, pyramids=len(curves))


def row_of(scope: str, name: str, figure: Figure) -> dict[str, object]:
    """A line of the table."""
    return {
        "scope": scope,
        "figure": name,
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "pyramids": figure.pyramids,
    }


def _curve(data: RuleRun, dial: Dial, weights: Floats) -> tuple[Floats, Floats]:
    """Cost over the oracle's, and accuracy, along rising cost: [b, K] each."""
    spent = weights @ dial.cost.T / (weights @ data.cost[:, -1])[:, None]
    right = weights @ dial.correct.T / weights.sum(axis=1, keepdims=True)
    order = np.argsort(spent[0], kind="stable")
    return spent[:, order], right[:, order]


def _same_accuracy(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Floats:
    """Mean over levels of accuracy of what one policy costs over what another does, [b].

    The levels lie evenly between what the other has without the oracle and the most that both
    reach, the lowest one, which costs nothing more, left out.
    """
    least = other[1][0, 0]
    most = min(smoothed(one[1])[0, -1], smoothed(other[1])[0, -1])
    ratios = []
    for level in np.linspace(least, most, _LEVELS + 1)[1:]:
        target = np.full(len(one[0]), level)
        ratios.append(cost_to_reach(*one, target) / cost_to_reach(*other, target))
    mean: Floats = np.nanmean(np.array(ratios), axis=0)
    return mean


def _chosen(data: RuleRun, dials: list[Dial], form: Dial, weights: Floats) -> tuple[Floats, Floats]:
    """In every fold the cheapest setting as accurate as ABC on the training queries: [b] each.

    Of all settings of several policies; where none is as accurate, the most accurate one.

    Returns:
        Accuracy less ABC's, cost over ABC's.
    """
    right, spent = np.zeros(data.n), np.zeros(data.n)
    for number, test in enumerate(form.test):
        accuracy = np.concatenate([dial.train_accuracy[number] for dial in dials])
        cost = np.concatenate([dial.train_cost[number] for dial in dials])
        good = np.flatnonzero(accuracy >= form.train_accuracy[number, 0] - 1e-12)
        setting = good[np.argmin(cost[good])] if len(good) else int(np.argmax(accuracy))
        right[test] += np.concatenate([dial.correct_of[number] for dial in dials])[setting]
        spent[test] += np.concatenate([dial.cost_of[number] for dial in dials])[setting]
    seeds = sum(len(test) for test in form.test) / data.n
    right, spent = right / seeds, spent / seeds
    total = weights.sum(axis=1)
    return (
        weights @ (right - form.correct[0]) / total,
        (weights @ spent) / (weights @ form.cost[0]),
    )


def _most_accurate(data: RuleRun, dials: Mapping[str, Dial], weights: Floats) -> Floats:
    """In every fold the setting of whatever policy that is most accurate in training, [b]."""
    right, policies = np.zeros(data.n), ("sequential", "parallel", "gain")
    tests = dials["oracle"].test
    for number, test in enumerate(tests):
        name = max(policies, key=lambda own: dials[own].train_accuracy[number].max())
        setting = int(np.argmax(dials[name].train_accuracy[number]))
        right[test] += dials[name].correct_of[number][setting]
    right /= sum(len(test) for test in tests) / data.n
    return weights @ (right - dials["oracle"].correct[0]) / weights.sum(axis=1)
