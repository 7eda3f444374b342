"""Columns of a run folder's tables, and the way between rows and records."""

import dataclasses
from collections.abc import Iterable, Sequence

import pyarrow as pa

from pyramid_moa.records import Generation, LogprobStatistics, Query, question_hash

__all__ = [
    "GENERATIONS",
    "LABELS",
    "QUERIES",
    "Label",
    "generation_from_row",
    "generation_to_row",
    "generations_from_table",
    "generations_to_table",
    "labels_from_table",
    "labels_to_table",
    "queries_from_table",
    "queries_to_table",
]

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("question_hash", pa.string(), nullable=False),
    ]
)

_LOGPROBS = tuple(field.name for field in dataclasses.fields(LogprobStatistics))

GENERATIONS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("response", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("finish_reason", pa.string()),
        pa.field("error", pa.string()),
        pa.field("can_retry", pa.bool_(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("tokens_estimated", pa.bool_(), nullable=False),
        pa.field("latency_s", pa.float64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("confidence", pa.float64()),
        *(pa.field(f"logprob_{name}", pa.float64()) for name in _LOGPROBS),
    ]
)

LABELS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("vote_answer", pa.string()),
        pa.field("vote_share", pa.float64(), nullable=False),
        pa.field("vote_correct", pa.bool_(), nullable=False),
        pa.field("oracle_answer", pa.string()),
        pa.field("oracle_correct", pa.bool_(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """Did the ensemble's answer fail; did the oracle's hold.

    Attributes:
        query_id: the query.
        vote_answer: the members' plurality, or None where nobody answered.
        vote_share: members behind it over all members.
        vote_correct: equality with the reference.
        oracle_answer: the oracle's, or None.
        oracle_correct: equality with the reference; where the oracle is the reference, whether
            it answered at all.
        reference: ``gold`` or ``oracle``.
    """

    query_id: str
    vote_answer: str | None
    vote_share: float
    vote_correct: bool
    oracle_answer: str | None
    oracle_correct: bool
    reference: str


def queries_to_table(queries: Iterable[Query]) -> pa.Table:
    """Rows of ``queries.parquet``; every query has its split by now."""
    return pa.Table.from_pylist(
        [
            {**dataclasses.asdict(query), "question_hash": question_hash(query.question)}
            for query in queries
        ],
        schema=QUERIES,
    )


def queries_from_table(table: pa.Table) -> list[Query]:
    """Queries in the order of the run."""
    columns = ["query_id", "split", "question", "gold"]
    return [Query(**row) for row in table.select(columns).to_pylist()]


def generations_to_table(generations: Sequence[Generation]) -> pa.Table:
    """Rows of a part; hidden states are kept apart from them."""
    return pa.Table.from_pylist([generation_to_row(one) for one in generations], GENERATIONS)


def generations_from_table(table: pa.Table) -> list[Generation]:
    """Records in the order of the part, without hidden states."""
    return [generation_from_row(row) for row in table.to_pylist()]


def labels_to_table(labels: Iterable[Label]) -> pa.Table:
    """Rows of ``labels.parquet``."""
    return pa.Table.from_pylist([dataclasses.asdict(label) for label in labels], LABELS)


def labels_from_table(table: pa.Table) -> list[Label]:
    """Labels in the order of the run."""
    return [Label(**row) for row in table.select(LABELS.names).to_pylist()]


def generation_to_row(generation: Generation) -> dict[str, object]:
    """A record as plain values by column, without its hidden states."""
    row = {name: getattr(generation, name, None) for name in GENERATIONS.names}
    for name in _LOGPROBS:
        row[f"logprob_{name}"] = getattr(generation.logprobs, name) if generation.logprobs else None
    return row


def generation_from_row(row: dict[str, object]) -> Generation:
    """The record of such values, which it takes apart."""
    logprobs = {name: row.pop(f"logprob_{name}") for name in _LOGPROBS}
    known = any(value is not None for value in logprobs.values())
    return Generation(
        **row,  # type: ignore[arg-type]  # the schema has checked the types
        logprobs=LogprobStatistics(**logprobs) if known else None,  # type: ignore[arg-type]  # ditto
    )
