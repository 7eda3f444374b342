"""Rows of JSONL, JSON, CSV and Parquet files, with errors that say where."""

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pyramid_moa.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "Table", "open_table"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

# Characters of one CSV field. Python's own bound of 131,072 is less than long contexts have.
_LONGEST_FIELD = 10_000_000
# Rows of a Parquet file that are Python objects at one time, and bytes that are read ahead of them.
_BATCH = 1024
_BUFFER = 1 << 20

# What a row's number counts from 1, and what the row holds by column.
_Rows = Iterator[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file's rows, read anew whenever they are gone over.

    Attributes:
        columns: names of all columns, in order.
        unit: what the number of a row counts: ``line``, ``item`` or ``row``.
        rows: begins a pass over the file: pairs of a row's number, counted from 1, and what it
            holds by column. Raises what ``open_table`` raises where the file is damaged further on.
    """

    columns: Sequence[str]
    unit: str
    rows: Callable[[], _Rows]


def open_table(path: Path, *, wanted: Collection[str]) -> Table:
    """Look at a file by its suffix; its rows are read when they are asked for.

    JSONL, CSV and Parquet are read bit by bit, in memory that does not grow with the file. A .json
    file is one value, and is held whole in each pass. Every object of a JSON file may bring columns
    of its own, so JSONL and JSON are gone over once here; the others name theirs at the beginning.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.
        wanted: columns of a Parquet file to read where they are there; others read all.

    Raises:
        DataError: the file is missing, of another kind, not UTF-8, not what its suffix says, names
            a column twice, or is CSV with a field of more than 10 million characters.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path}: expected a file, but it {found}: check the path")
    if suffix == ".parquet":
        return _open_parquet(path, wanted)
    if suffix == ".csv":
        return Table(columns=_csv_columns(path), unit="line", rows=lambda: _csv_rows(path))
    read = _json_lines if suffix == ".jsonl" else _json_items
    columns: dict[str, None] = {}
    for _, item in read(path):
        if not item.keys() <= columns.keys():
            columns.update(dict.fromkeys(item))
    unit = "line" if suffix == ".jsonl" else "item"
    return Table(columns=tuple(columns), unit=unit, rows=lambda: read(path))


@contextmanager
def _utf8(path: Path, *, newline: str) -> Iterator[TextIO]:
    """Open UTF-8 text, with or without a byte order mark."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path)) from error


def _not_utf8(path: Path) -> str:
    """Say where the first byte stands that is no UTF-8: a reader knows it in its buffer only."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                at = offset + error.start
                return (
                    f"{path}: expected UTF-8 text, found byte 0x{line[error.start]:02x} at offset "
                    f"{at} (line {number}): save the file as UTF-8"
                )
            offset += len(line)
    return f"{path}: expected UTF-8 text: the file has changed while it was read"


def _json_lines(path: Path) -> _Rows:
    """Read one JSON object a line; blank lines are passed over."""
    # Only line feeds end a line: JSON strings may hold line separators of Unicode.
    with _utf8(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                item = _load_json(path, line.removesuffix("\n"), first_line=number)
                if not isinstance(item, dict):
                    raise _no_object(path, f"line {number}", item)
                yield number, item


def _json_items(path: Path) -> _Rows:
    """Read a JSON list of objects."""
    with _utf8(path, newline="") as file:
        text = file.read()
    value = _load_json(path, text, first_line=1) if text.strip() else []
    if not isinstance(value, list):
        raise DataError(
            f"{path}: expected a JSON list of objects, found {_kind(value)}: "
            "wrap the questions in [...], or write one object a line into a .jsonl file"
        )
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise _no_object(path, f"item {number}", item)
        yield number, item


def _load_json(path: Path, text: str, *, first_line: int) -> Any:  # noqa: ANN401 - JSON is anything
    """Parse JSON or say in which line it goes wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason, line, column = error.msg, first_line + error.lineno - 1, error.colno
        raise DataError(
            f"{path}: line {line} is not JSON: {reason} at column {column}: mend that line"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number too long
        raise DataError(f"{path}: line {first_line} cannot be read as JSON: {error}") from error


def _no_object(path: Path, place: str, item: object) -> DataError:
    return DataError(f"{path}: {place}: expected an object with a question, found {_kind(item)}")


def _csv_columns(path: Path) -> Sequence[str]:
    """The fields of the header line."""
    _, columns = next(_csv_fields(path), (0, []))
    _check_columns(path, columns)
    return columns


def _csv_rows(path: Path) -> _Rows:
    """Read what stands below the header line; an empty field counts as none."""
    lines = _csv_fields(path)
    _, columns = next(lines, (0, []))
    for number, fields in lines:
        if len(fields) != len(columns):
            raise DataError(
                f"{path}: line {number}: expected {len(columns)} fields as in the header, "
                f"found {len(fields)}: quote fields that contain commas"
            )
        yield number, dict(zip(columns, (field or None for field in fields), strict=True))


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a CSV file: the number of a row's last line, and its fields."""
    with _utf8(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        while True:
            try:
                with _long_fields():
                    fields = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
            if fields is None:
                return
            # A blank line is no row, but the first line is the header whatever is in it.
            if fields or reader.line_num == 1:
                yield reader.line_num, fields


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let CSV fields be as long as a field may be; the process's own bound comes back after it."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a column that is there twice; columns without a name can't be asked for."""
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: expected every column once, found {', '.join(map(repr, twice))} several "
            "times: rename or drop all but one"
        )


def _open_parquet(path: Path, wanted: Collection[str]) -> Table:
    """Look up the columns of a Parquet file; the wanted ones are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns: list[str] = pq.read_schema(path).names
        _check_columns(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file: {error}") from error
    present = [name for name in columns if name and name in wanted]
    return Table(columns=columns, unit="row", rows=lambda: _parquet_rows(path, present))


def _parquet_rows(path: Path, present: Sequence[str]) -> _Rows:
    """Read columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Without a buffer of its own it would hold every row group whole.
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=present):
                columns = [_parquet_values(path, name, batch.column(name)) for name in present]
                rows = zip(*columns, strict=True) if columns else repeat((), batch.num_rows)
                for row in rows:
                    number += 1
                    yield number, dict(zip(present, row, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file: {error}") from error


def _parquet_values(path: Path, name: str, column: "pa.Array") -> list[Any]:
    """Read a column; the format itself lets text be any bytes."""
    try:
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError) as error:  # Arrow's own and UnicodeDecodeError are such
        raise DataError(
            f"{path}: column {name!r}: damaged, or text that is not UTF-8 ({error}): write the "
            "file anew with UTF-8 text"
        ) from error
    return values


def _kind(value: object) -> str:
    """Name a JSON value's type as JSON does."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
