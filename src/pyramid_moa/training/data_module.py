"""The Lightning data module: queries shuffled and members drawn, from a seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pyramid_moa.training.draws import (
    Drawn,
    draw,
    draw_members,
    draw_strangers,
    first_members,
    served_whole,
)
from pyramid_moa.training.examples import Examples

__all__ = ["RouterBatch", "RouterDataModule"]

_VALIDATION_BATCH = 1024
# Of dozens of members every two are compared.
_EVERYBODY_BATCH = 128
# Random ensembles a query is validated by, where there are too many members to ask them all.
_VALIDATION_DRAWS = 4


@dataclass(frozen=True, kw_only=True)
class RouterBatch:
    """A batch.

    Attributes:
        drawn: inputs and targets of B queries.
        held_out: which networks must not learn from which query, bool [B, S].
    """

    drawn: Drawn
    held_out: torch.Tensor


class RouterDataModule(pl.LightningDataModule):
    """Batches of queries with drawn members.

    Training and validation go over the same queries: which of them a network is fitted on and
    which it is stopped by is its own affair, written in ``held_out``.
    """

    def __init__(
        self,
        examples: Examples,
        components: torch.Tensor,
        held_out: torch.Tensor,
        *,
        batch_size: int,
        batches: int,
        seed: Callable[[], int],
    ) -> None:
        """Put together what a batch is cut from.

        Args:
            examples: n queries.
            components: their reduced hidden states, [n, M, K] or [n, 0, K].
            held_out: [n, S].
            batch_size: B of training.
            batches: of an epoch, at least; a larger epoch goes over all queries once.
            seed: asked for the seed of what is drawn at the beginning of each epoch.
        """
        super().__init__()
        self._data = _Queries(examples, components, held_out)
        self._examples = examples
        self._batch_size, self._batches, self._seed = batch_size, batches, seed

    def transfer_batch_to_device(
        self, batch: RouterBatch, device: torch.device, dataloader_idx: int
    ) -> RouterBatch:
        """Batches stay where they are: the network is fitted on the CPU, see ``fit``."""
        return batch

    def train_dataloader(self) -> "DataLoader[RouterBatch]":
        """Shuffled queries and drawn members, the same for the same seeds."""
        trainer = self._trainer()
        return _loader(
            self._data,
            _Draws(
                self._examples,
                batch_size=self._batch_size,
                batches=self._batches,
                seed=self._seed,
                part=slice(trainer.global_rank, None, trainer.world_size),
            ),
        )

    def val_dataloader(self) -> "DataLoader[RouterBatch]":
        """All queries in order, with all their members, or always the same draws of them."""
        trainer = self._trainer()
        part = slice(trainer.global_rank, None, trainer.world_size)
        return _loader(self._data, _Validation(self._examples, part=part))

    def as_validated(self) -> Iterator[RouterBatch]:
        """The batches of validation, whole."""
        for key in _Validation(self._examples, part=slice(None)):
            yield self._data[key]

    def everybody(self) -> Iterator[RouterBatch]:
        """All queries in order with all members of the first tier, however many."""
        for index in torch.arange(len(self._examples)).split(_EVERYBODY_BATCH):
            members = first_members(self._examples, len(index))
            yield self._data[index, members, torch.zeros(len(index), dtype=torch.bool)]

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer


_Key = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class _Queries(Dataset[RouterBatch]):
    def __init__(
        self, examples: Examples, components: torch.Tensor, held_out: torch.Tensor
    ) -> None:
        self._examples, self._components, self._held_out = examples, components, held_out

    def __getitem__(self, key: _Key) -> RouterBatch:
        index, members, strangers = key
        return RouterBatch(
            drawn=draw(self._examples, self._components, index, members, strangers),
            held_out=self._held_out[index],
        )


class _Draws(Sampler[_Key]):
    """This process's part of the batches of training, drawn anew from what ``seed`` says."""

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        batches: int,
        seed: Callable[[], int],
        part: slice,
    ) -> None:
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        self._part = part
        self._rounds = max(1, -(-batches * batch_size // len(examples)))

    def __iter__(self) -> Iterator[_Key]:
        generator = torch.Generator().manual_seed(self._seed())
        rounds = [
            torch.randperm(len(self._examples), generator=generator) for _ in range(self._rounds)
        ]
        for index in torch.cat(rounds).split(self._batch_size):
            examples = self._examples
            members = draw_members(
                examples.members, len(index), generator, first_tier=examples.asked_first
            )
            strangers = draw_strangers(len(index), generator)
            yield index[self._part], members[self._part], strangers[self._part]

    def __len__(self) -> int:
        return -(-self._rounds * len(self._examples) // self._batch_size)


class _Validation(Sampler[_Key]):
    """This process's part of the batches of validation."""

    def __init__(self, examples: Examples, *, part: slice) -> None:
        self._examples = examples
        self._part = part
        self._rounds = 1 if served_whole(examples.members) else _VALIDATION_DRAWS

    def __iter__(self) -> Iterator[_Key]:
        generator = torch.Generator().manual_seed(0)
        many = not served_whole(self._examples.members)
        for _ in range(self._rounds):
            for index in torch.arange(len(self._examples)).split(_VALIDATION_BATCH):
                members = (
                    draw_members(self._examples.members, len(index), generator)
                    if many
                    else first_members(self._examples, len(index))
                )
                strangers = torch.zeros(len(index), dtype=torch.bool)
                yield index[self._part], members[self._part], strangers[self._part]

    def __len__(self) -> int:
        return self._rounds * -(-len(self._examples) // _VALIDATION_BATCH)


def _loader(data: _Queries, batches: "Sampler[_Key]") -> "DataLoader[RouterBatch]":
    return DataLoader(
        data,
        sampler=batches,
        batch_size=None,
        num_workers=0,
        # For a number that it draws for its workers: not from the generator of the dropout.
        generator=torch.Generator(),
    )
