"""Operating points for a target, chosen on calibration queries and stored in the checkpoint."""

import math
from dataclasses import replace
from pathlib import Path

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.operating_points import ThresholdTable, replaced, threshold_table
from pyramid_moa.training.replay import check_fit, replay, score_run

__all__ = ["add_threshold"]


def add_threshold(
    run: str | Path,
    router: str | Path,
    *,
    target_accuracy: float | None = None,
    max_drop: float | None = None,
    target_cost_ratio: float | None = None,
    split: str = "calibration",
    name: str = "target",
    own_grader: str | None = None,
) -> OperatingPoint:
    """Find the operating point for one target and store it in the checkpoint by its name.

    The point is the one that meets the target as measured on these queries; no guarantee for
    others is implied.

    Args:
        run: a labelled run of the router's pyramid.
        router: the checkpoint; its ``router.json`` is rewritten.
        target_accuracy: the least accuracy, from 0 to 1, at the least cost.
        max_drop: the most that accuracy may lie below the oracle's, at the least cost.
        target_cost_ratio: the most that may be spent, relative to asking the oracle every time,
            at the best accuracy.
        split: the queries it is chosen on.
        own_grader: the caller's own ``module:function``, where the run was graded by it.
        name: what the point is called; a point of that name is replaced.

    Returns:
        The point.

    Raises:
        ConfigError: not exactly one target, or one out of range.
        NotAttainableError: no threshold meets it on these queries.
    """
    targets = {
        "--target-accuracy": target_accuracy,
        "--max-drop": max_drop,
        "--target-cost-ratio": target_cost_ratio,
    }
    given = {flag: value for flag, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"expected exactly one of {', '.join(targets)}, found {', '.join(given) or 'none'}"
        )
    ((flag, value),) = given.items()
    most = math.inf if flag == "--target-cost-ratio" else 1.0
    if not 0 <= value <= most:
        raise ConfigError(f"{flag}: expected a share from 0 to {most:g}, found {value}")
    data = read_labelled_run(Path(run), own_grader=own_grader)
    loaded = Router.load(router, own_grader=own_grader)
    own_grader_name = loaded.card.grader
    loaded = loaded.graded_by(data.manifest.grader, data.manifest.members) or loaded
    check_fit(data, loaded)
    positions = data.of_split(split)
    undecided = OperatingPoint(name=name, threshold=1.0, target="")
    outcomes = replay(data, positions, score_run(data, loaded, positions), undecided)
    point = _choose(threshold_table(outcomes, split=split), flag, value, name)
    seen = {question_hash(data.queries[index].question)[:16] for index in positions}
    loaded.card = replace(
        loaded.card,
        # Another grader may have compared these strangers' answers; the router's own stays.
        grader=own_grader_name,
        operating_points=replaced(loaded.card.operating_points, point),
        seen_questions=sorted(seen.union(loaded.card.seen_questions)),
    )
    loaded.save(router)
    return point


def _choose(table: ThresholdTable, flag: str, value: float, name: str) -> OperatingPoint:
    if flag == "--target-accuracy":
        return table.cheapest_with_accuracy(
            value, name=name, target=f"accuracy of at least {value}"
        )
    if flag == "--max-drop":
        return table.cheapest_with_accuracy(
            table.oracle_accuracy - value,
            name=name,
            target=f"at most {value} below the oracle's accuracy of {table.oracle_accuracy:.4f}",
        )
    return table.best_within_cost(value, name=name, target=f"cost ratio of at most {value}")
