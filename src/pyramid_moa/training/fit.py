"""Fitting: examples in, a calibrated network out. The Lightning Trainer is built here."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar

from pyramid_moa.errors import CheckpointError, RunFolderError
from pyramid_moa.router_model.calibration import fit_platt
from pyramid_moa.router_model.hidden_rows import spans
from pyramid_moa.router_model.network import NetworkShape, RouterNetwork
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.data_module import RouterDataModule
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.module import RouterModule

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["LAST", "Fitted", "check_examples", "fit_network", "held_out_parts"]

LAST = "last.ckpt"
_FEWEST = 20
# Each seed leaves out one of so many parts of the queries, in turn.
_PARTS = 4
_NEUTRAL = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A network and what it says of queries that it was not fitted on.

    Attributes:
        network: in evaluation mode, calibrated.
        out_of_fold: calibrated probabilities [n, 2] of the queries it was fitted on, each from
            the seeds that had left it out.
    """

    network: RouterNetwork
    out_of_fold: torch.Tensor


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
        start: a network of the same shape to go on from.
        work: folder for the Lightning checkpoint of an interrupted training, which is gone on
            with; None keeps none.
        loggers: where curves are written.
        show_progress: a progress bar.

    Returns:
        The network and its out-of-fold probabilities.

    Raises:
        RunFolderError: too few queries, or only one class of labels.
        CheckpointError: ``start`` has another shape.
    """
    check_examples(examples)
    network = _prepared(examples, config, start)
    with torch.no_grad():
        # Reduced once: from here on nobody reads hidden states.
        inputs = network.many_inputs(examples.features, examples.hidden)
    held_out = held_out_parts(examples, seeds=config.network.seeds, seed=config.seed)
    module = RouterModule(network, config.optimiser, seed=config.seed)
    data = RouterDataModule(
        inputs, examples, held_out, batch_size=config.optimiser.batch_size, seed=module.epoch_seed
    )
    last = work / LAST if work is not None else None
    trainer = _trainer(config, work, loggers or [], show_progress=show_progress)
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
    module.restore_best()
    network.eval()
    return Fitted(network=network, out_of_fold=_calibrate(network, inputs, examples, held_out))


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


def held_out_parts(examples: Examples, *, seeds: int, seed: int) -> torch.Tensor:
    """Which queries each seed leaves out: a quarter, with its share of failures.

    Args:
        examples: n queries.
        seeds: S.
        seed: of the division.

    Returns:
        True where a query is left out, shape [n, S].
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)
    order = order[torch.argsort(examples.ensemble_fails[order], stable=True)]
    part = torch.empty(len(examples), dtype=torch.long)
    part[order] = torch.arange(len(examples)) % _PARTS
    return part[:, None] == torch.arange(seeds)[None] % _PARTS


def check_examples(examples: Examples) -> None:
    """Make sure that there is something to learn.

    Raises:
        RunFolderError: too few queries, or only one class of labels.
    """
    if len(examples) < _FEWEST:
        raise RunFolderError(
            f"expected at least {_FEWEST} queries to train on, found {len(examples)}; label more "
            "questions"
        )
    failures = int(examples.ensemble_fails.sum())
    if failures in (0, len(examples)):
        always = "always" if failures else "never"
        raise RunFolderError(
            f"the ensemble {always} fails on the {len(examples)} training queries: there is "
            "nothing to learn; label harder or more questions, or use the vote rule (no checkpoint)"
        )


def _prepared(
    examples: Examples, config: TrainConfig, start: RouterNetwork | None
) -> RouterNetwork:
    """A network whose inputs are fitted and whose weights are drawn, or another's copy."""
    shape = NetworkShape(
        features=examples.features.shape[1],
        hidden_sizes=tuple(states.shape[1] for states in examples.hidden),
        components=config.network.components,
        units=config.network.units,
        seeds=config.network.seeds,
    )
    network = RouterNetwork(shape, dropout=config.network.dropout)
    if start is not None:
        if start.shape != shape:
            raise CheckpointError(
                f"the network to start from has another shape: expected {shape}, found "
                f"{start.shape}; use the same features, hidden states and network configuration"
            )
        network.load_state_dict(start.state_dict())
        network.calibration.copy_(_NEUTRAL)
        return network
    generator = torch.Generator().manual_seed(config.seed)
    network.fit_inputs(examples.features, examples.hidden, generator)
    _fit_prior(network, examples)
    network.reset(torch.Generator().manual_seed(config.seed))
    return network


def _fit_prior(network: RouterNetwork, examples: Examples) -> None:
    """Start from the vote rule: one logistic curve over the vote share for each head."""
    with torch.no_grad():
        share = network.inputs(examples.features, ())[:, 0]
    for head, labels in enumerate((examples.ensemble_fails, examples.oracle_right)):
        # The share counts against failure; a slope learned by its logarithm is positive.
        sign = -1.0 if head == 0 else 1.0
        slope, offset = fit_platt(sign * share, labels)
        network.prior[head] = torch.tensor([sign * slope, offset])


def _trainer(
    config: TrainConfig, work: Path | None, loggers: "list[Logger]", *, show_progress: bool
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
        devices=1,
        max_epochs=config.optimiser.max_epochs,
        callbacks=callbacks,
        logger=loggers or False,
        log_every_n_steps=1,
        enable_checkpointing=work is not None,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _calibrate(
    network: RouterNetwork, inputs: torch.Tensor, examples: Examples, held_out: torch.Tensor
) -> torch.Tensor:
    """Calibrate on out-of-fold logits; give back the calibrated probabilities [n, 2]."""
    with torch.no_grad():
        parts = [network.logits(inputs[span]) for span in spans(len(inputs))]
    logits = torch.cat(parts, dim=1)  # [S, n, 2]
    weights = held_out.T[..., None].float()
    # With fewer seeds than parts some queries were left out by nobody; they calibrate nothing.
    seen = held_out.any(dim=1)
    mean = (logits * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1.0)  # [n, 2]
    mean[~seen] = logits.mean(dim=0)[~seen]
    for head, labels in enumerate((examples.ensemble_fails, examples.oracle_right)):
        slope, offset = fit_platt(mean[seen, head], labels[seen])
        network.calibration[head] = torch.tensor([slope, offset])
    return torch.sigmoid(mean * network.calibration[:, 0] + network.calibration[:, 1])
