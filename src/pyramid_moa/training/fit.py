"""Fitting: examples in, a calibrated network out. The Lightning Trainer is built here."""

import hashlib
import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch.nn.functional import softmax

from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.router_model.calibration import AS_IT_IS, Prior, fit_platt
from pyramid_moa.router_model.network import (
    HEADS,
    NetworkShape,
    RouterNetwork,
    chosen_places,
    head_logits,
)
from pyramid_moa.router_model.policy import Scores
from pyramid_moa.router_model.vote_figures import vote_places
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.data_module import RouterBatch, RouterDataModule
from pyramid_moa.training.draws import all_members, draw, first_members, served_whole
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.module import RouterModule
from pyramid_moa.training.new_features import fit_new_inputs, ignore_never_known

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = [
    "FEWEST_LABELS",
    "LAST",
    "Fitted",
    "Scored",
    "check_examples",
    "fit_network",
    "held_out_parts",
    "nothing_to_learn",
    "scored",
]

LAST = "last.ckpt"
FEWEST_LABELS = 20
"""Labelled queries, at least, that a network is fitted on."""
# What the calibration of a network to start from is worth. Of 50 and 100 labels of five pyramids
# that are not in the suite, log-loss is the less the more it is worth; with hundreds it fades.
_START_QUESTIONS = 100.0
# Each network leaves out one of so many parts of the queries, in turn.
_PARTS = 4
_NEUTRAL = torch.tensor([[1.0, 0.0]] * len(HEADS))
_SCORED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What is said of n queries.

    Attributes:
        probabilities: calibrated, [n, heads] in the order of ``HEADS``.
        choice: place of the member whose answer is the ensemble's, int [n].
    """

    probabilities: torch.Tensor
    choice: torch.Tensor

    def scores(self, vote_answers: Sequence[str | None]) -> list[Scores]:
        """One entry a query; an ensemble without an answer has failed for certain.

        Args:
            vote_answers: n answers of the majority, None where nobody gave one.
        """
        rows = zip(self.probabilities.tolist(), self.choice.tolist(), vote_answers, strict=True)
        return [
            Scores(
                p_ensemble_fails=fails if answer is not None else 1.0,
                p_vote_fails=vote_fails if answer is not None else 1.0,
                p_oracle_right=oracle,
                choice=choice if answer is not None else None,
            )
            for (fails, vote_fails, oracle), choice, answer in rows
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A network and what it says of queries that it was not fitted on.

    Attributes:
        network: in evaluation mode, calibrated.
        out_of_fold: what is said of the queries it was fitted on, each by the networks that had
            left it out.
    """

    network: RouterNetwork
    out_of_fold: Scored


def fit_network(
    examples: Examples,
    config: TrainConfig,
    *,
    start: RouterNetwork | None = None,
    work: Path | None = None,
    loggers: "list[Logger] | None" = None,
    show_progress: bool = False,
) -> Fitted:
    """Fit and calibrate a network.

    Each of the averaged seeds leaves out a quarter of the queries, which stops it early and
    chooses its weights. What the seeds say of queries that they left out calibrates the whole: a
    few hundred labels are too few to give a part of them to nothing else.

    Args:
        examples: what it is fitted on.
        config: how.
        start: a network of the same shape to go on from. Fitted with the same seed it has left out
            the same questions, whatever its run, so that what is said out of fold stays so. Where
            there is nothing to learn it is kept, calibration and all, and told only of the
            members' habits and skills.
        work: folder for the Lightning checkpoint of an interrupted training, which is gone on
            with; None keeps none.
        loggers: where curves are written.
        show_progress: a progress bar.

    Returns:
        The network and its out-of-fold probabilities.

    Raises:
        RunFolderError: too few queries, or only one class of labels, and no start.
        CheckpointError: ``start`` has another shape.
        ConfigError: training diverged.
    """
    if start is None:
        check_examples(examples)
    network = _prepared(examples, config, start)
    with torch.no_grad():
        # Reduced once: from here on nobody reads hidden states.
        components = network.reduce_rows(examples.hidden, len(examples))
    held_out = held_out_parts(examples.questions, seeds=config.network.seeds, seed=config.seed)
    optimiser = config.optimiser
    module = RouterModule(
        network,
        optimiser,
        learning_rate=optimiser.learning_rate if start is None else optimiser.init_learning_rate,
        seed=config.seed,
    )
    data = RouterDataModule(
        replace(examples, hidden=()),
        components,
        held_out,
        batch_size=config.optimiser.batch_size,
        batches=config.optimiser.epoch_batches,
        seed=module.epoch_seed,
    )
    if start is not None and nothing_to_learn(examples):
        network.eval().calibration.copy_(start.calibration)
        # Skills of strangers are nought; of a handful of labels that is the better guess.
        network.skills *= len(examples) / (len(examples) + FEWEST_LABELS)
        logits, _, choice = _left_out(network, data.everybody())
        return Fitted(network=network, out_of_fold=_calibrated(network, logits, choice))
    last = work / LAST if work is not None else None
    trainer = _trainer(
        config, work, loggers or [], started=start is not None, show_progress=show_progress
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Lightning's advice on workers is for data that has to be loaded; ours is in memory.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The folder holds the curves of the same training, which go on.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # A warning of torch's own about how Lightning calls it.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # It is ours: curves of earlier trainings, and the checkpoint that is gone on with.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
        torch.manual_seed(config.seed)
        resume = str(last) if last is not None and _is_whole(last) else None
        try:
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        except SystemExit as end:
            # Lightning turns Ctrl-C into the end of the process; the caller has a word in that.
            raise KeyboardInterrupt from end
    if not module.best_loss.isfinite().all():
        raise ConfigError(
            "training diverged: the validation loss was never finite; expected a lower "
            f"optimiser.learning_rate than {module.learning_rate:g}"
        )
    module.restore_best()
    ignore_never_known(network, examples.answers)
    network.eval()
    return Fitted(network=network, out_of_fold=_calibrate(network, examples, data, start))


def _is_whole(last: Path) -> bool:
    """Whether there is a checkpoint to go on from; a damaged one is given up."""
    if not last.is_file():
        return False
    try:
        torch.load(last, weights_only=True)  # noqa: TID251 - tensors and numbers only, no code
    except Exception as error:  # whatever a damaged file makes of the reader
        logging.getLogger(__name__).warning(
            "%s is damaged (%s): training starts afresh", last, type(error).__name__
        )
        last.unlink()
        return False
    return True


def vote_fails(examples: Examples) -> torch.Tensor:
    """Where the majority's answer, of those who are asked first, is wrong: bool [n]."""
    clusters = examples.clusters[:, : examples.asked_first]
    voted = examples.right.gather(1, vote_places(clusters)[:, None])[:, 0]
    return voted == 0


def held_out_parts(questions: Sequence[str], *, seeds: int, seed: int) -> torch.Tensor:
    """Which queries each network leaves out: a quarter, by their questions.

    A question's part follows from its hash and the seed alone. So equal questions are left out
    together, and a network that starts from another, fitted with the same seed on whatever run,
    leaves out what that one had left out.

    Args:
        questions: hashes, n.
        seeds: S; with fewer than four, two networks leave out a half each, three a third.
        seed: of the division.

    Returns:
        True where a query is left out, shape [n, S]; every query by somebody.
    """
    parts = min(_PARTS, seeds)
    digests = [hashlib.sha256(f"left out {seed} {text}".encode()).digest() for text in questions]
    part = torch.tensor([int.from_bytes(digest[:8], "big") % parts for digest in digests])
    return part[:, None] == torch.arange(seeds)[None] % parts


def nothing_to_learn(examples: Examples) -> str | None:
    """Why queries are too few, or too much alike, to fit a network on; None where they do."""
    if len(examples) < FEWEST_LABELS:
        return (
            f"expected at least {FEWEST_LABELS} queries to train on, found {len(examples)}; label "
            "more questions"
        )
    failures = int(vote_fails(examples).sum())
    if failures in (0, len(examples)):
        always = "always" if failures else "never"
        return (
            f"the ensemble {always} fails on the {len(examples)} training queries: there is "
            "nothing to learn; label harder or more questions, or use the vote rule (no checkpoint)"
        )
    return None


def check_examples(examples: Examples) -> None:
    """Make sure that there is something to learn.

    Raises:
        RunFolderError: too few queries, or only one class of labels.
    """
    if reason := nothing_to_learn(examples):
        raise RunFolderError(reason)


def _prepared(
    examples: Examples, config: TrainConfig, start: RouterNetwork | None
) -> RouterNetwork:
    """A network whose inputs are fitted and whose weights are drawn, or another's.

    What a network to start from knows of its own members is left behind: theirs are others.
    """
    network = RouterNetwork(_shape(examples, config), dropout=config.network.dropout)
    generator = torch.Generator().manual_seed(config.seed)
    if start is None:
        network.fit_inputs(examples.answers, examples.relations, examples.question)
        network.reset(torch.Generator().manual_seed(config.seed))
    else:
        _start_from(network, start)
        fit_new_inputs(network, examples.answers)
    network.fit_hidden(examples.hidden, generator)
    members = all_members(examples, len(examples))
    network.fit_members(examples.answers, members, examples.right)
    return network


def _shape(examples: Examples, config: TrainConfig) -> NetworkShape:
    return NetworkShape(
        answer_features=examples.answers.shape[-1],
        relation_features=examples.relations.shape[-1],
        question_features=examples.question.shape[-1],
        members=examples.members,
        hidden_sizes=tuple(states.shape[1] for states in examples.hidden),
        components=config.network.components,
        code=config.network.code,
        units=config.network.units,
        seeds=config.network.seeds,
    )


def _start_from(network: RouterNetwork, start: RouterNetwork) -> None:
    """Take over everything but what belongs to known members."""
    own = ("habits", "skills", "member_code", "hidden_", "calibration")
    shared = {k: v for k, v in start.state_dict().items() if not k.startswith(own)}
    found = network.state_dict()
    if wrong := [
        f"{name}: {list(found[name].shape)} and {list(value.shape)}"
        for name, value in shared.items()
        if found[name].shape != value.shape
    ]:
        raise CheckpointError(
            "the network to start from has another shape: expected and found "
            f"{'; '.join(wrong[:4])}; use the same feature groups and network configuration"
        )
    network.load_state_dict(shared, strict=False)


def _trainer(
    config: TrainConfig,
    work: Path | None,
    loggers: "list[Logger]",
    *,
    started: bool,
    show_progress: bool,
) -> pl.Trainer:
    # Its lines on GPUs found and tips of the day drown ours.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    callbacks: list[Callback] = [
        EarlyStopping("best_val_loss", patience=config.optimiser.patience, min_delta=1e-5)
    ]
    if work is not None:
        # Without a monitor it keeps the latest epoch; with save_top_k=0 it would keep none at all.
        callbacks.append(
            ModelCheckpoint(
                dirpath=work,
                filename=Path(LAST).stem,
                save_top_k=1,
                # Validation included, so that what is gone on with begins with a whole epoch.
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    if show_progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    return pl.Trainer(
        accelerator="cpu",  # a few thousand weights: moving them to a GPU takes longer than fitting
        devices=config.optimiser.processes,
        # Torch shares the examples' memory among processes; it can't fork one that has trained.
        strategy="ddp_spawn" if config.optimiser.processes > 1 else "auto",
        # Every process takes its part of each batch, see ``RouterDataModule``.
        use_distributed_sampler=False,
        max_epochs=config.optimiser.max_epochs,
        callbacks=callbacks,
        logger=loggers or False,
        log_every_n_steps=1,
        enable_checkpointing=work is not None,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        # What is started from may be the best there is.
        num_sanity_val_steps=-1 if started else 0,
    )


def scored(network: RouterNetwork, examples: Examples, *, strangers: bool = False) -> Scored:
    """What a fitted network says of queries, the whole first tier asked.

    Args:
        network: calibrated.
        examples: n queries of its members.
        strangers: the members are others, whom it does not know.
    """
    parts, choices = [], []
    with torch.inference_mode():
        components = network.reduce_rows(examples.hidden, len(examples))
        for index in torch.arange(len(examples)).split(_SCORED_AT_ONCE):
            members = first_members(examples, len(index))
            unknown = torch.full((len(index),), strangers)
            drawn = draw(examples, components, index, members, unknown)
            probabilities, right = network.probabilities(drawn.inputs)
            parts.append(probabilities)
            choices.append(chosen_places(right, drawn.inputs.clusters))
    return Scored(probabilities=torch.cat(parts), choice=torch.cat(choices))


def _calibrate(
    network: RouterNetwork,
    examples: Examples,
    data: RouterDataModule,
    start: RouterNetwork | None,
) -> Scored:
    """Calibrate on what networks say of queries that they left out.

    Where another network was started from its calibration is what a hundred labels would say.
    """
    logits, labels, choice = _left_out(network, data.as_validated())
    for head in range(len(HEADS)):
        prior = AS_IT_IS
        if start is not None:
            slope, offset = start.calibration[head].tolist()
            prior = Prior(slope=max(slope, 1e-3), offset=offset, questions=_START_QUESTIONS)
        fitted = fit_platt(logits[:, head], labels[:, head], prior)
        network.calibration[head] = torch.tensor(fitted)
    if not served_whole(examples.members):
        # Calibrated on small ensembles, as others will be served; told of everybody's.
        logits, _, choice = _left_out(network, data.everybody())
    return _calibrated(network, logits, choice)


def _calibrated(network: RouterNetwork, logits: torch.Tensor, choice: torch.Tensor) -> Scored:
    slopes, offsets = network.calibration.unbind(1)
    return Scored(probabilities=torch.sigmoid(logits * slopes + offsets), choice=choice)


def _left_out(
    network: RouterNetwork, batches: Iterable[RouterBatch]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [n, heads], labels [n, heads] and choice [n], of those that left a query out."""
    rows = []
    for batch in batches:
        drawn = batch.drawn
        with torch.no_grad():
            logits = network.logits(drawn.inputs)
        weights = batch.held_out.T.float()  # [S, B]
        weights = (weights / weights.sum(0))[..., None]
        right = (softmax(logits.candidates, dim=-1) * weights).sum(0)
        oracle = torch.logit((torch.sigmoid(logits.oracle) * weights).sum(0), eps=1e-6)
        raw = head_logits(right, oracle[None], drawn.inputs.clusters)
        choice = chosen_places(right[:, 1:], drawn.inputs.clusters)
        voted = vote_places(drawn.inputs.clusters)
        labels = [drawn.target != 1 + choice, drawn.target != 1 + voted, drawn.oracle_right > 0]
        rows.append((raw, torch.stack(labels, dim=1).float(), choice))
    said, labelled, choices = zip(*rows, strict=True)
    return torch.cat(said), torch.cat(labelled), torch.cat(choices)
