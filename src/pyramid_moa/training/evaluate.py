"""Evaluation: run and checkpoint in; decisions, figures, plots and a report out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.policy import (
    OperatingPoint,
    PolicyKind,
    Scores,
    vote_point,
    vote_scores,
)
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.point_results import PointResult
from pyramid_moa.training.replay import check_fit, check_steps, replay, score_run, steps_fit
from pyramid_moa.training.report import check_report_folder, write_report
from pyramid_moa.training.stepwise_points import StepDial, router_dial

__all__ = ["evaluate"]


def evaluate(
    run: str | Path,
    out: str | Path,
    *,
    router: str | Path | None = None,
    split: str = "test",
    point: str | None = None,
    policy: PolicyKind | None = None,
    seed: int = 0,
    own_grader: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, object]:
    """Replay the gate's decisions over a run's stored answers and write a report.

    Args:
        run: the run folder.
        out: the report folder.
        router: the checkpoint folder; None evaluates the vote rule (all agree).
        split: which queries, or ``all``.
        point: name of the operating point; the checkpoint's first where it is left out.
        policy: that the point has to have; without a name, its first of that policy is taken.
        seed: of the bootstrap and the choice of examples.
        own_grader: the caller's own ``module:function``, where the run was graded by it.
        say: shown the main figures, and what to know of them.

    Returns:
        What metrics.json holds.

    Raises:
        RunFolderError: the run is missing, or has no such split.
        CheckpointError: the checkpoint is damaged, or belongs to another pyramid.
        ConfigError: an operating point without a checkpoint.
        DataError: ``out`` holds something else.
    """
    out = Path(out)
    if (point is not None or policy == "sequential") and router is None:
        wanted = f"operating point {point!r}" if point is not None else f"policy {policy}"
        raise ConfigError(f"{wanted}: expected a router that has it, found none")
    check_report_folder(out)
    data = read_labelled_run(Path(run), own_grader=own_grader)
    positions = list(range(len(data.queries))) if split == "all" else data.of_split(split)
    extra = {
        "data set": f"{data.manifest.dataset}, split {split}",
        "grader": data.manifest.grader,
        "pyramid": f"{', '.join(data.manifest.members)} -> {data.manifest.oracle}",
    }
    loaded = None
    if router is None:
        scores = [vote_scores(data.labels[index].vote_share) for index in positions]
        chosen = vote_point()
        extra["rule"] = "vote (all agree); no checkpoint was given"
    else:
        loaded = Router.load(router, own_grader=own_grader)
        loaded = loaded.graded_by(data.manifest.grader, data.manifest.members) or loaded
        check_fit(data, loaded)
        scores = score_run(data, loaded, positions)
        chosen = loaded.card.operating_point(point, policy=policy)
        check_steps(data, loaded, chosen)
        extra["router trained on"] = str(loaded.card.trained_on.get("dataset"))
        extra["operating point"] = (
            f"{chosen.name}: {chosen.target}; chosen on {chosen.questions} {chosen.split} questions"
        )
        if seen := _seen(data, loaded, positions):
            extra["note"] = f"the router has seen {seen} of these questions in training"
            say(extra["note"])
        if loaded.known is not None:
            texts = [data.queries[index].question for index in positions]
            if remark := loaded.known.remark(texts):
                extra["unlike the training"] = remark
                say(remark)
    outcomes = replay(data, positions, scores, chosen, router=loaded)
    if loaded is None:
        points, dial = [PointResult(point=chosen, outcomes=outcomes)], None
    else:
        points = _points(data, positions, scores, loaded, chosen, outcomes)
        dial = _dial(data, positions, loaded)
    return write_report(outcomes, out, seed=seed, extra=extra, points=points, dial=dial)


def _points(
    run: LabelledRun,
    positions: Sequence[int],
    scores: Sequence[Scores],
    router: Router,
    chosen: OperatingPoint,
    outcomes: Outcomes,
) -> list[PointResult]:
    """Decide the queries by every point of the checkpoint that the run can follow."""
    return [
        PointResult(
            point=point,
            outcomes=outcomes
            if point.name == chosen.name
            else replay(run, positions, scores, point, router=router),
        )
        for point in router.card.operating_points
        if point.policy == "parallel" or steps_fit(run, router)
    ]


def _dial(run: LabelledRun, positions: Sequence[int], router: Router) -> StepDial | None:
    """Every setting of the sequential policy, where the router knows steps to the run's models."""
    return router_dial(run, router, positions) if steps_fit(run, router) else None


def _seen(run: LabelledRun, router: Router, positions: list[int]) -> int:
    known = set(router.card.seen_questions)
    return sum(question_hash(run.queries[i].question)[:16] in known for i in positions)
