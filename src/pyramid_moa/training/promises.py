"""Operating points that keep what they promise, with a stated confidence."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.training.audit_bound import most_that_differ
from pyramid_moa.training.dial_path import CostCap, DialPath
from pyramid_moa.training.drop_test import DropTest
from pyramid_moa.training.learn_then_test import (
    Tried,
    most_accurate,
    proven_accurate,
    proven_within_cost,
    proven_within_drop,
)
from pyramid_moa.training.operating_points import NotAttainableError
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.risk_bounds import least_accuracy
from pyramid_moa.training.targets import (
    Target,
    least_measured,
    most_measured,
    told_together,
)

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
    targets: Sequence[Target],
    *,
    confidence: float,
    name: str,
    split: str,
    reference: str,
    cap: CostCap | None = None,
) -> OperatingPoint:
    """The cheapest setting that keeps to an accuracy, or the most accurate one within costs.

    Several targets are kept to together: each is tested at its share of the level, so that by the
    union bound the probability that any of what is proven is wrong is at most the level, and the
    setting is one that all of them are proven of.

    Args:
        path: the settings, in an order fixed without the labels of these questions.
        tried: what they came to on questions that neither router nor path has seen.
        targets: what to keep to, accuracies before costs.
        confidence: between 0 and 1.
        name: of the point.
        split: of the questions.
        reference: ``gold`` or ``oracle``: what "right" means for them.
        cap: of a question's cost; needed where costs are limited.

    Raises:
        NotAttainableError: so many questions prove it of no setting; the nearest is named.
        RunFolderError: costs are limited, and unknown.
    """
    level = (1 - confidence) / len(targets)
    proven = {target: _proven(path, tried, target, level, cap) for target in targets}
    place = _chosen(path, targets, list(proven.values()))
    if place is None:
        raise NotAttainableError(
            f"{told_together(targets)}: not attainable at confidence {confidence:g} with the "
            f"{tried.n} questions of {split}; {_why_none(path, tried, proven, level, cap)}"
        )
    point = _point(path, tried, targets, place, name=name, split=split)
    first, *others = targets
    return replace(
        point,
        promise=Promise(
            kind=first.kind,
            value=first.value,
            others=tuple((target.kind, target.value) for target in others),
            confidence=confidence,
            questions=tried.n,
            method=_method(path, targets, level, cap),
            most_differ=most_that_differ(
                targets,
                correct=tried.correct[place],
                oracle_correct=tried.oracle_correct,
                # Where the oracle has been asked its answer is the last, unless it is outvoted.
                may_differ=~tried.escalated[place] | (point.outvote is not None),
                reference=reference,
            ),
        ),
    )


def _method(path: DialPath, targets: Sequence[Target], level: float, cap: CostCap | None) -> str:
    parts = [_ORDER.format(len(path.points))]
    if len(targets) > 1:
        parts.append(f"{len(targets)} targets together, each at {1 - level:g} (union bound)")
    parts += dict.fromkeys(_METHODS[target.kind] for target in targets)
    if cap is not None and any(target.is_cost for target in targets):
        parts.append(cap.told)
    return "; ".join(parts)


def measured_point(
    path: DialPath, tried: Tried, targets: Sequence[Target], *, name: str, split: str
) -> OperatingPoint:
    """The setting that meets targets as measured; nothing is said of other questions.

    Args:
        path: the settings.
        tried: what they came to.
        targets: what to meet, all at once.
        name: of the point.
        split: of the questions.

    Raises:
        NotAttainableError: none does; the nearest is named.
    """
    accuracy = tried.correct.mean(axis=1)
    usd = 1000 * tried.cost.mean(axis=1)
    oracle_usd = 1000 * float(tried.oracle_cost.mean())
    least = least_measured(targets, float(tried.oracle_correct.mean()))
    most = most_measured(targets, oracle_usd) * oracle_usd
    # Where costs have no part in it they may be unknown.
    paid = usd <= most * (1 + 1e-12) if math.isfinite(most) else np.ones(len(usd), dtype=bool)
    accurate = accuracy >= least - 1e-12
    good = np.flatnonzero(paid & accurate)
    if not len(good):
        found = []
        if not accurate.any():
            found.append(f"the most accurate setting has accuracy {accuracy.max():.4f}")
        if not paid.any():
            found.append(f"the cheapest setting costs {usd.min():.4g} USD for 1000")
        if not found:
            found.append(
                "the targets contradict each other: the cheapest setting of that accuracy costs "
                f"{usd[accurate].min():.4g} USD for 1000"
            )
        raise NotAttainableError(
            f"{told_together(targets)}: not attainable on the {tried.n} questions of {split}; "
            f"{' and '.join(found)}"
        )
    if all(target.is_cost for target in targets):
        best = good[np.argmax(accuracy[good])]
    else:
        best = good[np.argmin(usd[good])]
    return _point(path, tried, targets, int(best), name=name, split=split)


def _point(
    path: DialPath,
    tried: Tried,
    targets: Sequence[Target],
    place: int,
    *,
    name: str,
    split: str,
) -> OperatingPoint:
    """A setting with what it came to."""
    spent = float(tried.oracle_cost.sum())
    ratio = float(tried.cost[place].sum()) / spent if spent > 0 else math.nan
    return replace(
        path.points[place],
        name=name,
        target=told_together(targets, oracle_accuracy=float(tried.oracle_correct.mean())),
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


def _proven(
    path: DialPath, tried: Tried, target: Target, level: float, cap: CostCap | None
) -> list[int]:
    """Places of the settings that one target is proven of."""
    if target.kind == "target_accuracy":
        return proven_accurate(tried.right, tried.n, path.plan, target.value, level)
    if target.kind == "max_drop":
        if target.value >= 1:
            return list(range(len(path.points)))
        test = DropTest(n=tried.n, drop=target.value, level=level)
        return proven_within_drop(tried.lost, tried.gained, path.plan, test)
    assert cap is not None
    return proven_within_cost(*_excess(tried, target, cap), level)


def _chosen(
    path: DialPath, targets: Sequence[Target], proven: Sequence[Sequence[int]]
) -> int | None:
    """Of the settings that all targets are proven of: the cheapest, or for costs the best."""
    common = set(proven[0]).intersection(*proven[1:])
    if all(target.is_cost for target in targets):
        return most_accurate(common, path.plan)
    return max(common, default=None)


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


def _why_none(
    path: DialPath,
    tried: Tried,
    proven: Mapping[Target, Sequence[int]],
    level: float,
    cap: CostCap | None,
) -> str:
    """Which targets fail alone, or that they contradict each other, with the nearest, in words."""
    alone = {
        target: _nearest(path, tried, target, level, cap)
        for target, places in proven.items()
        if not places
    }
    if len(proven) == 1:
        return next(iter(alone.values()))
    share = f"{len(proven)} targets together are each tested at {1 - level:g}"
    if alone:
        found = "; ".join(f"{target.flag} fails alone: {text}" for target, text in alone.items())
        return f"{share}: {found}"
    text = f"{share}: every one is attainable alone, and together they contradict each other"
    # Costs are what gives way: one of them, if that is enough.
    for gives in [target for target in proven if target.is_cost][::-1]:
        kept = [target for target in proven if target != gives]
        if _chosen(path, kept, [proven[target] for target in kept]) is None:
            continue

        def proves(value: float, gives: Target = gives, kept: Sequence[Target] = kept) -> bool:
            looser = replace(gives, value=value)
            places = [
                *(proven[target] for target in kept),
                _proven(path, tried, looser, level, cap),
            ]
            return _chosen(path, [*kept, looser], places) is not None

        value = _loosened(max(gives.value, 1e-3), math.inf, proves)
        if value is not None:
            flags = " and ".join(f"{target.flag} {target.value:g}" for target in kept)
            return f"{text}; the nearest that is proven is {flags} with {gives.flag} {value:g}"
    return text


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
        return bool(_proven(path, tried, looser, level, cap))

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
