"""Tables of recorded answers, one row an answer, and the recordings in them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyramid_moa.errors import DataError

__all__ = ["Recording", "find_recording", "read_recordings", "table_and_name"]

_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_REQUIRED = {"question_id": _TEXT, "question": _TEXT, "model": _TEXT}
# Optional columns: type, and what stands in for a null or an absent column.
_OPTIONAL: dict[str, tuple[pa.DataType, object]] = {
    "source": (_TEXT, ""),
    "split": (_TEXT, ""),
    "gold": (_TEXT, None),
    "variant": (_TEXT, ""),
    "sample": (_COUNT, 0),
    "response": (_TEXT, None),
    "answer": (_TEXT, None),
    "prompt_tokens": (_COUNT, None),
    "completion_tokens": (_COUNT, None),
    "cost_usd": (_NUMBER, None),
    "latency_s": (_NUMBER, None),
    "mean_logprob": (_NUMBER, None),
    "confidence": (_NUMBER, None),
    "finish_reason": (_TEXT, None),
}
# Columns of numbers that are 0 or more, and where they end.
_ENDS = {
    "sample": 2**31,
    "prompt_tokens": 2**31,
    "completion_tokens": 2**31,
    "cost_usd": math.inf,
    "latency_s": math.inf,
}


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All answers of one model in one way of asking.

    Attributes:
        source: where they were recorded.
        model: the model.
        variant: prompt and decoding, in words.
        sample: number of the sample.
        rows: the table's rows by (split, question id); without ``answer`` where the table has no
            such column.
    """

    source: str
    model: str
    variant: str
    sample: int
    rows: dict[tuple[str, str], dict[str, Any]]

    @property
    def title(self) -> str:
        """The name that fits only this recording."""
        return f"{self.model}::{self.variant}::{self.sample}"


def read_recordings(paths: Sequence[Path]) -> list[Recording]:
    """Read tables of recorded answers.

    Args:
        paths: parquet files.

    Returns:
        The recordings, in order of appearance.

    Raises:
        DataError: a file is missing or no such table, a column is missing, a table is empty, or
            one answer stands in it twice, or a number is negative, infinite or too large.
    """
    recordings: dict[tuple[str, str, str, int], Recording] = {}
    for path in paths:
        for row in _read(path).to_pylist():
            who = (row["source"], row["model"], row["variant"], row["sample"])
            recording = recordings.get(who)
            if recording is None:
                names = ("source", "model", "variant", "sample")
                recording = Recording(**dict(zip(names, who, strict=True)), rows={})
                recordings[who] = recording
            key = (row["split"], row["question_id"])
            if key in recording.rows:
                raise DataError(
                    f"{path}: expected one answer of {recording.title} to a question, found two "
                    f"to question {key[1]}; give samples different numbers in the column sample"
                )
            recording.rows[key] = row
    return list(recordings.values())


def find_recording(recordings: Sequence[Recording], name: str) -> Recording:
    """Find the one recording that a name means.

    Args:
        recordings: all of them.
        name: ``MODEL[::VARIANT[::SAMPLE]]``; ``MODEL::::0`` means the empty variant. What is the
            whole name of a recording or model comes first, so that both may have ``::`` in them.

    Raises:
        DataError: none fits, or several do; they are listed.
    """
    fits = (
        [recording for recording in recordings if recording.title == name]
        or [recording for recording in recordings if recording.model == name]
        or [
            recording
            for recording in recordings
            if f"{recording.model}::{recording.variant}" == name
        ]
    )
    if len(fits) == 1:
        return fits[0]
    if not fits:
        known = sorted({recording.model for recording in recordings})
        same = [r.title for r in recordings if name.startswith(f"{r.model}::")]
        raise DataError(
            f"no recording fits {name!r}; found "
            + (f"of that model: {_listing(same)}" if same else f"models: {_listing(known)}")
        )
    hint = "name one of" if len({fit.title for fit in fits}) == len(fits) else "give fewer tables:"
    raise DataError(
        f"{name!r} fits {len(fits)} recordings: expected the name of one; {hint} "
        + _listing([f"{fit.title} (source {fit.source})" for fit in fits])
    )


def table_and_name(model: str) -> tuple[str, str]:
    """Take ``TABLE.parquet::MODEL[::VARIANT[::SAMPLE]]`` apart into file and recording.

    Raises:
        DataError: it is not of that form.
    """
    table, parted, name = model.partition("::")
    if not (parted and table.strip() and name.strip()):
        raise DataError(
            "a model with backend recorded: expected model: "
            f"TABLE.parquet::MODEL[::VARIANT[::SAMPLE]], found {model!r}"
        )
    return table, name


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected a parquet table of answers") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a parquet table that can be read ({error})") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing or not {"answer", "response"} & set(table.column_names):
        missing += [] if missing else ["answer or response"]
        raise DataError(
            f"{path}: expected columns {', '.join(_REQUIRED)} and answer or response; missing "
            f"{', '.join(missing)}; found {', '.join(table.column_names)}"
        )
    if table.num_rows == 0:
        raise DataError(f"{path}: expected recorded answers, found an empty table")
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: damaged, or text that is not UTF-8 ({error})") from error
    return pa.table(dict(_columns(path, table)))


def _columns(path: Path, table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray | pa.Array]]:
    for name, kind in _REQUIRED.items():
        column = _cast(path, name, table[name], kind)
        if column.null_count:
            raise DataError(f"{path}: column {name}: expected a value in every row, found nulls")
        yield name, column
    for name, (kind, default) in _OPTIONAL.items():
        if name in table.column_names:
            column = _cast(path, name, table[name], kind)
            _check_range(path, name, column)
            yield name, column if default is None else column.fill_null(default)
        elif name != "answer":
            yield name, pa.array([default] * table.num_rows, kind)


def _cast(path: Path, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Read a column as what it should hold; NaN, as other libraries write it, is no value."""
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{path}: column {name}: expected {kind}, found {column.type} ({error})"
        ) from error


def _check_range(path: Path, name: str, column: pa.ChunkedArray) -> None:
    if name not in _ENDS or column.null_count == len(column):
        return
    end = _ENDS[name]
    for value in pc.min_max(column).as_py().values():
        if not 0 <= value < end:
            kind = "finite numbers of 0 or more" if end == math.inf else f"numbers from 0 to {end}"
            raise DataError(
                f"{path}: column {name}: expected {kind}, found {value}: mend it, or leave it out "
                "where it isn't known"
            )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:40])
    return shown if len(names) <= 40 else f"{shown} and {len(names) - 40} more"
