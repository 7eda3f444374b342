"""From recorded answers to a run folder, without running a model."""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.manifest import Manifest, ModelCost, write_manifest
from pyramid_moa.data_prep.prices import find_cost
from pyramid_moa.data_prep.recorded_generation import recorded_generation
from pyramid_moa.data_prep.recorded_table import Recording, find_recording, read_recordings
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.splits import assign_splits
from pyramid_moa.errors import DataError, RunFolderError
from pyramid_moa.grading import Grader, infer_grader_name, load_grader
from pyramid_moa.progress import Progress
from pyramid_moa.records import Generation, Query, question_hash

__all__ = ["import_recorded"]

_CHUNK = 4096


def import_recorded(
    tables: Sequence[Path],
    *,
    members: Sequence[str],
    oracle: str | Sequence[str],
    out: Path,
    prices: dict[str, ModelCost] | None = None,
    grader_name: str | None = None,
    split: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Make a run folder of recorded answers.

    Args:
        tables: parquet files, one row an answer.
        members: ``MODEL[::VARIANT[::SAMPLE]]`` each, best first.
        oracle: likewise; of several, cheapest first, the last is the oracle and those before it are
            mid oracles.
        out: the run folder; must not be there yet.
        prices: the user's prices by model name.
        grader_name: how answers are compared; by default as the gold answers look.
        split: put all queries in this split instead of dividing them by hash.
        say: shown what was kept and assumed.

    Returns:
        The manifest of the run.

    Raises:
        DataError: a table or name is wrong, no question was answered by every model, or a question
            is blank or has two golds.
        RunFolderError: the folder is there already.
    """
    if out.exists():
        raise RunFolderError(f"{out}: exists already; give another --out")
    if not members:
        raise DataError("expected at least one member, found none")
    oracles = [oracle] if isinstance(oracle, str) else list(oracle)
    if not oracles:
        raise DataError("expected at least one oracle, found none")
    names = [*members, *oracles]
    recordings = read_recordings(tables)
    chosen = [find_recording(recordings, name) for name in names]
    if len({id(recording) for recording in chosen}) != len(names):
        raise DataError(
            "expected different recordings for members and oracles, found one twice: "
            + ", ".join(recording.title for recording in chosen)
        )
    keyed = _common_queries(chosen, names)
    queries = list(assign_splits([query for _, query in keyed], all_in=split))
    keys = [key for key, _ in keyed]
    has_gold = all(query.gold is not None for query in queries)
    if not has_gold:
        queries = [replace(query, gold=None) for query in queries]
        say("not every question has gold: labels and figures are against the oracle's answers")
    grader = load_grader(grader_name or _infer(queries, chosen, say))
    costs = [
        replace(find_cost(recording.model, prices or {}), name=name)
        for recording, name in zip(chosen, names, strict=True)
    ]
    with Progress("import", total=len(queries) * len(names)) as progress:
        rows = []
        for recording, name, cost in zip(chosen, names, costs, strict=True):
            given = recording.model in (prices or {})
            rows.append(
                [
                    recorded_generation(
                        query, recording.rows[key], name, cost, grader, prices_given=given
                    )
                    for query, key in zip(queries, keys, strict=True)
                ]
            )
            progress.advance(len(queries))
    manifest = _manifest(tables, members, oracles, queries, costs, grader, split, has_gold, rows)
    _write(out, manifest, queries, rows, grader)
    _tell(say, manifest, recordings, queries)
    return manifest


def _common_queries(
    recordings: Sequence[Recording], names: Sequence[str]
) -> list[tuple[tuple[str, str], Query]]:
    """The questions for which every named model has a row, with their keys in the tables."""
    keys = [
        key
        for key in recordings[0].rows
        if all(key in recording.rows for recording in recordings[1:])
    ]
    if not keys:
        counts = ", ".join(
            f"{name}: {len(recording.rows)}"
            for name, recording in zip(names, recordings, strict=True)
        )
        raise DataError(f"no question was answered by every model; questions of each: {counts}")
    # A question's number is its id, unless numbers repeat over the splits of its source.
    plain = len({split for split, _ in keys}) == 1
    return [
        (
            key,
            _query(
                [recording.rows[key] for recording in recordings],
                key[1] if plain else f"{key[0]}-{key[1]}",
            ),
        )
        for key in keys
    ]


def _query(rows: Sequence[dict[str, Any]], query_id: str) -> Query:
    """Make a query of what every recording says about it."""
    questions = {question_hash(row["question"]): row["question"] for row in rows}
    if len(questions) > 1:
        shown = " and ".join(f"{question:.60}" for question in list(questions.values())[:2])
        raise DataError(
            f"question {query_id}: expected the same text from every model, found {shown}; "
            "give tables of one data set"
        )
    if not rows[0]["question"].strip():
        raise DataError(f"question {query_id}: the question is blank: fill it or drop its rows")
    golds = {row["gold"].strip(): row["gold"] for row in rows if row["gold"] is not None}
    golds.pop("", None)
    if len(golds) > 1:
        shown = " and ".join(f"{gold!r:.60}" for gold in list(golds.values())[:2])
        raise DataError(
            f"question {query_id}: expected the same gold from every model, found {shown}; "
            "give tables of one data set"
        )
    return Query(
        query_id=query_id,
        question=rows[0]["question"],
        gold=next(iter(golds.values()), None),
    )


def _infer(
    queries: Sequence[Query], recordings: Sequence[Recording], say: Callable[[str], None]
) -> str:
    answers = [query.gold for query in queries if query.gold is not None]
    if not answers:
        rows = recordings[-1].rows.values()
        answers = [row["answer"] for row in rows if row.get("answer") is not None]
    name = infer_grader_name(answers)
    say(f"grader {name}, as the reference answers look; --grader names another")
    return name


def _manifest(
    tables: Sequence[Path],
    members: Sequence[str],
    oracles: Sequence[str],
    queries: Sequence[Query],
    costs: list[ModelCost],
    grader: Grader,
    split: str | None,
    has_gold: bool,
    rows: Sequence[Sequence[Generation]],
) -> Manifest:
    names = [*members, *oracles]
    digest = hashlib.sha256()
    for query in queries:
        digest.update(f"{query.query_id}\0{query.question}\0{query.gold}\n".encode())
    return Manifest(
        dataset=", ".join(path.stem for path in tables),
        dataset_hash=digest.hexdigest(),
        reference="gold" if has_gold else "oracle",
        members=list(members),
        mid_oracles=list(oracles[:-1]),
        oracle=oracles[-1],
        costs=costs,
        price_note="; ".join(cost.note for cost in costs if cost.note),
        grader=grader.name,
        splits=split or "hash",
        pyramid={"recorded": names},
        counts={
            "queries": len(queries),
            "generations": len(queries) * len(names),
            "failed": 0,
            "failed_by_model": dict.fromkeys(names, 0),
            "retryable": 0,
            "cost_usd": sum(row.cost_usd or 0.0 for own in rows for row in own),
        },
        complete=True,
        tokens_estimated=any(row.tokens_estimated for own in rows for row in own),
    )


def _write(
    out: Path,
    manifest: Manifest,
    queries: Sequence[Query],
    rows: Sequence[Sequence[Generation]],
    grader: Grader,
) -> None:
    """Write the run aside and rename it when it is whole."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.parent / f".partial-{out.name}-{uuid.uuid4().hex}"
        aside.mkdir()
    except OSError as error:
        raise RunFolderError(f"{out}: can't make a folder there: {error.strerror}") from error
    try:
        folder = RunFolder(aside)
        folder.create(queries, part_rows=_CHUNK)
        for model, own in enumerate(rows):
            for chunk, first in enumerate(range(0, len(own), _CHUNK)):
                folder.write_part(model, chunk, own[first : first + _CHUNK])
        answers = [[row.answer for row in own] for own in rows]
        members = answers[: len(manifest.members)]
        folder.write_labels(
            label_queries(queries, members, answers[-1], grader, reference=manifest.reference)
        )
        write_manifest(aside, manifest)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _tell(
    say: Callable[[str], None],
    manifest: Manifest,
    recordings: Sequence[Recording],
    queries: Sequence[Query],
) -> None:
    everything = {key for recording in recordings for key in recording.rows}
    say(
        f"{len(queries)} of {len(everything)} questions have a row of every model; "
        f"reference: {manifest.reference}"
    )
    if manifest.tokens_estimated:
        say("token counts, and the costs from them, are estimates: the tables have none")
    if manifest.price_note:
        say(manifest.price_note)
