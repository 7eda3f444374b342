"""Training: a run folder in, a checkpoint out."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa import __version__
from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.errors import CheckpointError, RunFolderError, import_extra
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.card import RouterCard, RouterMember
from pyramid_moa.router_model.checkpoint import check_checkpoint_folder
from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.hidden_rows import HiddenRows, spans
from pyramid_moa.router_model.known_questions import KnownQuestions
from pyramid_moa.router_model.network import HEADS, RouterNetwork
from pyramid_moa.router_model.policy import OperatingPoint, Scores
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.deferral import ALWAYS
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import LAST, check_examples, fit_network, nothing_to_learn
from pyramid_moa.training.hidden_choice import choose_hidden_key
from pyramid_moa.training.known_questions_fit import FEWEST, fit_known_questions
from pyramid_moa.training.operating_points import default_points, threshold_table
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.outvoting import choose_outvote
from pyramid_moa.training.replay import replay, score_run
from pyramid_moa.training.step_fit import typical_calls
from pyramid_moa.training.stepwise_points import fit_stepwise
from pyramid_moa.training.tracking import tracking

__all__ = ["train"]

_OUT_OF_FOLD = "train and validation, out of fold"
_UNDECIDED = OperatingPoint(name="undecided", threshold=1.0, target="")


def train(
    run: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    init: str | Path | None = None,
    own_grader: str | None = None,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Router:
    """Train a router on a labelled run and write its checkpoint.

    Curves, and what an interrupted training goes on from, are kept in ``<out>.training``.

    Args:
        run: the run folder.
        out: the checkpoint folder.
        config: how; the defaults of ``TrainConfig`` where it is left out.
        init: a checkpoint to start from, of any members, with the same features and shape, or a
            router that comes with the package, such as ``pretrained:numeric``. Where the run has
            too few labels, or only one class, to learn from, its weights are kept, and the members
            are known by their habits and skills.
        own_grader: the caller's own ``module:function``, where the run was graded by it.
        show_progress: a progress bar.
        say: shown how it went.

    Returns:
        The router.

    Raises:
        RunFolderError: the run is missing, or can't be learned from.
        CheckpointError: ``init`` does not fit, the verifier is damaged, or ``out`` holds something
            else.
        ConfigError: the configuration asks for hidden states that the run lacks.
    """
    out, config = Path(out), config or TrainConfig()
    check_checkpoint_folder(out)
    data = read_labelled_run(Path(run), own_grader=own_grader)
    spec = FeatureSpec(groups=groups_for(config.groups, data.grader))
    verifier = Verifier.load(config.verifier) if config.verifier else None
    start = _start(init, data, spec, verifier) if init is not None else None
    fitted_on, calibration = _splits(data)
    key = choose_hidden_key(data, config.hidden_states, fitted_on)
    examples = gather_examples(data, spec, hidden_key=key, verifier=verifier)
    learned_from = examples.take(fitted_on)
    kept = nothing_to_learn(learned_from) if init is not None else None
    if init is None:
        check_examples(learned_from)
    if kept is not None:
        say(f"{kept}; the weights and operating points of {init} are kept as they are")
    network = start.network if start is not None else None
    if start is not None:
        # With its seed the same networks leave out the same questions as in its own training.
        config = replace(config, seed=start.card.trained_on["config"]["seed"])
    work = _work_folder(out, config, learned_from, network)
    with tracking(config, work) as followed:
        fitted = fit_network(
            learned_from,
            config,
            start=network,
            work=work,
            loggers=followed.loggers,
            show_progress=show_progress,
        )
        scores = fitted.out_of_fold.scores([data.labels[i].vote_answer for i in fitted_on])
        curve = threshold_table(replay(data, fitted_on, scores, _UNDECIDED), split=_OUT_OF_FOLD)
        stepwise = None
        if kept is None:
            stepwise = fit_stepwise(
                data, fitted_on, calibration, examples, fitted.network, config, say=say
            )
        router = Router(
            replace(
                _card(data, spec, key, examples, fitted.network, config),
                verifier_sha256=verifier.sha256 if verifier is not None else None,
                typical_calls=typical_calls(data, fitted_on),
            ),
            fitted.network,
            verifier=verifier,
            steps=stepwise.policy if stepwise is not None else None,
            known=_known_questions(data, [*fitted_on, *calibration], start, say),
            own_grader=own_grader,
        )
        router.card = replace(
            router.card,
            trained_on={
                **router.card.trained_on,
                "queries": {"fitted": len(fitted_on), "calibration": len(calibration)},
            },
            seen_questions=_seen(data, [*fitted_on, *calibration], start),
            threshold_questions=_for_thresholds(data, fitted_on, calibration, start),
            validation=_validation_figures(data, fitted_on, scores),
            validation_curve=curve.curve(),
            # A handful of labels fixes no threshold.
            operating_points=_parallel_points(start.card)
            if start is not None and kept is not None
            else _points(data, router, fitted_on, scores, calibration),
        )
        if stepwise is not None:
            points = router.card.operating_points
            steps = stepwise.points(points[0])
            # Mid oracles are there to be asked, which only this policy does.
            points = [*steps, *points] if data.manifest.mid_oracles else [*points, *steps]
            router.card = replace(
                router.card, operating_points=points, steps_curve=stepwise.validation.curve()
            )
        router.save(out)
        followed.result(router.card.validation, router.card.validation_curve, out)
    (work / LAST).unlink(missing_ok=True)
    _tell(say, router, out)
    return router


def _splits(run: LabelledRun) -> tuple[list[int], list[int]]:
    """Positions of the queries to fit on, and of those for thresholds only.

    Training and validation queries are fitted on together: every seed is stopped by a quarter of
    them that it leaves out.
    """
    fitted = [i for i, query in enumerate(run.queries) if query.split in ("train", "validation")]
    if not fitted:
        splits = sorted({str(query.split) for query in run.queries})
        raise RunFolderError(
            f"expected queries of the split 'train', found only {', '.join(splits)}; label or "
            "import without --split, or with --split train"
        )
    return fitted, [i for i, query in enumerate(run.queries) if query.split == "calibration"]


def _known_questions(
    run: LabelledRun,
    positions: Sequence[int],
    start: Router | None,
    say: Callable[[str], None],
) -> KnownQuestions | None:
    """What the questions of this training look like; of too few, what those of its start do."""
    known = fit_known_questions([run.queries[i].question for i in positions])
    if known is not None:
        return known
    if start is not None and start.known is not None:
        say(
            f"fewer than {FEWEST} questions: questions of other kinds are told from those of the "
            f"earlier training ({start.known.questions} questions)"
        )
        return start.known
    say(
        f"fewer than {FEWEST} questions: nothing is fitted that would tell them from questions "
        "of other kinds"
    )
    return None


def _card(
    run: LabelledRun,
    spec: FeatureSpec,
    key: str | None,
    examples: Examples,
    network: RouterNetwork,
    config: TrainConfig,
) -> RouterCard:
    sizes: list[int | None] = [states.shape[1] for states in examples.hidden]
    sizes = sizes or [None] * examples.members  # where there are mid oracles none are read
    slopes = network.calibration.tolist()
    return RouterCard(
        members=[
            RouterMember(
                name=name, hidden_size=size, logprobs=_has_logprobs(spec, examples, number)
            )
            for number, (name, size) in enumerate(
                zip(run.manifest.models_before_oracle, sizes, strict=True)
            )
        ],
        oracle=run.manifest.oracle,
        grader=run.manifest.grader,
        feature_groups=list(spec.groups),
        feature_names=list(spec.names),
        hidden_key=key,
        network=network.shape,
        calibration={
            "method": "platt",
            "split": _OUT_OF_FOLD,
            **{
                head: {"slope": slope, "offset": offset}
                for head, (slope, offset) in zip(HEADS, slopes, strict=True)
            },
        },
        reference=run.manifest.reference,
        price_note=run.manifest.price_note,
        trained_on={
            "dataset": run.manifest.dataset,
            "dataset_hash": run.manifest.dataset_hash,
            "config": _told(config),
            "package_version": __version__,
        },
        validation={},
        validation_curve=[],
        operating_points=[_UNDECIDED],
    )


def _parallel_points(card: RouterCard) -> list[OperatingPoint]:
    """Points that do not go by steps, which are of other members."""
    points = [point for point in card.operating_points if point.policy == "parallel"]
    return points or [_UNDECIDED]


def _told(config: TrainConfig) -> dict[str, Any]:
    """The configuration as a card tells it: of a verifier its name, not where it lay."""
    told = asdict(config)
    folder = told.pop("verifier")
    return told if folder is None else {**told, "verifier": Path(folder).name}


def _has_logprobs(spec: FeatureSpec, examples: Examples, member: int) -> bool:
    """Whether the network has seen token log-probabilities of this member."""
    columns = [i for i, name in enumerate(spec.answer_names) if name.startswith("confidence/")]
    return bool(columns) and not bool(examples.answers[:, member, columns].isnan().all())


def _points(
    run: LabelledRun,
    router: Router,
    fitted_on: Sequence[int],
    scores: Sequence[Scores],
    calibration: Sequence[int],
) -> list[OperatingPoint]:
    """Points of the policy that asks all members at once.

    Thresholds are chosen on calibration queries, or out of fold where there are none; whether the
    ensemble may outvote the oracle always out of fold, which is what there is most of.
    """
    positions, said, split = fitted_on, scores, _OUT_OF_FOLD
    if calibration:
        positions, said, split = calibration, score_run(run, router, calibration), "calibration"
    outcomes = replay(run, positions, said, _UNDECIDED)
    gain = threshold_table(outcomes, split=split, rule="gain")
    points = [
        *default_points(threshold_table(outcomes, split=split)),
        gain.at_threshold(
            0.0,
            name="gain-parity",
            target="asks the oracle where it is likelier to be right than the ensemble",
        ),
    ]
    always = OperatingPoint(
        name="most-accurate",
        threshold=ALWAYS,
        target="asks everybody, and takes whoever is surest",
        split=split,
        questions=outcomes.n,
        escalation_rate=1.0,
        cost_ratio=_cost_ratio(outcomes),
    )
    points = [
        replace(point, outvote=choose_outvote(run, fitted_on, scores, point))
        for point in [*points, always]
    ]
    if points[-1].outvote is None:
        points.pop()  # nobody is surer than the oracle
    return [
        point
        if point.outvote is None
        else replace(
            point, accuracy=float(replay(run, positions, said, point).final_correct.mean())
        )
        for point in points
    ]


def _cost_ratio(outcomes: Outcomes) -> float | None:
    """Of asking everybody, over asking the oracle alone; None where that costs nothing."""
    alone = float(outcomes.oracle_cost_usd.sum())
    ratio = 1.0 + float(outcomes.member_cost_usd.sum()) / alone if alone > 0 else np.nan
    return ratio if np.isfinite(ratio) else None


def _validation_figures(
    run: LabelledRun, positions: Sequence[int], scores: Sequence[Scores]
) -> dict[str, float | str | None]:
    metrics = import_extra("sklearn.metrics", extra="train", purpose="training")
    failed = np.array([not run.labels[i].vote_correct for i in positions])
    p = np.array([1.0 if s.p_vote_fails is None else s.p_vote_fails for s in scores])
    share = np.array([run.labels[i].vote_share for i in positions])
    both = 0 < failed.sum() < len(failed)  # else there is no such figure
    return {
        "split": _OUT_OF_FOLD,
        "queries": len(positions),
        "failure_rate": float(failed.mean()),
        "failure_auroc": float(metrics.roc_auc_score(failed, p)) if both else None,
        "agreement_auroc": float(metrics.roc_auc_score(failed, -share)) if both else None,
        "log_loss": float(metrics.log_loss(failed, np.clip(p, 1e-7, 1 - 1e-7), labels=[0, 1])),
        "brier": float(np.mean((p - failed) ** 2)),
    }


def _seen(run: LabelledRun, positions: Sequence[int], start: Router | None) -> list[str]:
    """Hashes of the questions that this training and the one it starts from have seen."""
    own = {question_hash(run.queries[i].question)[:16] for i in positions}
    return sorted(own.union(start.card.seen_questions if start is not None else ()))


def _for_thresholds(
    run: LabelledRun, fitted_on: Sequence[int], calibration: Sequence[int], start: Router | None
) -> list[str]:
    """Hashes of the questions that neither this training nor its start has fitted anything on."""
    own = set(_seen(run, calibration, None)) - set(_seen(run, fitted_on, None))
    if start is None:
        return sorted(own)
    earlier = set(start.card.threshold_questions) - set(_seen(run, fitted_on, None))
    return sorted((own | earlier) - start.card.fitted_questions)


def _start(
    init: str | Path, run: LabelledRun, spec: FeatureSpec, verifier: Verifier | None
) -> Router:
    """A router whose features are this training's; another grader may have compared answers."""
    router = Router.load(init)
    pairs = {
        "features": (router.card.feature_names, list(spec.names)),
        "verifier": (router.card.verifier_sha256, verifier.sha256 if verifier else None),
    }
    if problems := [
        f"{what}: it has {_short(theirs)}, this training {_short(ours)}"
        for what, (theirs, ours) in pairs.items()
        if theirs != ours
    ]:
        raise CheckpointError(
            f"{init} can't be started from: {'; '.join(problems)}; leave out --init"
        )
    return router


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(value[:3])}{', ...' if len(value) > 3 else ''})"
    return "none" if value is None else str(value)


def _work_folder(
    out: Path, config: TrainConfig, examples: Examples, start: RouterNetwork | None
) -> Path:
    """Folder of curves and of the interrupted training, if it is one of the same training."""
    work = out.with_name(f"{out.name}.training")
    work.mkdir(parents=True, exist_ok=True)
    content = {
        "config": asdict(config),
        "examples": _digest(*examples.tensors, *examples.hidden),
        "start": None if start is None else _digest(*start.state_dict().values()),
    }
    stamp, text = work / "training.json", json.dumps(content, indent=2) + "\n"
    if not stamp.is_file() or stamp.read_bytes() != text.encode():
        (work / LAST).unlink(missing_ok=True)
        write_text_atomically(stamp, text)
    return work


def _digest(*parts: HiddenRows) -> str:
    """Hash of tensors and of rows in files, a piece at a time."""
    digest = hashlib.sha256()
    for part in parts:
        for span in spans(part.shape[0]):
            digest.update(np.ascontiguousarray(part[span]).tobytes())
    return digest.hexdigest()


def _tell(say: Callable[[str], None], router: Router, out: Path) -> None:
    figures, counts = router.card.validation, router.card.trained_on["queries"]
    say(
        f"trained on {counts['fitted']} queries; out of fold: failure "
        f"AUROC {_figure(figures['failure_auroc'])} (agreement "
        f"{_figure(figures['agreement_auroc'])}), log-loss {_figure(figures['log_loss'])}"
    )
    for point in router.card.operating_points:
        say(
            f"operating point {point.name}: threshold {point.threshold:.4f}, on {point.questions} "
            f"{point.split} queries accuracy {_figure(point.accuracy)}, escalated "
            f"{_figure(point.escalation_rate)}, cost ratio {_figure(point.cost_ratio)}"
        )
    first = router.card.operating_points[0]
    if first.cost_ratio is not None and first.cost_ratio >= 1.0:
        say(f"at {first.name} this pyramid costs more than the oracle alone: members are too dear")
    say(f"checkpoint: {out}")


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
