"""An operating point from what a right answer is worth."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.router_model.policy import OperatingPoint, PolicyKind
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.operating_points import replaced
from pyramid_moa.training.replay import check_fit, check_steps, replay, score_run

__all__ = ["add_value_point"]


def add_value_point(
    run: str | Path,
    router: str | Path,
    *,
    value_usd: float,
    usd_per_second: float = 0.0,
    policy: PolicyKind = "parallel",
    split: str = "calibration",
    name: str = "value",
    own_grader: str | None = None,
) -> OperatingPoint:
    """Store the point that asks the oracle where that is worth its price.

    The oracle is asked where the accuracy that it is expected to gain, times what a right answer is
    worth, is more than its price. Nothing is chosen on the queries; what it comes to on them is
    told.

    Args:
        run: a labelled run of the router's pyramid.
        router: the checkpoint; its ``router.json`` is rewritten.
        value_usd: what a right answer is worth, in US dollars.
        usd_per_second: what a second that is waited for costs, beside the oracle's own price. Steps
            have theirs from training, ``steps.usd_per_second``, and take no other.
        policy: of the point.
        split: the queries on which it is measured.
        name: what the point is called; a point of that name is replaced.
        own_grader: the caller's own ``module:function``, where the run was graded by it.

    Raises:
        ConfigError: a value or price that cannot be.
        CheckpointError: the router does not know what an oracle call takes, or no steps.
    """
    if not 0 < value_usd < math.inf or not 0 <= usd_per_second < math.inf:
        raise ConfigError(
            f"expected --value-usd above 0 and --usd-per-second from 0, found {value_usd} and "
            f"{usd_per_second}"
        )
    data = read_labelled_run(Path(run), own_grader=own_grader)
    loaded = Router.load(router, own_grader=own_grader)
    fitting = loaded.graded_by(data.manifest.grader, data.manifest.members) or loaded
    check_fit(data, fitting)
    point = OperatingPoint(
        name=name,
        threshold=_threshold(loaded, value_usd, usd_per_second, policy),
        target=_told(value_usd, usd_per_second),
        policy=policy,
        rule="gain",
        split=split,
    )
    check_steps(data, fitting, point)
    positions = data.of_split(split)
    rows = replay(data, positions, score_run(data, fitting, positions), point, router=fitting)
    spent, alone = float(rows.final_cost_usd.sum()), float(rows.oracle_cost_usd.sum())
    point = replace(
        point,
        questions=rows.n,
        accuracy=float(np.mean(rows.final_correct)),
        escalation_rate=float(np.mean(rows.escalated)),
        cost_ratio=spent / alone if alone > 0 and math.isfinite(spent) else None,
    )
    points = replaced(loaded.card.operating_points, point)
    loaded.card = replace(loaded.card, operating_points=points)
    loaded.save(router)
    return point


def _threshold(
    router: Router, value_usd: float, usd_per_second: float, policy: PolicyKind
) -> float:
    """Accuracy that an oracle call has to buy."""
    if policy == "parallel":
        return _price(router, usd_per_second) / value_usd
    trained = router.card.trained_on["config"].get("steps", {}).get("usd_per_second", 0.0)
    if usd_per_second not in (0.0, trained):
        raise ConfigError(
            f"--usd-per-second: steps were trained with {trained}, found {usd_per_second}; set "
            "steps.usd_per_second in the training's configuration, or leave it out"
        )
    price = _price(router, trained) / value_usd
    # Beyond the dearest setting that was tried nothing is known.
    return min(price, float(router.steps.values.dial.max())) if router.steps else price


def _price(router: Router, usd_per_second: float) -> float:
    """Of one oracle call, USD."""
    call = router.card.typical_calls.get(router.card.oracle)
    if call is None or (usd_per_second and call.latency_s is None):
        what = "price" if call is None else "latency"
        raise CheckpointError(
            f"expected a router that knows the {what} of a call of {router.card.oracle}, found "
            f"none; train it on a run with {'prices' if call is None else 'measured latencies'}"
        )
    return call.cost_usd + usd_per_second * (call.latency_s or 0.0)


def _told(value_usd: float, usd_per_second: float) -> str:
    waited = f", a second waited for {usd_per_second:g}" if usd_per_second else ""
    return f"asks the oracle where it pays: a right answer is worth {value_usd:g} USD{waited}"
