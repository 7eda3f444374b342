"""Rows of JSONL, JSON, CSV and Parquet files, with errors that say where."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid_moa.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "Row", "Table", "read_table"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

# Characters of one CSV field. Python's own bound of 131,072 is less than long contexts have.
_LONGEST_FIELD = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a file.

    Attributes:
        place: where it stands, such as ``line 7``.
        values: by column.
    """

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file's rows.

    Attributes:
        columns: names of all columns, in order.
        rows: in order.
    """

    columns: Sequence[str]
    rows: Sequence[Row]


def read_table(path: Path, *, wanted: Collection[str]) -> Table:
    """Read a file by its suffix.

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
        return _read_parquet(path, wanted)
    text = _read_text(path)
    if suffix == ".csv":
        return _read_csv(path, text)
    return _of_objects(path, _json_lines(path, text) if suffix == ".jsonl" else _json(path, text))


def _read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: expected UTF-8 text, found byte 0x{data[error.start]:02x} at offset "
            f"{error.start} (line {line}): save the file as UTF-8"
        ) from error


def _json_lines(path: Path, text: str) -> list[tuple[str, Any]]:
    """Read one JSON value a line; blank lines are passed over."""
    found = []
    # Not splitlines(): JSON strings may hold line separators of Unicode.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found.append((f"line {number}", _load_json(path, line, first_line=number)))
    return found


def _json(path: Path, text: str) -> list[tuple[str, Any]]:
    """Read a JSON list."""
    value = _load_json(path, text, first_line=1) if text.strip() else []
    if not isinstance(value, list):
        raise DataError(
            f"{path}: expected a JSON list of objects, found {_kind(value)}: "
            "wrap the questions in [...], or write one object a line into a .jsonl file"
        )
    return [(f"item {number}", item) for number, item in enumerate(value, start=1)]


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


def _of_objects(path: Path, items: Sequence[tuple[str, Any]]) -> Table:
    """Make a table of JSON objects."""
    columns: dict[str, None] = {}
    rows = []
    for place, item in items:
        if not isinstance(item, dict):
            raise DataError(
                f"{path}: {place}: expected an object with a question, found {_kind(item)}"
            )
        columns.update(dict.fromkeys(item))
        rows.append(Row(place=place, values=item))
    return Table(columns=tuple(columns), rows=rows)


def _read_csv(path: Path, text: str) -> Table:
    """Read CSV with a header line; an empty field counts as none."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    columns: list[str] | None = None
    try:
        with _long_fields():
            for fields in reader:
                if columns is None:
                    _check_columns(path, fields)
                    columns = fields
                elif fields:
                    rows.append(_csv_row(path, f"line {reader.line_num}", columns, fields))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    return Table(columns=columns or [], rows=rows)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let CSV fields be as long as a field may be; the process's own bound comes back after it."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_row(path: Path, place: str, columns: Sequence[str], fields: Sequence[str]) -> Row:
    """Make a row of the fields of a line."""
    if len(fields) != len(columns):
        raise DataError(
            f"{path}: {place}: expected {len(columns)} fields as in the header, "
            f"found {len(fields)}: quote fields that contain commas"
        )
    values = dict(zip(columns, (field or None for field in fields), strict=True))
    return Row(place=place, values=values)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a column that is there twice; columns without a name can't be asked for."""
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: expected every column once, found {', '.join(map(repr, twice))} several "
            "times: rename or drop all but one"
        )


def _read_parquet(path: Path, wanted: Collection[str]) -> Table:
    """Read the wanted columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns: list[str] = pq.read_schema(path).names
        _check_columns(path, columns)
        present = [name for name in columns if name and name in wanted]
        count = pq.read_metadata(path).num_rows
        table = pq.read_table(path, columns=present)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file: {error}") from error
    values = [_parquet_values(path, name, table[name]) for name in present]
    rows = [
        Row(
            place=f"row {n + 1}",
            values={name: own[n] for name, own in zip(present, values, strict=True)},
        )
        for n in range(count)
    ]
    return Table(columns=columns, rows=rows)


def _parquet_values(path: Path, name: str, column: "pa.ChunkedArray") -> list[Any]:
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
