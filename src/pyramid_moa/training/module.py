"""The Lightning module: log-loss of both heads; every seed keeps the weights of its best epoch."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.training.config import OptimiserConfig

__all__ = ["RouterModule"]

_SEEDED = ("linear", "first", "first_offset", "second", "offset")


class RouterModule(pl.LightningModule):
    """Fits a ``RouterNetwork``.

    The S networks share batches and nothing else: each is fitted on the queries that are not
    held out for it, as if alone, and stopped by those that are.
    """

    best_loss: Tensor  # [S]
    epochs: Tensor  # []

    def __init__(self, network: RouterNetwork, config: OptimiserConfig, *, seed: int) -> None:
        """Wrap a network whose inputs are fitted and whose weights are drawn."""
        super().__init__()
        self.network = network
        self._config = config
        self._seed = seed
        seeds = network.shape.seeds
        # Buffers, so that an interrupted training finds them in its Lightning checkpoint.
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("best_loss", torch.full((seeds,), torch.inf))
        for name in _SEEDED:
            self.register_buffer(f"best_{name}", getattr(network, name).detach().clone())
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's dropout."""
        torch.manual_seed(self.epoch_seed())

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Sum of the seeds' losses on a batch."""
        losses, held_out = self._losses(batch), batch[3].T
        mine = (~held_out).float()  # [S, B]
        means = (losses * mine).sum(dim=1) / mine.sum(dim=1).clamp(min=1.0)
        self.log("train_loss", means.mean(), on_step=False, on_epoch=True)
        return means.sum()

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Collect the seeds' losses on what is held out for them."""
        losses, held_out = self._losses(batch), batch[3].T.float()
        self._sums.append((losses * held_out).sum(dim=1))
        self._counts.append(held_out.sum(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights of every seed that has become better."""
        loss = torch.stack(self._sums).sum(0) / torch.stack(self._counts).sum(0)  # [S]
        self._sums, self._counts = [], []
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        for name in _SEEDED:
            best, now = getattr(self, f"best_{name}"), getattr(self.network, name).detach()
            best.copy_(torch.where(better.view(-1, *[1] * (now.dim() - 1)), now, best))
        self.epochs += 1
        self.log("val_loss", loss.mean())
        # The mean of the seeds' best is what early stopping watches: it stops when none improves.
        self.log("best_val_loss", self.best_loss.mean())

    def epoch_seed(self) -> int:
        """Seed of what is drawn in the next epoch: the same after a restart as without one.

        Lightning's own count is one behind when the first epoch after a restart is put in order.
        """
        return (self._seed * 1_000_003 + int(self.epochs)) % (1 << 63)

    def restore_best(self) -> None:
        """Put every seed's best weights into the network."""
        with torch.no_grad():
            for name in _SEEDED:
                getattr(self.network, name).copy_(getattr(self, f"best_{name}"))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of forms
        """AdamW; early stopping does what a schedule would."""
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self._config.learning_rate,
            weight_decay=self._config.weight_decay,
        )

    def _losses(self, batch: list[Tensor]) -> Tensor:
        """Log-loss of each seed on each query, shape [S, B]."""
        inputs, fails, oracle, _ = batch
        logits = self.network.logits(inputs)  # [S, B, 2]
        targets = torch.stack([fails, oracle], dim=1).expand_as(logits)
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses[..., 0] + self._config.oracle_weight * losses[..., 1]
