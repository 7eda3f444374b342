"""Hidden states of many queries, read some rows at a time: they may be more than memory holds."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ChosenRows", "HiddenRows", "float_rows", "spans"]

# Rows in memory at one time: 32 MB of float32 for the widest models, and long enough for a matrix
# product to be worth its call.
_ROWS = 1024


class HiddenRows(Protocol):
    """Rows [n, H] that are copied out as they are asked for; an array in memory is one as well."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows n and width H."""

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.floating[Any]] | Tensor:
        """Some of the rows, [m, H]."""


def spans(count: int) -> Iterator[slice]:
    """Cut n rows into pieces that fit into memory, in order; one empty piece where there are none.

    Args:
        count: n.
    """
    for first in range(0, max(count, 1), _ROWS):
        yield slice(first, min(first + _ROWS, count))


def float_rows(rows: HiddenRows, span: slice) -> Tensor:
    """Copy a piece into memory: float32 [m, H]."""
    return torch.as_tensor(rows[span]).float()


class ChosenRows:
    """Some rows of others, in an order of their own."""

    def __init__(self, rows: HiddenRows, positions: NDArray[np.int64]) -> None:
        """Choose rows by position; none is copied."""
        self._rows = rows
        self._positions = positions

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, H]."""
        return len(self._positions), self._rows.shape[1]

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.floating[Any]] | Tensor:
        """Rows of rows."""
        return self._rows[self._positions[index]]
