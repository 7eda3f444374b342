"""Hidden states of a run, left in its files: rows are read where and when they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from pyramid_moa.errors import RunFolderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MappedRows", "RowsFile", "find_widths"]


@dataclass(frozen=True, kw_only=True)
class RowsFile:
    """The part of the rows that one file holds.

    Attributes:
        path: a safetensors file; None for rows of zeros, which need no file.
        rows: how many.
    """

    path: Path | None
    rows: int


def find_widths(path: Path, *, rows: int) -> dict[str, int]:
    """Check what a file of hidden states says of itself, without reading the hidden states.

    Args:
        path: a safetensors file.
        rows: how many rows each of its tensors must have.

    Returns:
        The width H of each tensor, by key.

    Raises:
        RunFolderError: the file is damaged, or a tensor is not ``rows`` rows of float16.
    """
    widths = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                view = file.get_slice(key)
                shape = view.get_shape()
                if view.get_dtype() != "F16" or len(shape) != 2 or shape[0] != rows:
                    raise RunFolderError(
                        f"{path}: expected {rows} float16 rows of {key}, found an array of shape "
                        f"{tuple(shape)} of {file.get_tensor(key).dtype}"
                    )
                widths[key] = shape[1]
    except RunFolderError:
        raise
    except Exception as error:  # the reader's own error, and those of the operating system
        raise _damaged(path, error) from error
    return widths


class MappedRows:
    """Rows of one tensor over several files, as if they were one float16 array [n, H].

    A file is mapped into memory while rows are copied out of it, and the one that was read last
    stays mapped: neither memory nor open files nor mappings grow with the number of rows.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, key: str, files: Sequence[RowsFile], width: int) -> None:
        """Put files together; each must hold the key, with its rows, in this width.

        Args:
            key: of the tensor in each file.
            files: in the order of the rows.
            width: H.
        """
        self._key = key
        self._paths = [file.path for file in files]
        counts = np.array([file.rows for file in files], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._width = width
        self._last: tuple[int, Any] = (-1, None)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows n and width H."""
        return int(self._starts[-1]), self._width

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, index: "int | slice | NDArray[np.int64]") -> "NDArray[np.float16]":
        """Copy rows out of the files.

        Args:
            index: one row, which gives [H]; or a slice or whole numbers, in any order and as often
                as wanted, which give [rows, H]. Negative ones count from the end.

        Raises:
            IndexError: there is no such row.
            RunFolderError: a file has been damaged or taken away since it was checked.
        """
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            return self._at(np.arange(first, last, step))
        positions = np.asarray(index, np.int64)
        rows = self._at(positions.reshape(-1))
        return rows if positions.ndim else rows[0]

    def _at(self, positions: "NDArray[np.int64]") -> "NDArray[np.float16]":
        """Rows [m, H] at positions [m], from one file after the other."""
        count = len(self)
        if len(positions) and not -count <= positions.min() <= positions.max() < count:
            raise IndexError(f"expected rows from 0 to {count - 1}, found {positions}")
        positions = np.where(positions < 0, positions + count, positions)
        rows = np.zeros((len(positions), self._width), np.float16)
        files = np.searchsorted(self._starts, positions, side="right") - 1
        order = np.argsort(files, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(files[order])) + 1):
            if len(own) and self._paths[file := int(files[own[0]])] is not None:
                inside = positions[own] - self._starts[file]
                first = inside.min()
                rows[own] = self._read(file, first, inside.max() + 1)[inside - first]
        return rows

    def _read(self, file: int, first: int, last: int) -> "NDArray[np.float16]":
        path = self._paths[file]
        assert path is not None
        try:
            if self._last[0] != file:
                with safe_open(path, framework="numpy") as opened:
                    self._last = (file, opened.get_slice(self._key))
            rows: NDArray[np.float16] = self._last[1][int(first) : int(last)]
        except Exception as error:  # the reader's own error, and those of the operating system
            raise _damaged(path, error) from error
        return rows


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{path}: damaged ({error}); remove it with its part in generations/ and resume"
    )
