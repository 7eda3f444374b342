"""Data sets by name or file, as queries."""

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pyramid_moa.data_prep.dataset_spec import DatasetSpec, parse_spec
from pyramid_moa.data_prep.file_queries import COLUMNS, FileQueries, gold_after_hashes
from pyramid_moa.data_prep.table_files import SUFFIXES
from pyramid_moa.errors import ConfigError, DataError, import_extra
from pyramid_moa.records import Query

__all__ = ["LoadedDataset", "load_queries"]

_LOG = logging.getLogger(__name__)

_GSM8K_PARTS = {"gsm8k": ("train", "test"), "gsm8k:train": ("train",), "gsm8k:test": ("test",)}
_WORD_PROBLEMS = {"train": 1500, "test": 500, "seed": 0}
_MOST_IDS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LoadedDataset:
    """A data set that was found to be in order; a file's queries stay in the file.

    Attributes:
        name: what manifests and reports call it.
        queries: in the source's order; splits as the source gives them, otherwise None. Can be
            gone over again and again; a file's are read anew each time, and raise a DataError where
            it is no longer the same.
        count: how many.
        fingerprint: SHA-256 over ids, questions, golds and splits in order.
        has_gold: whether every query has a reference answer.
        has_test: whether any query has the split ``test``, which ``assign_splits`` asks for.
    """

    name: str
    queries: Iterable[Query]
    count: int
    fingerprint: str
    has_gold: bool
    has_test: bool


def load_queries(spec: str | DatasetSpec, *, limit: int | None = None) -> LoadedDataset:
    """Load a data set: go over it once, and make sure that it is in order.

    What is kept of a file are some bytes a query, whatever their length; a .json file alone is held
    whole while it is gone over. gsm8k and word-problems, which have their bounds, are held.

    Args:
        spec: ``gsm8k``, ``gsm8k:train`` or ``gsm8k:test`` (from the Hugging Face hub);
            ``word-problems?train=1500&test=500&seed=0`` (generated); or a .jsonl, .json, .csv or
            .parquet file, with columns named as in ``questions.csv?question=prompt&answer=target``.
            Without names, a file's columns are question; gold or answer (may be missing: no gold);
            id, query_id or question_id (may be missing: the row's number); split (may be missing).
            A gold that is null, NaN or blank is none.
            A gold with ``####`` in it, as in GSM8K's own file, is what follows the last one.
        limit: keep only the first so many. Questions beyond are not looked at, but for the columns
            that a JSON file has in any of its rows.

    Raises:
        ConfigError: the spec names no source, or an option that the source does not have.
        DataError: the source is missing, damaged, empty, or has no usable questions or ids.
        MissingExtraError: the source needs a package that is not installed.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1, found {limit}")
    name, queries = _find(spec, limit)
    scan = _scan(name, queries)
    if not scan.count:
        raise DataError(f"{name}: expected questions, found none: the data set is empty")
    return LoadedDataset(
        name=name,
        queries=queries,
        count=scan.count,
        fingerprint=scan.fingerprint,
        has_gold=scan.has_gold,
        has_test=scan.has_test,
    )


def _find(spec: DatasetSpec, limit: int | None) -> tuple[str, Iterable[Query]]:
    """Find the source; its first so many queries can be gone over again and again."""
    if spec.source in _GSM8K_PARTS:
        spec.check_options(())
        return spec.source, tuple(islice(_from_hub(_GSM8K_PARTS[spec.source]), limit))
    if spec.source == "word-problems":
        name, queries = _word_problems(spec)
        return name, queries[:limit]
    path = Path(spec.source)
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join([*_GSM8K_PARTS, "word-problems"])
        raise ConfigError(
            f"unknown data set {spec.source!r}: expected {known}, or a file ending in "
            f"{', '.join(SUFFIXES)}"
        )
    spec.check_options(COLUMNS)
    return path.name, FileQueries.open(path, columns=spec.options, limit=limit)


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
                gold=gold_after_hashes(row["answer"]),
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


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """What one pass over a data set finds out."""

    count: int
    fingerprint: str
    has_gold: bool
    has_test: bool


def _scan(name: str, queries: Iterable[Query]) -> _Scan:
    """Go over all queries once.

    Raises:
        DataError: an id occurs twice, or a source is wrong further on.
    """
    digest = hashlib.sha256()
    has_gold, has_test = True, False
    hashes = array("q")  # eight bytes an id: the ids themselves may be too many to hold
    for query in queries:
        fields = [query.query_id, query.question, query.gold, query.split]
        digest.update(json.dumps(fields).encode("ascii") + b"\n")
        hashes.append(hash(query.query_id))
        if query.gold is None:
            has_gold = False
        if query.split == "test":
            has_test = True
    _check_ids(name, queries, hashes)
    return _Scan(
        count=len(hashes), fingerprint=digest.hexdigest(), has_gold=has_gold, has_test=has_test
    )


def _check_ids(name: str, queries: Iterable[Query], hashes: "array[int]") -> None:
    """Refuse ids that occur twice; the hash of each is known."""
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return
    # Only those of equal hash can be equal: their number is small, or all that is wrong.
    counts = Counter(query.query_id for query in queries if hash(query.query_id) in repeated)
    twice = [query_id for query_id, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(map(repr, twice[:_MOST_IDS_SHOWN]))
        more = f" and {len(twice) - _MOST_IDS_SHOWN} more" if len(twice) > _MOST_IDS_SHOWN else ""
        raise DataError(
            f"{name}: expected every id once, found {shown}{more} several times: make them "
            "unique, or name another column as in ?id=COLUMN"
        )
