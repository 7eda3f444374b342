"""Where a training is followed: always in CSV files, and by whatever logger is named beside."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pyramid_moa.errors import ConfigError, import_extra
from pyramid_moa.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

__all__ = ["Tracking", "tracking"]


class Tracking:
    """The loggers of one training."""

    def __init__(self, loggers: "Sequence[Logger]", board: "WandbLogger | None") -> None:
        """Hold the loggers, and the one of W&B among them, if any."""
        self.loggers = list(loggers)
        self._board = board

    def result(
        self,
        figures: Mapping[str, float | str | None],
        curve: Sequence[Mapping[str, float | None]],
        checkpoint: Path,
    ) -> None:
        """Hand on what came of the training.

        Args:
            figures: by name, to every logger; those that are no numbers are left out.
            curve: rows of one table, to W&B.
            checkpoint: the folder, to W&B as an artifact.
        """
        numbers = {f"result/{k}": v for k, v in figures.items() if isinstance(v, int | float)}
        for logger in self.loggers:
            logger.log_metrics(numbers)
            logger.save()
        if self._board is None:
            return
        columns = list(curve[0])
        rows = [[row[name] for name in columns] for row in curve]
        self._board.log_table("validation_curve", columns=columns, data=rows)
        wandb = import_extra("wandb", extra="train", purpose="the logger wandb")
        # A name of W&B may hold no other characters.
        name = re.sub(r"[^A-Za-z0-9._-]", "-", checkpoint.resolve().name)[:128]
        artifact = wandb.Artifact(f"router-{name}", type="router")
        artifact.add_dir(str(checkpoint))
        self._board.experiment.log_artifact(artifact)


@contextmanager
def tracking(config: TrainConfig, work: Path) -> Iterator[Tracking]:
    """Open the loggers of a training, and close what they hold open.

    Args:
        config: of the training; names the loggers.
        work: folder for their files.

    Raises:
        ConfigError: a class is no Lightning logger, or can't be made.
        MissingExtraError: W&B is not installed.
    """
    from lightning.pytorch.loggers import CSVLogger

    # Each training, and each part of an interrupted one, has a folder of its own in it.
    loggers: list[Logger] = [CSVLogger(work, name="csv")]
    board = None
    for name in dict.fromkeys(config.tracking.loggers):
        if name == "wandb":
            board = _wandb(config, work)
            loggers.append(board)
        elif name != "csv":
            loggers.append(_named(name, work))
    try:
        yield Tracking(loggers, board)
    finally:
        if board is not None:
            # Otherwise the next training in this process would go on in this one's run.
            import_extra("wandb", extra="train", purpose="the logger wandb").finish()


def _wandb(config: TrainConfig, work: Path) -> "WandbLogger":
    import_extra("wandb", extra="train", purpose="the logger wandb")
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        project=config.tracking.wandb_project,
        save_dir=work,
        offline=config.tracking.wandb_offline,
        config=asdict(config),
    )


def _named(name: str, work: Path) -> "Logger":
    """A logger by its class; Lightning's own take the folder of their files as ``save_dir``."""
    from lightning.pytorch.loggers import Logger

    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"tracking.loggers: expected csv, wandb or the class of a Lightning logger such as "
            f"lightning.pytorch.loggers.TensorBoardLogger, found {name!r} ({error})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise ConfigError(f"tracking.loggers: {name} is no Lightning logger")
    if found.__name__ == "WandbLogger":
        raise ConfigError(f"tracking.loggers: expected wandb, which keeps to wandb_offline: {name}")
    make: Callable[..., Logger] = found
    try:
        return make(save_dir=work)
    except (TypeError, ImportError) as error:
        raise ConfigError(f"tracking.loggers: {name} can't be made: {error}") from error
