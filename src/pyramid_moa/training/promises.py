"""Operating points that keep what they promise, with a stated confidence."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.training.audit_bound import most_that_differ
from pyramid_moa.training.dial_path import CostCap, DialPath
from pyramid_moa.training.drop_test import DropTest
from pyramid_moa.training.learn_then_test import (
    Tried,
    cheapest_accurate,
    cheapest_within_drop,
    within_cost,
)
from pyramid_moa.training.operating_points import NotAttainableError
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.risk_bounds import least_accuracy
from pyramid_moa.training.targets import Target

__all__ = ["check_prices", "measured_point", "promised_point"]

_ORDER = "learn then test, fixed sequence of {} settings"
_METHODS = {
    "target_accuracy": "exact binomial test",
    "max_drop": "exact likelihood-ratio test (Berger-Boos)",
    "target_cost_ratio": "betting",
    "max_usd_per_1000": "betting",
}
# How targets are loosened until one is attainable.
_STEP, _STEPS = 1.05, 200


def promised_point(
    path: DialPath,
    tried: Tried,
    target: Target,
    *,
    confidence: float,
    name: str,
    split: str,
    reference: str,
    cap: CostCap | None = None,
) -> OperatingPoint:
    """The cheapest setting that keeps to an accuracy, or the most accurate one within a cost.

    Args:
        path: the settings, in an order fixed without the labels of these questions.
        tried: what they came to on questions that neither router nor path has seen.
        target: what to keep to.
        confidence: between 0 and 1.
        name: of the point.
        split: of the questions.
        reference: ``gold`` or ``oracle``: what "right" means for them.
        cap: of a question's cost; needed where costs are limited.

    Raises:
        NotAttainableError: so many questions prove it of no setting; the nearest is named.
        RunFolderError: costs are limited, and unknown.
    """
    level = 1 - confidence
    place = _proven_place(path, tried, target, level, cap)
    if place is None:
        nearest = _nearest(path, tried, target, level, cap)
        raise NotAttainableError(
            f"{target.told()}: not attainable at confidence {confidence:g} with the {tried.n} "
            f"questions of {split}; {nearest}"
        )
    method = f"{_ORDER.format(len(path.points))}; {_METHODS[target.kind]}"
    point = _point(path, tried, target, place, name=name, split=split)
    return replace(
        point,
        promise=Promise(
            kind=target.kind,
            value=target.value,
            confidence=confidence,
            questions=tried.n,
            method=f"{method}; {cap.told}" if cap is not None and target.is_cost else method,
            most_differ=most_that_differ(
                target,
                correct=tried.correct[place],
                oracle_correct=tried.oracle_correct,
                # Where the oracle has been asked its answer is the last, unless it is outvoted.
                may_differ=~tried.escalated[place] | (point.outvote is not None),
                reference=reference,
            ),
        ),
    )


def measured_point(
    path: DialPath, tried: Tried, target: Target, *, name: str, split: str
) -> OperatingPoint:
    """The setting that meets a target as measured; nothing is said of other questions.

    Args:
        path: the settings.
        tried: what they came to.
        target: what to meet.
        name: of the point.
        split: of the questions.

    Raises:
        NotAttainableError: none does; the nearest is named.
    """
    accuracy = tried.correct.mean(axis=1)
    cost = tried.cost.sum(axis=1)
    if target.is_cost:
        each = target.value / 1000 * tried.n
        most = each if target.kind == "max_usd_per_1000" else target.value * tried.oracle_cost.sum()
        good = np.flatnonzero(cost <= most * (1 + 1e-12))
        nearest = f"the cheapest setting costs {cost.min() / tried.n * 1000:.4g} USD for 1000"
        best = good[np.argmax(accuracy[good])] if len(good) else None
    else:
        least = target.value
        if target.kind == "max_drop":
            least = float(tried.oracle_correct.mean()) - target.value
        good = np.flatnonzero(accuracy >= least - 1e-12)
        nearest = f"the most accurate setting has accuracy {accuracy.max():.4f}"
        best = good[np.argmin(cost[good])] if len(good) else None
    if best is None:
        raise NotAttainableError(
            f"{target.told()}: not attainable on the {tried.n} questions of {split}; {nearest}"
        )
    return _point(path, tried, target, int(best), name=name, split=split)


def _point(
    path: DialPath, tried: Tried, target: Target, place: int, *, name: str, split: str
) -> OperatingPoint:
    """A setting with what it came to."""
    oracle_accuracy = float(tried.oracle_correct.mean()) if target.kind == "max_drop" else None
    spent = float(tried.oracle_cost.sum())
    ratio = float(tried.cost[place].sum()) / spent if spent > 0 else math.nan
    return replace(
        path.points[place],
        name=name,
        target=target.told(oracle_accuracy=oracle_accuracy),
        split=split,
        questions=tried.n,
        accuracy=float(tried.correct[place].mean()),
        escalation_rate=float(tried.escalated[place].mean()),
        cost_ratio=ratio if math.isfinite(ratio) else None,
    )


def check_prices(oracle_cost: FloatArray, cost: FloatArray, models: str) -> None:
    """Make sure that costs are known.

    Args:
        oracle_cost: of asking the oracle, nan where unknown.
        cost: of anything else, likewise.
        models: who is asked, for the error.

    Raises:
        RunFolderError: some are unknown, or the oracle is free.
    """
    if np.isnan(oracle_cost).any() or np.isnan(cost).any():
        raise RunFolderError(
            f"expected the cost of every answer of {models}, found some without; import again with "
            "--prices, or give the pyramid's entries a price"
        )
    if not oracle_cost.sum() > 0:
        raise RunFolderError(
            "expected an oracle that costs something, found that all its answers are free: there "
            "are no costs to keep to; give it a price"
        )


def _proven_place(
    path: DialPath, tried: Tried, target: Target, level: float, cap: CostCap | None
) -> int | None:
    """Place of the setting that is chosen, or None."""
    if target.kind == "target_accuracy":
        return cheapest_accurate(tried.right, tried.n, path.plan, target.value, level)
    if target.kind == "max_drop":
        if target.value >= 1:
            return len(path.points) - 1
        test = DropTest(n=tried.n, drop=target.value, level=level)
        return cheapest_within_drop(tried.lost, tried.gained, path.plan, test)
    assert cap is not None
    return within_cost(*_excess(tried, target, cap), path.plan, level)


def _excess(tried: Tried, target: Target, cap: CostCap) -> tuple[FloatArray, float]:
    """What each question costs beyond what is allowed, [K, n], cut off at the most it can be."""
    if target.kind == "target_cost_ratio":
        most = cap.before_oracle_usd + max(1 - target.value, 0.0) * cap.oracle_usd
        most = max(most, 1e-6 * target.value * cap.oracle_usd)  # nothing costs more than allowed
        excess = tried.cost - target.value * tried.oracle_cost
    else:
        allowed = target.value / 1000
        most = max(cap.before_oracle_usd + cap.oracle_usd - allowed, 1e-6 * allowed)
        excess = tried.cost - allowed
    return np.minimum(excess, most), most


def _nearest(
    path: DialPath, tried: Tried, target: Target, level: float, cap: CostCap | None
) -> str:
    """The nearest target that these questions prove, in words."""
    if target.kind == "target_accuracy":
        start = path.plan.start_accurate()
        proven = math.floor(least_accuracy(int(tried.right[start]), tried.n, 1 - level) * 1e4) / 1e4
        return f"the most that is proven is {target.flag} {proven:g}"

    def proves(value: float) -> bool:
        looser = replace(target, value=value)
        return _proven_place(path, tried, looser, level, cap) is not None

    if target.kind == "max_drop":
        value = _loosened(max(target.value, 1e-3), 1.0, proves)
        text = "asking the oracle every time alone keeps to it, which needs no proof"
        fewest = math.ceil(math.log(level) / math.log1p(-target.value)) if target.value else None
        if fewest is not None and tried.n < fewest:
            text += f" (so small a drop takes about {fewest} questions or more)"
    else:
        cheapest = 1000 * float(tried.cost[-1].mean())
        if target.kind == "target_cost_ratio":
            cheapest /= 1000 * float(tried.oracle_cost.mean())
        value = _loosened(max(target.value, cheapest), math.inf, proves)
        text = f"the cheapest setting costs {cheapest:.4g}"
    return (
        text if value is None else f"{text}; the nearest that is proven is {target.flag} {value:g}"
    )


def _loosened(value: float, most: float, proves: Callable[[float], bool]) -> float | None:
    """The first of ever larger values, of three digits, that is proven."""
    for _ in range(_STEPS):
        value = float(f"{value * _STEP:.3g}")
        if value > most:
            return None
        if proves(value):
            return value
    return None
