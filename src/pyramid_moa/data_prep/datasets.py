"""Data sets by name or file, as queries."""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramid_moa.data_prep.dataset_spec import DatasetSpec, parse_spec
from pyramid_moa.data_prep.table_files import SUFFIXES, Row, Table, read_table
from pyramid_moa.errors import ConfigError, DataError, import_extra
from pyramid_moa.records import Query

__all__ = ["LoadedDataset", "load_queries"]

_LOG = logging.getLogger(__name__)

# Column by what it holds: the option that names it, and the names looked for without one.
_COLUMNS = {
    "question": ("question",),
    "answer": ("gold", "answer"),
    "id": ("id", "query_id", "question_id"),
    "split": ("split",),
}
_GSM8K_PARTS = {"gsm8k": ("train", "test"), "gsm8k:train": ("train",), "gsm8k:test": ("test",)}
_WORD_PROBLEMS = {"train": 1500, "test": 500, "seed": 0}
_MOST_IDS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LoadedDataset:
    """A data set in memory.

    Attributes:
        name: what manifests and reports call it.
        queries: in the source's order; splits as the source gives them, otherwise None.
        fingerprint: SHA-256 over ids, questions, golds and splits in order.
        has_gold: whether every query has a reference answer.
    """

    name: str
    queries: tuple[Query, ...]
    fingerprint: str
    has_gold: bool


def load_queries(spec: str | DatasetSpec, *, limit: int | None = None) -> LoadedDataset:
    """Load a data set.

    Args:
        spec: ``gsm8k``, ``gsm8k:train`` or ``gsm8k:test`` (from the Hugging Face hub);
            ``word-problems?train=1500&test=500&seed=0`` (generated); or a .jsonl, .json, .csv or
            .parquet file, with columns named as in ``questions.csv?question=prompt&answer=target``.
            Without names, a file's columns are question; gold or answer (may be missing: no gold);
            id, query_id or question_id (may be missing: the row's number); split (may be missing).
            A gold that is null, NaN or blank is none.
            A gold with ``####`` in it, as in GSM8K's own file, is what follows the last one.
        limit: keep only the first so many.

    Raises:
        ConfigError: the spec names no source, or an option that the source does not have.
        DataError: the source is missing, damaged, empty, or has no usable questions or ids.
        MissingExtraError: the source needs a package that is not installed.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1, found {limit}")
    name, queries = _load(spec)
    if not queries:
        raise DataError(f"{name}: expected questions, found none: the data set is empty")
    _check_ids(name, queries)
    queries = queries[:limit]
    return LoadedDataset(
        name=name,
        queries=queries,
        fingerprint=_fingerprint(queries),
        has_gold=all(query.gold is not None for query in queries),
    )


def _load(spec: DatasetSpec) -> tuple[str, tuple[Query, ...]]:
    """Find the source and read it."""
    if spec.source in _GSM8K_PARTS:
        spec.check_options(())
        return spec.source, tuple(_from_hub(_GSM8K_PARTS[spec.source]))
    if spec.source == "word-problems":
        return _word_problems(spec)
    path = Path(spec.source)
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join([*_GSM8K_PARTS, "word-problems"])
        raise ConfigError(
            f"unknown data set {spec.source!r}: expected {known}, or a file ending in "
            f"{', '.join(SUFFIXES)}"
        )
    spec.check_options(_COLUMNS)
    return path.name, _from_file(path, spec)


def _from_hub(parts: Iterable[str]) -> Iterable[Query]:
    """Read GSM8K from the Hugging Face hub."""
    library = import_extra("datasets", extra="train", purpose="loading gsm8k from the hub")
    for part in parts:
        try:
            rows = library.load_dataset("openai/gsm8k", "main", split=part)
        except Exception as error:  # the library lets through errors of many packages
            _LOG.debug("loading openai/gsm8k failed", exc_info=True)
            raise DataError(
                f"gsm8k: openai/gsm8k could not be loaded from the hub "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): "
                "give its JSONL file instead, as in --dataset test.jsonl"
            ) from error
        for number, row in enumerate(rows):
            yield Query(
                query_id=f"{part}-{number:05d}",
                question=row["question"],
                gold=_after_hashes(row["answer"]),
                split="test" if part == "test" else None,
            )


def _word_problems(spec: DatasetSpec) -> tuple[str, tuple[Query, ...]]:
    """Generate word problems that the embedded models have not seen."""
    from pyramid_moa.data_prep.word_problems import Split, make_problems

    spec.check_options(_WORD_PROBLEMS)
    numbers = {key: _count(spec, key, default) for key, default in _WORD_PROBLEMS.items()}
    drawn_from: dict[str, Split] = {"train": "validation", "test": "test"}
    queries = tuple(
        Query(
            query_id=f"{part}-{number:05d}",
            question=problem.question,
            gold=problem.answer,
            split="test" if part == "test" else None,
        )
        for part, split in drawn_from.items()
        for number, problem in enumerate(
            make_problems(split=split, count=numbers[part], seed=numbers["seed"])
        )
    )
    options = "&".join(f"{key}={value}" for key, value in numbers.items())
    return f"{spec.source}?{options}", queries


def _count(spec: DatasetSpec, key: str, default: int) -> int:
    """Read an option that is a whole number."""
    text = spec.options.get(key, str(default))
    # Short, so that a slip of the hand does not ask for a billion problems.
    if not text.isascii() or not text.isdigit() or len(text) > 7:
        raise ConfigError(
            f"data set {spec.source}: {key} must be a whole number below 10,000,000, not {text!r}"
        )
    return int(text)


def _from_file(path: Path, spec: DatasetSpec) -> tuple[Query, ...]:
    """Read the queries of a file."""
    candidates = {name for names in _COLUMNS.values() for name in names}
    table = read_table(path, wanted=candidates | set(spec.options.values()))
    if not table.rows:
        return ()
    columns = _match_columns(path, table, spec)
    return tuple(_query(path, number, row, columns) for number, row in enumerate(table.rows))


def _match_columns(path: Path, table: Table, spec: DatasetSpec) -> dict[str, str]:
    """Find the column of each field; every missing one is named."""
    found: dict[str, str] = {}
    missing = []
    for field, names in _COLUMNS.items():
        chosen = spec.options.get(field)
        column = next((n for n in ((chosen,) if chosen else names) if n in table.columns), None)
        if column is not None:
            found[field] = column
        elif chosen or field == "question":
            missing.append(f"{chosen or field!r} for the {field}")
    if missing:
        raise DataError(
            f"{path}: expected a column {' and '.join(missing)}; the file has "
            f"{', '.join(map(repr, table.columns)) or 'none'}: name columns as in "
            f"{path.name}?question=COLUMN&answer=COLUMN"
        )
    return found


def _query(path: Path, number: int, row: Row, columns: dict[str, str]) -> Query:
    """Make a query of a row."""
    question = row.values.get(columns["question"])
    if not isinstance(question, str):
        kind = "nothing" if question is None else f"{type(question).__name__} {question!r:.40}"
        raise DataError(
            f"{path}: {row.place}: expected a text in column {columns['question']!r}, found {kind}"
        )
    if not question.strip():
        raise DataError(f"{path}: {row.place}: the question is blank: fill it or drop the row")
    values = {
        field: _scalar(path, row, columns[field]) if field in columns else None
        for field in ("answer", "id", "split")
    }
    query_id = values["id"] if "id" in columns else str(number)
    if not query_id or not query_id.strip():
        raise DataError(f"{path}: {row.place}: no id in column {columns['id']!r}")
    gold = None if values["answer"] is None else _after_hashes(values["answer"])
    return Query(
        query_id=query_id,
        question=question,
        gold=gold if gold and gold.strip() else None,
        split=values["split"] or None,
    )


def _scalar(path: Path, row: Row, column: str) -> str | None:
    """Read a text or number as text, None where there is none."""
    value: Any = row.values.get(column)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (dict, list, bytes)):
        raise DataError(
            f"{path}: {row.place}: expected a text or number in column {column!r}, found "
            f"{type(value).__name__} {value!r:.40}"
        )
    if isinstance(value, float) and math.isnan(value):
        return None  # what other libraries write where there is nothing
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # 3.0 is what a column of numbers with gaps makes of 3
    return str(value)


def _after_hashes(gold: str) -> str:
    """Take what follows the last ``####`` without commas, or the text as it is."""
    _, hashes, answer = gold.rpartition("####")
    return answer.strip().replace(",", "") if hashes else gold


def _check_ids(name: str, queries: Sequence[Query]) -> None:
    """Refuse ids that occur twice."""
    counts = Counter(query.query_id for query in queries)
    twice = [query_id for query_id, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:_MOST_IDS_SHOWN]))
        more = f" and {len(twice) - _MOST_IDS_SHOWN} more" if len(twice) > _MOST_IDS_SHOWN else ""
        raise DataError(
            f"{name}: expected every id once, found {shown}{more} several times: make them "
            "unique, or name another column as in ?id=COLUMN"
        )


def _fingerprint(queries: Iterable[Query]) -> str:
    """Hash what makes a data set the same one."""
    digest = hashlib.sha256()
    for query in queries:
        fields = [query.query_id, query.question, query.gold, query.split]
        digest.update(json.dumps(fields).encode("ascii") + b"\n")
    return digest.hexdigest()
