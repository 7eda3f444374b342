"""The queries of a JSONL, JSON, CSV or Parquet file, read anew in every pass."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pyramid_moa.data_prep.table_files import Table, open_table
from pyramid_moa.errors import DataError
from pyramid_moa.records import Query

__all__ = ["COLUMNS", "FileQueries", "gold_after_hashes"]

# Column by what it holds: the option that names it, and the names looked for without one.
COLUMNS = {
    "question": ("question",),
    "answer": ("gold", "answer"),
    "id": ("id", "query_id", "question_id"),
    "split": ("split",),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileQueries:
    """The queries of a file, in its order; one is in memory at a time.

    Attributes:
        path: the file.
        table: its rows.
        named: columns that the user has named, by what they hold.
        limit: only the first so many; None for all.
        state: what tells this version of the file from another one.
    """

    path: Path
    table: Table
    named: Mapping[str, str]
    limit: int | None
    state: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, *, columns: Mapping[str, str], limit: int | None) -> "FileQueries":
        """Look at a file.

        Args:
            path: a .jsonl, .json, .csv or .parquet file.
            columns: those that have other names than ``COLUMNS``, by what they hold.
            limit: keep only the first so many.

        Raises:
            DataError: the file is missing, or is not what its name says.
        """
        candidates = {name for names in COLUMNS.values() for name in names}
        state = _state(path)
        table = open_table(path, wanted=candidates | set(columns.values()))
        return cls(path=path, table=table, named=columns, limit=limit, state=state)

    def __iter__(self) -> Iterator[Query]:
        """Read the file.

        Raises:
            DataError: it is damaged further on, a row has no usable question or id, or the file is
                another one than when it was opened.
        """
        self._check_unchanged()
        for number, (place, values) in enumerate(islice(self.table.rows(), self.limit)):
            yield self._query(number, place, values)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        if _state(self.path) != self.state:
            raise DataError(
                f"{self.path}: expected the file as it was when it was first read, found that it "
                "has changed since: start again when nothing writes to it any more"
            )

    @cached_property
    def _columns(self) -> dict[str, str]:
        """The column of each field; every missing one is named."""
        found: dict[str, str] = {}
        missing = []
        for field, names in COLUMNS.items():
            chosen = self.named.get(field)
            wanted = (chosen,) if chosen else names
            column = next((name for name in wanted if name in self.table.columns), None)
            if column is not None:
                found[field] = column
            elif chosen or field == "question":
                missing.append(f"{chosen or field!r} for the {field}")
        if missing:
            raise DataError(
                f"{self.path}: expected a column {' and '.join(missing)}; the file has "
                f"{', '.join(map(repr, self.table.columns)) or 'none'}: name columns as in "
                f"{self.path.name}?question=COLUMN&answer=COLUMN"
            )
        return found

    def _query(self, number: int, place: int, values: Mapping[str, Any]) -> Query:
        """Make a query of a row: its number among the rows, its place in the file."""
        columns = self._columns
        question = values.get(columns["question"])
        if not isinstance(question, str):
            kind = "nothing" if question is None else f"{type(question).__name__} {question!r:.40}"
            raise self._error(
                place, f"expected a text in column {columns['question']!r}, found {kind}"
            )
        if not question or question.isspace():
            raise self._error(place, "the question is blank: fill it or drop the row")
        gold = self._text(place, values, "answer")
        if gold is not None:
            gold = gold_after_hashes(gold)
            if gold.isspace():
                gold = None
        query_id = self._text(place, values, "id") if "id" in columns else str(number)
        if not query_id or query_id.isspace():
            raise self._error(place, f"no id in column {columns['id']!r}")
        return Query(
            query_id=query_id,
            question=question,
            gold=gold or None,
            split=self._text(place, values, "split") or None,
        )

    def _text(self, place: int, values: Mapping[str, Any], field: str) -> str | None:
        """Read a text or number as text, None where there is none."""
        column = self._columns.get(field)
        value: Any = None if column is None else values.get(column)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, (dict, list, bytes)):
            raise self._error(
                place,
                f"expected a text or number in column {column!r}, found "
                f"{type(value).__name__} {value!r:.40}",
            )
        if isinstance(value, float) and math.isnan(value):
            return None  # what other libraries write where there is nothing
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return str(int(value))  # 3.0 is what a column of numbers with gaps makes of 3
        return str(value)

    def _error(self, place: int, what: str) -> DataError:
        return DataError(f"{self.path}: {self.table.unit} {place}: {what}")


def gold_after_hashes(gold: str) -> str:
    """Take what follows the last ``####`` without commas, or the text as it is."""
    _, hashes, answer = gold.rpartition("####")
    return answer.strip().replace(",", "") if hashes else gold


def _state(path: Path) -> tuple[int, ...]:
    """Which file it is, its length, and when it was written last; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
