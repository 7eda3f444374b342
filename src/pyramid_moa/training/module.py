"""The Lightning module: which answer is right, if any; is the oracle; each network's best kept."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pyramid_moa.router_model.network import Logits, RouterNetwork
from pyramid_moa.training.config import OptimiserConfig
from pyramid_moa.training.data_module import RouterBatch

__all__ = ["RouterModule"]


class RouterModule(pl.LightningModule):
    """Fits a ``RouterNetwork``.

    The S networks share batches and nothing else: each is fitted on the queries that are not held
    out for it, as if alone, and stopped by those that are. What is validated and kept is a running
    mean of the weights (Polyak averaging), which a few hundred questions judge more steadily than
    the weights of a single step.
    """

    best_loss: Tensor  # [S]
    epochs: Tensor  # []
    steps: Tensor  # []

    def __init__(
        self, network: RouterNetwork, config: OptimiserConfig, *, learning_rate: float, seed: int
    ) -> None:
        """Wrap a network whose inputs are fitted and whose weights are drawn or another's."""
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self._config = config
        self._seed = seed
        self._names = tuple(name for name, _ in network.named_parameters())
        # Buffers, so that an interrupted training finds them in its Lightning checkpoint.
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("best_loss", torch.full((network.shape.seeds,), torch.inf))
        for name, value in network.named_parameters():
            for kind in ("best", "mean", "anchor"):
                self.register_buffer(_buffer(kind, name), value.detach().clone())
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Seed the epoch's dropout."""
        torch.manual_seed(self.epoch_seed())

    def training_step(self, batch: RouterBatch, batch_index: int) -> Tensor:
        """Sum of the networks' losses on a batch."""
        losses = self._losses(self.network.logits(batch.drawn.inputs), batch)
        mine = (~batch.held_out.T).float()  # [S, B]
        # Processes share a batch, and each network's mean is over all of it.
        count = self._over_processes(mine.sum(dim=1)) / self.trainer.world_size
        means = (losses * mine).sum(dim=1) / count.clamp(min=1.0)
        self.log(
            "train_loss",
            means.mean(),
            on_step=False,
            on_epoch=True,
            batch_size=len(mine.T),
            sync_dist=self.trainer.world_size > 1,
        )
        return means.sum()

    def on_train_batch_end(self, outputs: Any, batch: RouterBatch, batch_index: int) -> None:  # noqa: ANN401 - Lightning's
        """Pull towards where the weights began, and move their running mean."""
        self.steps += 1
        # Early on the mean is of few steps, and soon leaves the first ones behind.
        share = max(1.0 - self._config.averaging, 1.0 / (1.0 + 0.1 * float(self.steps)))
        pull = self.learning_rate * self._config.weight_decay
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.lerp_(self._kept("anchor", name), pull)
                self._kept("mean", name).lerp_(value, share)

    def validation_step(self, batch: RouterBatch, batch_index: int) -> None:
        """Collect the networks' losses on what is held out for them."""
        losses = self._losses(self.mean_logits(batch), batch)
        held_out = batch.held_out.T.float()
        self._sums.append((losses * held_out).sum(dim=1))
        self._counts.append(held_out.sum(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights of every network that has become better."""
        # Of two dozen queries a part may be empty: its network keeps the first epoch's weights.
        counts = self._over_processes(torch.stack(self._counts).sum(0)).clamp(min=1.0)
        loss = self._over_processes(torch.stack(self._sums).sum(0)) / counts  # [S]
        self._sums, self._counts = [], []
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        for name in self._names:
            best, now = self._kept("best", name), self._kept("mean", name)
            best.copy_(torch.where(better.view(-1, *[1] * (now.dim() - 1)), now, best))
        if self.trainer.sanity_checking:  # before the first step: what it is started from
            return
        self.epochs += 1
        shared = self.trainer.world_size > 1
        self.log("val_loss", loss.mean(), sync_dist=shared)
        # The mean of the networks' best is what early stopping watches.
        self.log("best_val_loss", self.best_loss.mean(), sync_dist=shared)

    def mean_logits(self, batch: RouterBatch) -> Logits:
        """What the running mean of the weights says."""
        weights = {name: self._kept("mean", name) for name in self._names}
        logits: Logits = functional_call(
            _LogitsOf(self.network),
            {f"network.{k}": v for k, v in weights.items()},
            batch.drawn.inputs,
        )
        return logits

    def epoch_seed(self) -> int:
        """Seed of what is drawn in the next epoch: the same after a restart as without one.

        Lightning's own count is one behind when the first epoch after a restart is put in order.
        """
        return (self._seed * 1_000_003 + int(self.epochs)) % (1 << 63)

    def restore_best(self) -> None:
        """Put every network's best weights in place."""
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(self._kept("best", name))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; early stopping does what a schedule would, ``on_train_batch_end`` the decay."""
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def _over_processes(self, values: Tensor) -> Tensor:
        """Sum over the processes that share the fitting."""
        summed: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return summed

    def _kept(self, kind: str, name: str) -> Tensor:
        kept: Tensor = getattr(self, _buffer(kind, name))
        return kept

    def _losses(self, logits: Logits, batch: RouterBatch) -> Tensor:
        """Log-loss of each network on each query, shape [S, B]."""
        seeds, queries, _ = logits.candidates.shape
        target = batch.drawn.target
        right = cross_entropy(
            logits.candidates.flatten(0, 1), target.repeat(seeds), reduction="none"
        ).view(seeds, queries)
        somebody = (target > 0).long()[None, :, None].expand(seeds, -1, 1)
        oracle = binary_cross_entropy_with_logits(
            logits.oracle.gather(2, somebody)[..., 0],
            batch.drawn.oracle_right.expand(seeds, -1),
            reduction="none",
        )
        return right + self._config.oracle_weight * oracle


class _LogitsOf(torch.nn.Module):
    """A module whose call is the network's ``logits``: ``functional_call`` calls modules."""

    def __init__(self, network: RouterNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Any) -> Logits:  # noqa: ANN401 - as torch hands it on
        return self.network.logits(inputs)


def _buffer(kind: str, name: str) -> str:
    """Name of a buffer: torch allows no dots in one."""
    return f"{kind}_{name.replace('.', '_')}"
