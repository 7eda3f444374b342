"""The run folder: a labelled data set on disk; the one file that writes and reads it.

The queries fall into chunks by their order, each a row group of queries.parquet; what a model
answers to a chunk is written as one part. A part is there whole or not at all, and the same chunk
holds the same queries whenever it is run, so a run that was killed and resumed leaves the same rows
as an unbroken one. Until its part is whole a chunk's answers stand in a journal. Nothing here holds
more than a chunk in memory, but for the readers of a whole run.
"""

import fcntl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from pyramid_moa.atomic_files import is_leftover, remove_leftovers, written_aside
from pyramid_moa.data_prep.journal import read_journal
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

__all__ = ["PART_ROWS", "RunFolder"]

# Queries of one part. A part's rows, with their hidden states, are in memory together.
PART_ROWS = 512

_JOURNALS = "journal"
_T = TypeVar("_T")


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

    def journal_path(self, model: int, chunk: int) -> Path:
        """File of the answers to a chunk whose part is not whole yet."""
        return self.path / _JOURNALS / f"{_part_name(model, chunk)}.jsonl"

    def create(self, queries: Iterable[Query], *, part_rows: int = PART_ROWS) -> None:
        """Make the folder with its queries; whatever is in it already stays.

        Args:
            queries: in the order of the run, each with its split.
            part_rows: queries of a chunk.

        Raises:
            DataError: a query holds what no table can.
        """
        self.generations_path.mkdir(parents=True, exist_ok=True)
        self.hidden_states_path.mkdir(exist_ok=True)
        tables = (queries_to_table(rows) for rows in _batches(queries, part_rows))
        _write_tables(self.path / "queries.parquet", tables, QUERIES)

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
            others = [p.name for p in self.path.iterdir() if not _is_idle(p)]
        else:
            others = [self.path.name] if self.path.exists() else []
        if others:
            raise RunFolderError(
                f"{self.path}: expected a new or empty folder, or a run with its manifest.json; "
                f"found {', '.join(sorted(others)[:5])}; give another --out"
            )

    def has_parts(self) -> bool:
        """Whether anything has been generated."""
        journals = (self.path / _JOURNALS).glob("m*.jsonl")
        return any(self.generations_path.glob("m*.parquet")) or any(journals)

    def is_whole(self, models: int) -> bool:
        """Whether so many models have a part for every chunk."""
        journals = (self.path / _JOURNALS).glob("m*.jsonl")
        chunks = len(self.chunks())
        return not any(journals) and all(len(self._parts(m)) == chunks for m in range(models))

    def discard(self) -> None:
        """Remove a run in which nothing has been generated; what is not the run's own stays."""
        self.clean()
        # The manifest goes last of what makes it a run, so that a half-discarded one is still ours.
        for name in ("queries.parquet", "labels.parquet", "manifest.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        folders = (self.generations_path, self.hidden_states_path, self.path / _JOURNALS, self.path)
        for folder in folders:
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
            model: index of the model: members, mid oracles, then the oracle.
            chunk: index of the chunk.
            generations: of its queries, in their order.
        """
        name = _part_name(model, chunk)
        tensors = _stack_hidden_states(generations)
        if tensors:
            with written_aside(self.hidden_states_path / f"{name}.safetensors") as aside:
                # Not save_file: a full disk is then an OSError like any other.
                aside.write_bytes(save(tensors))
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

    def chunks(self) -> range:
        """Indices of all chunks."""
        return range(self._queries_file().num_row_groups)

    def read_chunks(self, chunks: Iterable[int]) -> Iterator[tuple[int, list[Query]]]:
        """Read the queries of some chunks, one chunk at a time."""
        file = self._queries_file()
        for chunk in chunks:
            yield chunk, queries_from_table(file.read_row_group(chunk))

    def count_queries(self, chunks: Iterable[int]) -> int:
        """Number of queries in some chunks."""
        metadata = self._queries_file().metadata
        return sum(metadata.row_group(chunk).num_rows for chunk in chunks)

    def read_journals(self, *, beyond_parts: bool = False) -> Iterator[Generation]:
        """Read the answers whose parts are not whole yet.

        Args:
            beyond_parts: leave out what stands in a part already.
        """
        for path in sorted((self.path / _JOURNALS).glob("m*.jsonl")):
            rows = read_journal(path)
            part = self.generations_path / f"{path.stem}.parquet"
            if beyond_parts and part.is_file():
                known = set(generations_from_table(_read_parquet(part, GENERATIONS)))
                rows = {key: row for key, row in rows.items() if row not in known}
            yield from rows.values()

    def read_columns(self, model: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Read some columns of a model's parts, one part at a time, each with its chunk's index."""
        for path in self._parts(model):
            yield int(path.stem.rpartition("-")[2]), _read_parquet(path, GENERATIONS, columns)

    def read_queries(self) -> list[Query]:
        """All queries in the order of the run."""
        return queries_from_table(_read_parquet(self.path / "queries.parquet", QUERIES))

    def read_generations(self, model: int) -> list[Generation]:
        """All generations of a model in the order of the queries, without hidden states."""
        return [
            row
            for path in self._parts(model)
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
        for path in self._parts(model):
            own = np.asarray(_read_parquet(path, GENERATIONS, ["error"])["error"].is_null())
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

    def write_labels(self, labels: Iterable[Label]) -> None:
        """Write the labels in one step, in the order of the queries."""
        tables = (labels_to_table(rows) for rows in _batches(labels, PART_ROWS))
        _write_tables(self.path / "labels.parquet", tables, LABELS)

    def read_labels(self) -> list[Label]:
        """Labels in the order of the queries."""
        return labels_from_table(_read_parquet(self.path / "labels.parquet", LABELS))

    def _parts(self, model: int) -> list[Path]:
        return sorted(self.generations_path.glob(f"m{model:02d}-*.parquet"))

    def _queries_file(self) -> pq.ParquetFile:
        return _open_parquet(self.path / "queries.parquet", QUERIES)

    def _hidden_part(self, name: str, rows: int) -> "dict[str, NDArray[np.float16]]":
        path = self.hidden_states_path / f"{name}.safetensors"
        if not path.is_file():
            return {}
        part = RowsFile(path=path, rows=rows)
        widths = find_widths(path, rows=rows)
        return {key: MappedRows(key, [part], width)[:] for key, width in widths.items()}


def _is_idle(path: Path) -> bool:
    """Whether a file of a run's folder stands for nothing: a lock, or what was never finished."""
    return path.name == ".lock" or is_leftover(path)


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


def _batches(rows: Iterable[_T], count: int) -> Iterator[list[_T]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, count)):
        yield batch


def _write_parquet(path: Path, table: pa.Table) -> None:
    with written_aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def _write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables as they come, each a row group."""
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as file:
        for table in tables:
            file.write_table(table, row_group_size=max(1, table.num_rows))


def _read_parquet(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    file = _open_parquet(path, schema)
    with _readable(path):
        return file.read(columns=columns)


def _open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    with _readable(path):
        # A file and not a data set: looking for a data set's parts takes longer than reading one.
        file = pq.ParquetFile(path)
    found = file.schema_arrow
    if found.names != schema.names or found.types != schema.types:
        raise RunFolderError(
            f"{path}: expected the columns {', '.join(schema.names)} of a run, found "
            f"{', '.join(f'{field.name} ({field.type})' for field in found)}"
        )
    return file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(
            f"{path}: expected a parquet table of a run, found none that can be read ({error})"
        ) from error
