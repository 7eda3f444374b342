"""The run folder: a labelled data set on disk; the one file that writes and reads it.

Every model's queries fall into chunks by their order; a chunk is written as one part. A part is
there whole or not at all, and the same chunk holds the same queries whenever it is run, so a run
that was killed and resumed leaves the same rows as an unbroken one.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from pyramid_moa.atomic_files import remove_leftovers, written_aside
from pyramid_moa.data_prep.mapped_rows import MappedRows, RowsFile, find_widths
from pyramid_moa.data_prep.run_tables import (
    GENERATIONS,
    LABELS,
    QUERIES,
    Label,
    generations_from_table,
    generations_to_table,
    labels_from_table,
    labels_to_table,
    queries_from_table,
    queries_to_table,
)
from pyramid_moa.errors import RunFolderError
from pyramid_moa.records import Generation, Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Names and formats of the files of a run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def generations_path(self) -> Path:
        """Folder of the parts with generations."""
        return self.path / "generations"

    @property
    def hidden_states_path(self) -> Path:
        """Folder of the parts with hidden states."""
        return self.path / "hidden_states"

    def create(self, queries: Sequence[Query]) -> None:
        """Make the folder with its queries; whatever is in it already stays."""
        self.generations_path.mkdir(parents=True, exist_ok=True)
        self.hidden_states_path.mkdir(exist_ok=True)
        _write_parquet(self.path / "queries.parquet", queries_to_table(queries))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this run.

        Raises:
            RunFolderError: another process is writing to it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: expected a folder that can be written, or a name that is free: "
                f"{error.strerror}"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"{self.path}: another process is writing to this run; wait for it, or give "
                    "another --out"
                ) from error
            yield

    def check_free(self) -> None:
        """Make sure that a new run would overwrite nothing.

        Raises:
            RunFolderError: the folder holds something, or is a file.
        """
        if self.path.is_dir():
            others = [p.name for p in self.path.iterdir() if p.name != ".lock"]
        else:
            others = [self.path.name] if self.path.exists() else []
        if others:
            raise RunFolderError(
                f"{self.path}: expected a new or empty folder, or a run with its manifest.json; "
                f"found {', '.join(sorted(others)[:5])}; give another --out"
            )

    def has_parts(self) -> bool:
        """Whether anything has been generated."""
        return any(self.generations_path.glob("m*.parquet"))

    def discard(self) -> None:
        """Remove a run in which nothing has been generated; what is not the run's own stays."""
        self.clean()
        for name in ("manifest.json", "queries.parquet", "labels.parquet", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.generations_path, self.hidden_states_path, self.path):
            with suppress(OSError):  # not there, or not empty
                folder.rmdir()

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (self.path, self.generations_path, self.hidden_states_path):
            remove_leftovers(folder)
        parts = {path.stem for path in self.generations_path.glob("m*.parquet")}
        for path in self.hidden_states_path.glob("m*.safetensors"):
            if path.stem not in parts:
                path.unlink()

    def write_part(self, model: int, chunk: int, generations: Sequence[Generation]) -> None:
        """Write one chunk of one model's generations, hidden states first.

        Args:
            model: index of the model: members, then the oracle.
            chunk: index of the chunk.
            generations: of its queries, in their order.
        """
        name = _part_name(model, chunk)
        tensors = _stack_hidden_states(generations)
        if tensors:
            with written_aside(self.hidden_states_path / f"{name}.safetensors") as aside:
                save_file(tensors, aside)
        # This rename is what makes the chunk done.
        _write_parquet(self.generations_path / f"{name}.parquet", generations_to_table(generations))

    def read_part(
        self, model: int, chunk: int, *, hidden_states: bool = True
    ) -> list[Generation] | None:
        """Read a chunk, with its hidden states or without; None where it is not there yet."""
        path = self.generations_path / f"{_part_name(model, chunk)}.parquet"
        if not path.is_file():
            return None
        rows = generations_from_table(_read_parquet(path, GENERATIONS))
        if not hidden_states:
            return rows
        tensors = self._hidden_part(path.stem, len(rows))
        return [
            _with_hidden(row, {key: values[index] for key, values in tensors.items()})
            for index, row in enumerate(rows)
        ]

    def read_queries(self) -> list[Query]:
        """All queries in the order of the run."""
        return queries_from_table(_read_parquet(self.path / "queries.parquet", QUERIES))

    def read_generations(self, model: int) -> list[Generation]:
        """All generations of a model in the order of the queries, without hidden states."""
        return [
            row
            for path in sorted(self.generations_path.glob(f"m{model:02d}-*.parquet"))
            for row in generations_from_table(_read_parquet(path, GENERATIONS))
        ]

    def read_hidden_states(self, model: int) -> dict[str, MappedRows]:
        """All hidden states of a model, which stay in their files until rows are asked for.

        Returns:
            Arrays of shape [queries, hidden size] by ``layer<k>/<pooling>``; rows of failed
            generations are zero. Empty where none were kept.

        Raises:
            RunFolderError: a file is damaged, or the parts differ in what they hold.
        """
        parts, answered, widths = [], [], []
        for path in sorted(self.generations_path.glob(f"m{model:02d}-*.parquet")):
            own = _read_answered(path)
            file = self.hidden_states_path / f"{path.stem}.safetensors"
            there = file.is_file()
            parts.append(RowsFile(path=file if there else None, rows=len(own)))
            answered.append(bool(own.any()))
            widths.append(find_widths(file, rows=len(own)) if there else {})
        example = next((found for found in widths if found), {})
        for found, any_answer in zip(widths, answered, strict=True):
            # Where every answer failed there is nothing to keep, and no file.
            if found != example and (found or any_answer):
                raise RunFolderError(
                    f"{self.hidden_states_path}: the parts of model {model} differ in their "
                    "hidden states, or one is missing; label again into a new folder"
                )
        return {key: MappedRows(key, parts, example[key]) for key in sorted(example)}

    def write_labels(self, labels: Sequence[Label]) -> None:
        """Write the labels in one step."""
        _write_parquet(self.path / "labels.parquet", labels_to_table(labels))

    def read_labels(self) -> list[Label]:
        """Labels in the order of the queries."""
        return labels_from_table(_read_parquet(self.path / "labels.parquet", LABELS))

    def _hidden_part(self, name: str, rows: int) -> "dict[str, NDArray[np.float16]]":
        path = self.hidden_states_path / f"{name}.safetensors"
        if not path.is_file():
            return {}
        part = RowsFile(path=path, rows=rows)
        widths = find_widths(path, rows=rows)
        return {key: MappedRows(key, [part], width)[:] for key, width in widths.items()}


def _part_name(model: int, chunk: int) -> str:
    return f"m{model:02d}-{chunk:06d}"


def _stack_hidden_states(generations: Sequence[Generation]) -> "dict[str, NDArray[np.float16]]":
    """Arrays [rows, hidden size] by key; zero where a generation failed."""
    first = next((row.hidden_states for row in generations if row.hidden_states), None)
    if first is None:
        return {}
    return {
        key: np.stack(
            [
                row.hidden_states[key] if row.hidden_states else np.zeros_like(example)
                for row in generations
            ]
        )
        for key, example in first.items()
    }


def _with_hidden(row: Generation, hidden: "dict[str, NDArray[np.float16]]") -> Generation:
    if not hidden or row.error is not None:
        return row
    return replace(row, hidden_states=hidden)


def _write_parquet(path: Path, table: pa.Table) -> None:
    with written_aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def _read_answered(path: Path) -> "NDArray[np.bool_]":
    """Which generations of a part did not fail; nothing else of it is read."""
    try:
        errors = pq.read_table(path, columns=["error"])["error"]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return np.asarray(errors.is_null())


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{path}: expected a parquet table of a run, found none that can be read ({error})"
    )


def _read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise RunFolderError(
            f"{path}: expected the columns {', '.join(schema.names)} of a run, found "
            f"{', '.join(f'{field.name} ({field.type})' for field in table.schema)}"
        )
    return table
