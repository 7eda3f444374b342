"""Hidden states of many queries, read some rows at a time: they may be more than memory holds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HiddenRows", "float_rows", "spans"]

# Rows in memory at one time: 32 MB of float32 for the widest models, and long enough for a matrix
# product to be worth its call.
_ROWS = 1024


class HiddenRows(Protocol):
    """Rows [n, H] that are copied out as they are asked for; an array in memory is one as well."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows n and width H."""

    def __getitem__(
        self, index: "slice | NDArray[np.int64]"
    ) -> "NDArray[np.floating[Any]] | Tensor":
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
