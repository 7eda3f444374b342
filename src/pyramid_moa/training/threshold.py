"""Operating points for a target, found on calibration queries and stored in the checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.policy import OperatingPoint, PolicyKind, Scores
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.dial_path import (
    DialPath,
    cost_cap,
    steps_path,
    threshold_path,
    tried_steps,
    try_thresholds,
)
from pyramid_moa.training.learn_then_test import Tried
from pyramid_moa.training.operating_points import (
    NotAttainableError,
    ThresholdTable,
    replaced,
    threshold_table,
)
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.promises import check_prices, measured_point, promised_point
from pyramid_moa.training.replay import check_fit, check_steps, replay, score_run
from pyramid_moa.training.stepwise_points import router_dial
from pyramid_moa.training.targets import (
    Target,
    least_measured,
    most_measured,
    told_together,
    wanted_targets,
)

__all__ = ["add_threshold"]


def add_threshold(
    run: str | Path,
    router: str | Path,
    *,
    target_accuracy: float | None = None,
    max_drop: float | None = None,
    target_cost_ratio: float | None = None,
    max_usd_per_1000: float | None = None,
    confidence: float | None = 0.95,
    policy: PolicyKind = "parallel",
    split: str = "calibration",
    name: str = "target",
    own_grader: str | None = None,
) -> OperatingPoint:
    """Find the operating point for one or more targets and store it in the checkpoint by its name.

    Of several it keeps to all together: at the least cost where an accuracy is among them, else at
    the best accuracy. With a confidence the point keeps to them for all questions of the
    calibration questions' kind: over draws of those, it fails to with a probability of at most
    1 - confidence. Without one the point is the one that meets them as measured on these very
    questions.

    Args:
        run: a labelled run of the router's pyramid.
        router: the checkpoint; its ``router.json`` is rewritten.
        target_accuracy: the least accuracy, from 0 to 1, at the least cost.
        max_drop: the most that accuracy may lie below the oracle's, at the least cost.
        target_cost_ratio: the most that may be spent, relative to asking the oracle every time,
            at the best accuracy.
        max_usd_per_1000: the most that a thousand questions may cost, at the best accuracy.
        confidence: between 0 and 1; None promises nothing.
        policy: whose settings are looked among.
        split: the queries it is found on.
        own_grader: the caller's own ``module:function``, where the run was graded by it.
        name: what the point is called; a point of that name is replaced.

    Returns:
        The point.

    Raises:
        ConfigError: no target, or one out of range.
        CheckpointError: the router was fitted on some of these queries, and a promise is asked
            for; or it knows no steps that a sequential policy could take.
        RunFolderError: a cost is to be kept to, and prices are missing.
        NotAttainableError: no threshold meets them, or is proven to, on these queries.
    """
    targets = wanted_targets(
        target_accuracy=target_accuracy,
        max_drop=max_drop,
        target_cost_ratio=target_cost_ratio,
        max_usd_per_1000=max_usd_per_1000,
    )
    if confidence is not None and not 0 < confidence < 1:
        raise ConfigError(
            f"--confidence: expected a share between 0 and 1, found {confidence}; --no-promise "
            "chooses by what is measured and promises nothing"
        )
    data = read_labelled_run(Path(run), own_grader=own_grader)
    loaded = Router.load(router, own_grader=own_grader)
    own_grader_name = loaded.card.grader
    loaded = loaded.graded_by(data.manifest.grader, data.manifest.members) or loaded
    check_fit(data, loaded)
    positions = data.of_split(split)
    hashes = {question_hash(data.queries[index].question)[:16] for index in positions}
    if confidence is not None:
        _check_unseen(loaded, hashes, split)
    path, tried = _settings(data, loaded, positions, policy)
    cap = None
    if any(target.is_cost for target in targets):
        check_prices(tried.oracle_cost, tried.cost, ", ".join(data.manifest.models))
        cap = cost_cap(data, positions) if confidence is not None else None
    if confidence is not None:
        point = promised_point(
            path,
            tried,
            targets,
            confidence=confidence,
            name=name,
            split=split,
            reference=data.manifest.reference,
            cap=cap,
        )
    elif policy == "sequential":
        point = measured_point(path, tried, targets, name=name, split=split)
    else:
        # Every threshold there is, not only those that could be fixed beforehand.
        scores = score_run(data, loaded, positions)
        point = _measured(data, positions, scores, targets, split=split, name=name)
    loaded.card = replace(
        loaded.card,
        # Another grader may have compared these strangers' answers; the router's own stays.
        grader=own_grader_name,
        operating_points=replaced(loaded.card.operating_points, point),
        seen_questions=sorted(hashes.union(loaded.card.seen_questions)),
        threshold_questions=sorted(
            (hashes - loaded.card.fitted_questions).union(loaded.card.threshold_questions)
        ),
    )
    loaded.save(router)
    return point


def _check_unseen(router: Router, hashes: set[str], split: str) -> None:
    """Make sure that neither the network nor what it reads was fitted on these questions.

    Raises:
        CheckpointError: it was.
    """
    fitted = router.card.fitted_questions
    if router.verifier is not None:
        fitted |= set(router.verifier.card.seen_questions)
    if seen := len(fitted & hashes):
        raise CheckpointError(
            f"a promise has to rest on questions that the router has not seen: it was trained on "
            f"{seen} of the {len(hashes)} of {split}; take another split or run, train again where "
            "an earlier version wrote this checkpoint, or leave the promise out (--no-promise)"
        )


def _settings(
    run: LabelledRun, router: Router, positions: Sequence[int], policy: PolicyKind
) -> tuple[DialPath, Tried]:
    """The settings of a policy, and what they come to."""
    questions = int(router.card.validation.get("queries") or 0)
    if policy == "parallel":
        path = threshold_path(router.card.validation_curve, questions)
        scores = score_run(run, router, positions)
        return path, try_thresholds(run, positions, scores, path)
    check_steps(
        run, router, OperatingPoint(name=policy, threshold=0.0, target="", policy="sequential")
    )
    tried = tried_steps(router_dial(run, router, positions))
    return steps_path(router.card.steps_curve, questions), tried


def _measured(
    run: LabelledRun,
    positions: Sequence[int],
    scores: Sequence[Scores],
    targets: Sequence[Target],
    *,
    split: str,
    name: str,
) -> OperatingPoint:
    undecided = OperatingPoint(name=name, threshold=1.0, target="")
    outcomes = replay(run, positions, scores, undecided)
    if any(target.is_cost for target in targets):
        models = ", ".join(run.manifest.models)
        check_prices(outcomes.oracle_cost_usd, outcomes.member_cost_usd, models)
    return _choose(threshold_table(outcomes, split=split), outcomes, targets, name)


def _choose(
    table: ThresholdTable, outcomes: Outcomes, targets: Sequence[Target], name: str
) -> OperatingPoint:
    told = told_together(targets, oracle_accuracy=table.oracle_accuracy)
    least = least_measured(targets, table.oracle_accuracy)
    if not any(target.is_cost for target in targets):
        return table.cheapest_with_accuracy(least, name=name, target=told)
    most = most_measured(targets, 1000 * float(outcomes.oracle_cost_usd.mean()))
    best = table.best_within_cost(most, name=name, target=told)
    if all(target.is_cost for target in targets):
        return best
    # The cheapest of the accurate ones is within the costs, or none is.
    point = table.cheapest_with_accuracy(least, name=name, target=told)
    assert point.cost_ratio is not None, "prices were checked"
    if point.cost_ratio > most + 1e-12:
        raise NotAttainableError(
            f"{told}: not attainable on the {table.questions} questions of {table.split}: the "
            f"targets contradict each other; so much accuracy costs {point.cost_ratio:.4f} of the "
            f"oracle, and for {most:.4f} the most is {best.accuracy:.4f}"
        )
    return point
