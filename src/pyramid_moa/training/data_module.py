"""The Lightning data module: batches of examples, shuffled from a seed."""

from collections.abc import Callable, Iterator

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from pyramid_moa.training.examples import Examples

__all__ = ["RouterDataModule"]

_VALIDATION_BATCH = 4096


class RouterDataModule(pl.LightningDataModule):
    """Batches of (inputs [B, D], ensemble fails [B], oracle right [B], held out [B, S]).

    Training and validation go over the same queries: which of them a seed is fitted on and which
    it is stopped by is its own affair, written in ``held out``.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        examples: Examples,
        held_out: torch.Tensor,
        *,
        batch_size: int,
        seed: Callable[[], int],
    ) -> None:
        """Put together what a batch is cut from.

        Args:
            inputs: the network's, [n, D].
            examples: the n queries, for their labels.
            held_out: [n, S].
            batch_size: B of training.
            seed: asked for the seed of the order at the beginning of each epoch.
        """
        super().__init__()
        self._data = TensorDataset(inputs, examples.ensemble_fails, examples.oracle_right, held_out)
        self._batch_size = batch_size
        self._seed = seed

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Shuffled batches, the same order for the same seeds."""
        return _loader(self._data, _Batches(len(self._data), self._batch_size, seed=self._seed))

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Batches in order."""
        return _loader(self._data, _Batches(len(self._data), _VALIDATION_BATCH, seed=None))


class _Batches(Sampler[list[int]]):
    """Positions of whole batches: in order, or shuffled from what ``seed`` says at the time."""

    def __init__(self, count: int, batch_size: int, *, seed: Callable[[], int] | None) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        if self._seed is None:
            order = torch.arange(self._count)
        else:
            generator = torch.Generator().manual_seed(self._seed())
            order = torch.randperm(self._count, generator=generator)
        for batch in order.split(self._batch_size):
            yield batch.tolist()

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)


def _loader(data: TensorDataset, batches: _Batches) -> DataLoader[tuple[torch.Tensor, ...]]:
    # A sampler of whole batches: tensors are indexed once a batch instead of once a row.
    return DataLoader(
        data,
        sampler=batches,
        batch_size=None,
        num_workers=0,
        # For a number that it draws for its workers: not from the generator of the dropout.
        generator=torch.Generator(),
    )
