"""Every figure of a rule on a run, as a function of weights of the questions.

Weights of one give the figures, resampled weights their bootstrap; figures of two rules under the
same weights are paired. Legend: b resamples, n queries, K settings, G budgets.
"""

from collections.abc import Mapping

import numpy as np

from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.failure_scores import (
    ECE_BINS,
    auroc,
    average_precision,
    brier_score,
    calibration_error,
    equal_mass_bins,
    rank,
)
from pyramid_moa.training.head_to_head_curves import (
    area_between,
    average_improvement,
    cost_to_reach,
    gap_recovered,
    interpolated,
)
from pyramid_moa.training.head_to_head_results import (
    ABC,
    AT_ABC_ACCURACY,
    AT_ABC_COST,
    BUDGETS,
    MOST_ACCURATE,
    RuleResult,
    SeedScores,
)
from pyramid_moa.training.outcomes import FloatArray

__all__ = [
    "COST_RATIOS",
    "FIGURES",
    "LESS_IS_BETTER",
    "RELATIVE_COSTS",
    "expected_calibration_error",
    "relative_curve",
    "rule_figures",
    "within_folds",
]

COST_RATIOS = (0.2, 0.4, 0.6, 0.8)
"""All-in costs, over that of asking the oracle every time, at which accuracies are read."""

RELATIVE_COSTS = np.round(np.arange(0.3, 1.51, 0.02), 2)
"""Costs over ABC's at which curves of several runs are averaged."""

FIGURES = (
    *(f"accuracy_at_cost_{ratio}" for ratio in COST_RATIOS),
    "cost_ratio_at_parity",
    "cost_at_abc_accuracy_on_curve",
    "cost_at_abc_accuracy",
    "accuracy_at_abc_accuracy",
    "accuracy_at_abc_cost",
    "cost_at_abc_cost",
    "failure_auroc",
    "failure_average_precision",
    "ece",
    "ece_in_excess",
    "brier",
    "apgr",
    "cpt_20",
    "cpt_50",
    "cpt_80",
    "aiq",
    "area",
    "headroom_captured",
    "most_accurate",
)
LESS_IS_BETTER = frozenset(
    {name for name in FIGURES if name.startswith(("cost_", "cpt_"))}
    | {"ece", "ece_in_excess", "brier"}
)

_PARITY = 0.001  # a tenth of a point
_SIMULATIONS = 200


def rule_figures(data: RuleRun, result: RuleResult, weights: FloatArray) -> dict[str, FloatArray]:
    """Compute every figure under every weighting.

    Args:
        data: the run.
        result: the rule's.
        weights: float [b, n]; the first row is all ones.

    Returns:
        By figure its values [b], nan where it is undefined.
    """
    total = weights.sum(axis=1)
    oracle_cost = weights @ data.cost[:, data.oracle]
    right = weights @ data.correct / total[:, None]  # [b, m + 2]
    weak, strong = right[:, data.vote], right[:, data.oracle]
    accuracy = weights @ result.chosen_correct.T / total[:, None]  # [b, G + 4]
    cost = weights @ result.chosen_cost.T / oracle_cost[:, None]
    curve = cost[:, :BUDGETS], accuracy[:, :BUDGETS]
    settings_cost = weights @ result.cost.T / oracle_cost[:, None]  # [b, K]
    settings_accuracy = weights @ result.correct.T / total[:, None]
    members_cost = (weights @ data.cost[:, :-1].sum(axis=1)) / oracle_cost
    at = interpolated(*curve, np.tile(COST_RATIOS, (len(weights), 1)))
    figures = {f"accuracy_at_cost_{ratio}": at[:, i] for i, ratio in enumerate(COST_RATIOS)}
    abc_accuracy, abc_cost = accuracy[:, ABC], cost[:, ABC]
    best_single = right[:, :-1].max(axis=1)
    hindsight = weights @ data.correct[:, [data.vote, data.oracle]].any(axis=1) / total
    room = np.where(hindsight > best_single, hindsight - best_single, np.nan)
    figures |= {
        "cost_ratio_at_parity": cost_to_reach(*curve, strong - _PARITY),
        "cost_at_abc_accuracy_on_curve": cost_to_reach(*curve, abc_accuracy) / abc_cost,
        "cost_at_abc_accuracy": cost[:, AT_ABC_ACCURACY] / abc_cost,
        "accuracy_at_abc_accuracy": accuracy[:, AT_ABC_ACCURACY],
        "accuracy_at_abc_cost": accuracy[:, AT_ABC_COST],
        "cost_at_abc_cost": cost[:, AT_ABC_COST] / abc_cost,
        "aiq": average_improvement(settings_cost, settings_accuracy, float(1.0 + members_cost[0])),
        "headroom_captured": (accuracy[:, MOST_ACCURATE] - best_single) / room,
        "most_accurate": accuracy[:, MOST_ACCURATE],
    }
    if len(result.correct) > 1:  # a rule of one setting has no curve
        # Every such rule can spend the members' cost, or hardly more: the vote asks the oracle
        # where nobody answered.
        figures["area"] = area_between(*curve, members_cost, 1.0 + members_cost)
        share = weights @ result.escalated.T / total[:, None]
        figures["apgr"], calls = gap_recovered(share, settings_accuracy, weak, strong)
        figures |= {f"cpt_{100 * part:.0f}": values for part, values in calls.items()}
    figures |= _failure_figures(result, weights)
    unknown = np.full(len(weights), np.nan)
    return {name: figures.get(name, unknown) for name in FIGURES}


def relative_curve(result: RuleResult, weights: FloatArray) -> FloatArray:
    """Accuracy less ABC's, at costs relative to ABC's, float [b, places].

    Args:
        result: the rule's.
        weights: float [b, n].
    """
    total = weights.sum(axis=1, keepdims=True)
    accuracy = weights @ result.chosen_correct.T / total
    cost = weights @ result.chosen_cost.T
    at = RELATIVE_COSTS * cost[:, [ABC]]
    read = interpolated(cost[:, :BUDGETS], accuracy[:, :BUDGETS], at)
    relative: FloatArray = read - accuracy[:, [ABC]]
    return relative


def within_folds(scores: SeedScores, weights: FloatArray) -> Mapping[str, FloatArray]:
    """AUROC over pairs of one fold, and average precision over failures of one fold, [b] each.

    Scores of different folds come from different fits. Ranked among each other, a fold that has
    more failures than its share, whose fit has seen fewer of them, would stand too low.
    """
    parts: dict[str, list[tuple[FloatArray, FloatArray]]] = {"auroc": [], "precision": []}
    for fold in np.unique(scores.fold):
        rows = scores.fold == fold
        own, failed = weights[:, rows], scores.own_fails[rows]
        ranking = rank(scores.p_fail[rows])
        failures, successes = own @ failed, own @ ~failed
        parts["auroc"].append((auroc(ranking, failed, own), failures * successes))
        counted = np.where(successes > 0, failures, 0.0)
        parts["precision"].append((average_precision(ranking, failed, own), counted))
    return {name: _weighted_mean(values) for name, values in parts.items()}


def expected_calibration_error(p: FloatArray, *, seed: int = 0) -> float:
    """Calibration error that perfectly calibrated probabilities show on as many queries."""
    happened = np.random.default_rng(seed).random((_SIMULATIONS, len(p))) < p
    bins = equal_mass_bins(p)[:, None] == np.arange(ECE_BINS)  # [n, bins]
    gaps = (p - happened) @ bins
    return float(np.abs(gaps).sum(axis=1).mean() / len(p))


def _failure_figures(result: RuleResult, weights: FloatArray) -> dict[str, FloatArray]:
    by_seed: dict[str, list[FloatArray]] = {}
    for scores in result.scores:
        ranked = within_folds(scores, weights)
        own = {
            "failure_auroc": ranked["auroc"],
            "failure_average_precision": ranked["precision"],
        }
        if result.is_probability:
            p, fails = scores.p_fail, scores.own_fails
            error = calibration_error(p, fails, weights)
            own |= {
                "ece": error,
                "ece_in_excess": error - expected_calibration_error(p),
                "brier": brier_score(p, fails, weights),
            }
        for name, values in own.items():
            by_seed.setdefault(name, []).append(values)
    return {name: np.mean(values, axis=0) for name, values in by_seed.items()}


def _weighted_mean(parts: list[tuple[FloatArray, FloatArray]]) -> FloatArray:
    values = np.array([value for value, _ in parts])
    weights = np.array([weight for _, weight in parts])
    total = weights.sum(axis=0)
    summed = np.where(weights > 0, values * weights, 0.0).sum(axis=0)
    mean: FloatArray = np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)
    return mean
