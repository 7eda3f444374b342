"""Answering a file of questions: each once, nothing lost when it is interrupted."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.datasets import LoadedDataset
from pyramid_moa.errors import DataError
from pyramid_moa.inference.budget import Budget
from pyramid_moa.inference.gate import Gate
from pyramid_moa.progress import Progress
from pyramid_moa.records import Decision, Query

__all__ = ["AnswerTotals", "answer_file", "decision_row"]

_BATCH = 32
_HEAD = b'{"identity": "'


@dataclass(frozen=True, kw_only=True)
class AnswerTotals:
    """What answering a file came to.

    Attributes:
        questions: how many.
        escalated: for how many the oracle was asked.
        unanswered: how many have no response of anybody.
        degraded: for how many the oracle was wanted and failed.
        cost_usd: price of all calls.
        oracle_cost_usd: price of asking the oracle alone, estimated where it was not asked.
    """

    questions: int
    escalated: int
    unanswered: int
    degraded: int
    cost_usd: float
    oracle_cost_usd: float


def answer_file(
    gate: Gate,
    dataset: LoadedDataset,
    output: Path,
    *,
    identity: str,
    budget: Budget | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> AnswerTotals:
    """Answer every question of a data set into a JSONL file.

    Rows are collected in ``<output>.partial``, flushed after each batch, and renamed when all are
    there; a run that was interrupted goes on from it.

    Args:
        gate: the pyramid.
        dataset: the questions.
        output: the JSONL file; an earlier one is replaced when the new one is complete.
        identity: what the answers depend on; a partial file of another identity is refused.
        budget: of each question.
        say: told when an interrupted run is gone on with, and where questions are unlike those
            that the router was trained on.

    Returns:
        The totals.

    Raises:
        DataError: the partial file is of other questions, another pyramid or another router, or
            ``output`` is a folder.
    """
    if output.is_dir():
        raise DataError(f"{output}: expected the name of a file for the answers, found a folder")
    partial = output.with_name(f"{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    head = {"identity": _identity(dataset, f"{identity}{_limits(gate, budget)}")}
    with _locked(partial) as file:
        rows = _recover(file, partial, head)
        if rows:
            say(f"{partial}: going on after {len(rows)} answers that are there")
        todo = islice(dataset.queries, len(rows), None)
        with Progress("answer", total=dataset.count - len(rows)) as bar:
            for batch in _batches(todo):
                decisions = gate.answer_many(batch, budget=budget)
                new = [
                    decision_row(query, decision)
                    for query, decision in zip(batch, decisions, strict=True)
                ]
                _append(file, new)
                rows.extend(new)
                bar.advance(len(batch), note=f"{sum(row['escalated'] for row in rows)} escalated")
        if remark := _remark(gate, [row["question"] for row in rows]):
            say(remark)
        write_text_atomically(output, "".join(_line(row) for row in rows))
        partial.unlink()
    return AnswerTotals(
        questions=len(rows),
        escalated=sum(row["escalated"] for row in rows),
        unanswered=sum(row["response"] is None for row in rows),
        degraded=sum(row["degraded"] for row in rows),
        cost_usd=sum(row["cost_usd"] for row in rows),
        oracle_cost_usd=sum(row["oracle_cost_usd"] for row in rows),
    )


def _remark(gate: Gate, questions: Sequence[str]) -> str | None:
    router = gate.rules.router
    known = router.known if router is not None else None
    return known.remark(questions) if known is not None else None


def decision_row(query: Query, decision: Decision) -> dict[str, Any]:
    """A decision with its reason as plain values, one line of the output file."""
    return {
        "query_id": query.query_id,
        "question": query.question,
        "answer": decision.answer,
        "response": decision.response,
        "answered_by": decision.answered_by,
        "escalated": decision.escalated,
        "ensemble_answer": decision.ensemble_answer,
        "p_ensemble_fails": decision.p_ensemble_fails,
        "p_oracle_right": decision.p_oracle_right,
        "threshold": decision.threshold,
        "rule": decision.rule,
        "reason": decision.reason,
        "models_called": list(decision.models_called),
        "members": {
            row.model: {"answer": row.answer, "error": row.error} for row in decision.generations
        },
        "cost_usd": decision.cost_usd,
        "oracle_cost_usd": decision.oracle_cost_usd,
        "flops": decision.flops,
        "members_s": decision.members_s,
        "router_s": decision.router_s,
        "oracle_s": decision.oracle_s,
        "degraded": decision.degraded,
        "policy": decision.policy,
        "path": [list(together) for together in decision.path],
        "outvoted": decision.outvoted,
        "budget_exhausted": decision.budget_exhausted,
    }


def _limits(gate: Gate, budget: Budget | None) -> str:
    """What a budget makes the answers depend on: its limits, and what calls are expected to take.

    The rest of a gate's identity leaves out prices, and of a checkpoint all but its weights.
    """
    if budget in (None, Budget()):
        return ""
    router = gate.rules.router
    typical = router.card.typical_calls if router is not None else {}
    calls = [
        f"{spec.name}: {typical.get(spec.name)}, {spec.price}" for spec in gate.rules.pyramid.models
    ]
    return "\n".join(["", str(budget), *calls])


def _identity(dataset: LoadedDataset, identity: str) -> str:
    return hashlib.sha256(f"{dataset.fingerprint}\n{identity}".encode()).hexdigest()


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open the file of collected answers for this process alone."""
    with partial.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{partial}: another process is answering into this file; wait for it, or give "
                "another --output"
            ) from error
        yield file


def _recover(file: BinaryIO, partial: Path, head: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of an interrupted run; a new file is given its head."""
    file.seek(0)
    content = file.read()
    # Each row is written with its line end: what stands after the last one was cut off.
    whole = content[: content.rfind(b"\n") + 1]
    if not (content.startswith(_HEAD) or _HEAD.startswith(content)):
        raise DataError(
            f"{partial}: expected an interrupted run's answers, found something else; remove it"
        )
    file.truncate(len(whole))
    if not whole:
        _append(file, [head])
        return []
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(
            f"{partial}: expected an interrupted run's answers, found something else; remove it"
        ) from error
    if rows[0] != head:
        raise DataError(
            f"{partial}: holds the answers of an interrupted run on other questions, another "
            "pyramid or another router, or under another budget or other prices; finish that "
            "one, or remove the file to start afresh"
        )
    return rows[1:]


def _batches(queries: Iterator[Query]) -> Iterator[Sequence[Query]]:
    while batch := list(islice(queries, _BATCH)):
        yield batch


def _append(file: BinaryIO, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write("".join(_line(row) for row in rows).encode("utf-8"))
    file.flush()


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    # A question or response may hold half of a surrogate pair, which UTF-8 cannot; escapes can.
    return (text if _encodes(text) else json.dumps(row)) + "\n"


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
