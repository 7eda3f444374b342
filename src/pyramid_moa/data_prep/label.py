"""Labelling: every model of a pyramid answers every query of a data set, once."""

import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pyramid_moa.backends import generation_cost_usd
from pyramid_moa.data_prep.budget import Budget
from pyramid_moa.data_prep.datasets import LoadedDataset
from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.manifest import Manifest, model_costs, read_manifest, write_manifest
from pyramid_moa.data_prep.opening import open_model
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.run_folder import PART_ROWS, RunFolder
from pyramid_moa.data_prep.run_tables import Label
from pyramid_moa.data_prep.splits import assign_splits
from pyramid_moa.data_prep.turn import ALLOWANCE, Turn, prompt_tokens
from pyramid_moa.errors import ConfigError, DataError, PyramidError, RunFolderError
from pyramid_moa.grading import load_grader
from pyramid_moa.progress import Progress
from pyramid_moa.records import Query

if TYPE_CHECKING:
    from pyramid_moa.data_prep.ray_engine import AnswerChunks

__all__ = ["Engine", "label"]

Engine = Literal["local", "ray"]

# Chunks whose prompts stand for all in the estimate of the cost.
_SAMPLED_CHUNKS = 4


def label(
    dataset: LoadedDataset,
    pyramid: Pyramid,
    out: Path,
    *,
    split: str | None = None,
    resume: bool = False,
    max_usd: float | None = None,
    strict: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Generate with every model, grade, and label; leaves a run folder.

    Memory does not grow with the number of queries: they are read a chunk at a time, and what the
    models answer is on disk as soon as it is there.

    Args:
        dataset: the queries.
        pyramid: the models, the prompt and the grader.
        out: the run folder; with ``resume`` it may hold a part of the same run.
        split: put all queries in this split instead of dividing them by hash.
        resume: go on with what is there, and try again what failed and may succeed now.
        max_usd: stop before an answer that could take the run's cost past this.
        strict: a failed generation is an error.
        engine: where the models run: ``local`` in this process, ``ray`` in workers of a Ray
            cluster, that of RAY_ADDRESS or one of this machine alone. The run is the same.
        workers: ray: workers for each model; None for as many as there is room for.
        say: shown what the run will cost, and how it went.

    Returns:
        The manifest of the finished run.

    Raises:
        RunFolderError: the folder is another run's, or is there without ``resume``; or the disk is
            full, and what was generated is kept.
        BudgetError: ``max_usd`` is reached; what was generated is kept.
        DataError: a question can't be stored; or, with ``strict``, a generation failed, and what
            was generated is kept.
        BackendError: a model can't be loaded or reached, or is gone; what was generated is kept.
            Where nothing has been generated yet, no folder is left behind.
        ConfigError: ``max_usd`` is not an amount, or ``workers`` no number of workers.
        MissingExtraError: Ray is not installed.
    """
    _check_options(split, max_usd)
    running = _engine(engine, workers)
    wanted = _manifest(dataset, pyramid, split)
    folder = RunFolder(out)
    fresh = not (out / "manifest.json").exists()
    if fresh:
        folder.check_free()
    elif not resume:
        raise RunFolderError(
            f"{out}: there is a run already; --resume goes on with it, another --out starts afresh"
        )
    if not dataset.has_gold:
        say("not every question has gold: labels and figures are against the oracle's answers")
    with folder.locked(), _keeping(folder, fresh=fresh):
        _open_folder(folder, wanted, _queries(dataset, split))
        found = read_manifest(out)
        if not _is_finished(folder, found):
            # Until its labels are written anew, nobody is to train on a run that changes.
            write_manifest(out, wanted)
            say(_estimate(folder, pyramid, dataset.count))
            budget = Budget(max_usd, spent_usd=_spent(folder, pyramid))
            _answer_all(folder, pyramid, running, budget=budget, strict=strict)
            found = _finish(folder, pyramid, wanted)
        # Prices may have changed since: they are no part of what makes a run the same.
        done = replace(found, costs=wanted.costs, price_note=wanted.price_note)
        write_manifest(out, done)
        _check_strict(folder, done, strict)
    say(_closing_line(folder, done))
    return done


def _check_options(split: str | None, max_usd: float | None) -> None:
    if split is not None and not split.strip():
        raise ConfigError("--split: expected a name, found an empty one")
    if max_usd is not None and not max_usd >= 0:
        raise ConfigError(f"--max-usd: expected 0 US dollars or more, found {max_usd}")


@contextmanager
def _keeping(folder: RunFolder, *, fresh: bool) -> Iterator[None]:
    """Leave nothing behind of a new run that has not begun, and say how another goes on."""
    try:
        yield
    except PyramidError:
        if fresh and not folder.has_parts():
            folder.discard()
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFolderError(
            f"{folder.path}: {os.strerror(error.errno)}; what was generated is kept: make room, "
            "and --resume goes on"
        ) from error


def _is_finished(folder: RunFolder, manifest: Manifest) -> bool:
    """Whether every query has been answered, and no answer may be better the next time."""
    return (
        manifest.complete
        and not manifest.counts["retryable"]
        and folder.is_whole(len(manifest.models))
    )


def _answer_all(
    folder: RunFolder,
    pyramid: Pyramid,
    engine: "AbstractContextManager[AnswerChunks]",
    *,
    budget: Budget,
    strict: bool,
) -> None:
    """Have each model in turn answer what it has not answered yet."""
    with engine as answer:
        for model in range(len(pyramid.models)):
            if pending := _pending_chunks(folder, model):
                answer(folder, pyramid, model, pending, budget=budget, strict=strict)


def _engine(engine: Engine, workers: int | None) -> "AbstractContextManager[AnswerChunks]":
    if engine == "ray":
        from pyramid_moa.data_prep.ray_engine import ray_engine

        return ray_engine(workers)
    if workers is not None:
        raise ConfigError("--workers: goes with --engine ray; the local engine has no workers")
    return nullcontext(_answer_here)


def _answer_here(
    folder: RunFolder,
    pyramid: Pyramid,
    model: int,
    chunks: Sequence[int],
    *,
    budget: Budget,
    strict: bool,
) -> None:
    """Have one model answer, in this process, what is pending in some chunks."""
    spec = pyramid.models[model]
    turn = Turn(folder, pyramid, model, budget=budget, strict=strict)
    backend = open_model(spec, pyramid, hidden_states=pyramid.hidden_states_of(model))
    try:
        total = folder.count_queries(chunks)
        with Progress(f"label {spec.name}", total=total) as progress:
            turn.run(backend, chunks, progress)
    finally:
        backend.close()


def _queries(dataset: LoadedDataset, split: str | None) -> Iterator[Query]:
    """The queries as the run keeps them."""
    queries = assign_splits(dataset.queries, all_in=split, has_test=dataset.has_test)
    for query in queries:
        try:
            f"{query.query_id}{query.question}{query.gold}{query.split}".encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"question {query.query_id!a}: half of a surrogate pair in it, which no table can "
                "hold; mend or drop it"
            ) from error
        # One reference for all: a few golds among many queries would measure two things at once.
        yield query if dataset.has_gold else replace(query, gold=None)


def _open_folder(folder: RunFolder, wanted: Manifest, queries: Iterable[Query]) -> None:
    """Start the run, or make sure that what is there is the same one."""
    if (folder.path / "manifest.json").exists():
        differences = read_manifest(folder.path).differences(wanted)
        if differences:
            raise RunFolderError(
                f"{folder.path}: the run there is another one ({'; '.join(differences[:8])}); "
                "give another --out, or the data set and pyramid it was made with"
            )
    folder.clean()
    if not (folder.path / "manifest.json").exists():
        # First of all: a folder with a manifest is ours, whatever else is missing in it.
        write_manifest(folder.path, wanted)
    if not (folder.path / "queries.parquet").exists():
        folder.create(queries, part_rows=PART_ROWS)


def _manifest(dataset: LoadedDataset, pyramid: Pyramid, split: str | None) -> Manifest:
    return Manifest(
        dataset=dataset.name,
        dataset_hash=dataset.fingerprint,
        reference="gold" if dataset.has_gold else "oracle",
        members=pyramid.member_names,
        mid_oracles=[spec.name for spec in pyramid.mid_oracles],
        oracle=pyramid.oracle.name,
        costs=model_costs(pyramid),
        price_note=pyramid.price_note,
        grader=pyramid.grader,
        splits=split or "hash",
        pyramid=pyramid.identity(),
    )


def _estimate(folder: RunFolder, pyramid: Pyramid, count: int) -> str:
    """What the whole run can cost at most, in words; prompts of some chunks stand for all."""
    chunks = folder.chunks()
    sampled = chunks[:: math.ceil(len(chunks) / _SAMPLED_CHUNKS)]
    tokens = [
        prompt_tokens(pyramid.prompt.render(query.question))
        for _, queries in folder.read_chunks(sampled)
        for query in queries
    ]
    prompts = round(sum(tokens) * count / len(tokens))
    answers = pyramid.sampling.max_tokens * count
    most = math.ceil(prompts * ALLOWANCE)
    usd = sum(generation_cost_usd(spec, most, answers) for spec in pyramid.models)
    return (
        f"{count} queries x {len(pyramid.models)} models: about {prompts} prompt tokens and at "
        f"most {answers} answer tokens a model, hardly more than {usd:.4f} USD"
        f"{_note(pyramid.price_note)}"
    )


def _pending_chunks(folder: RunFolder, model: int) -> list[int]:
    """Chunks without a part, or with rows in it that may succeed now."""
    pending = set(folder.chunks())
    for chunk, rows in folder.read_columns(model, ["error", "can_retry"]):
        if not _retryable(rows) and not folder.journal_path(model, chunk).exists():
            pending.discard(chunk)
    return sorted(pending)


def _retryable(rows: pa.Table) -> int:
    """Number of rows that failed in a way that may pass."""
    return int(pc.sum(pc.and_(rows["can_retry"], pc.is_valid(rows["error"]))).as_py() or 0)


def _spent(folder: RunFolder, pyramid: Pyramid) -> float:
    return math.fsum(
        [
            *(
                float(pc.sum(rows["cost_usd"]).as_py() or 0.0)
                for model in range(len(pyramid.models))
                for _, rows in folder.read_columns(model, ["cost_usd"])
            ),
            # What is in both counts once: its process died between the part and the journal's end.
            *(row.cost_usd or 0.0 for row in folder.read_journals(beyond_parts=True)),
        ]
    )


def _finish(folder: RunFolder, pyramid: Pyramid, wanted: Manifest) -> Manifest:
    """Write the labels and count; the manifest of the finished run."""
    folder.write_labels(_labels(folder, pyramid, wanted.reference))
    failed: dict[str, int] = {}
    generations = retryable = 0
    estimated, usd = False, 0.0
    for model, spec in enumerate(pyramid.models):
        failed[spec.name] = 0
        columns = ["error", "can_retry", "tokens_estimated", "cost_usd"]
        for _, rows in folder.read_columns(model, columns):
            generations += rows.num_rows
            failed[spec.name] += rows.num_rows - rows["error"].null_count
            retryable += _retryable(rows)
            usd += float(pc.sum(rows["cost_usd"]).as_py() or 0.0)
            estimated = estimated or bool(pc.any(rows["tokens_estimated"]).as_py())
    counts = {
        "queries": generations // len(pyramid.models),
        "generations": generations,
        "failed": sum(failed.values()),
        "failed_by_model": failed,
        "retryable": retryable,
        "cost_usd": usd,
    }
    return replace(wanted, counts=counts, complete=True, tokens_estimated=estimated)


def _labels(folder: RunFolder, pyramid: Pyramid, reference: str) -> Iterator[Label]:
    grader = load_grader(pyramid.grader)
    answers = [folder.read_columns(model, ["answer"]) for model in range(len(pyramid.models))]
    for (_, queries), *parts in zip(folder.read_chunks(folder.chunks()), *answers, strict=True):
        rows: list[Sequence[str | None]] = [table["answer"].to_pylist() for _, table in parts]
        members = rows[: len(pyramid.members)]
        yield from label_queries(queries, members, rows[-1], grader, reference=reference)


def _check_strict(folder: RunFolder, done: Manifest, strict: bool) -> None:
    if strict and done.counts["failed"]:
        model, query_id, error = _first_failure(folder, done)
        raise DataError(
            f"--strict: {model} failed on {done.counts['failed_by_model'][model]} of "
            f"{done.counts['queries']} queries, first on {query_id}: {error}; what was generated "
            "is kept"
        )


def _first_failure(folder: RunFolder, done: Manifest) -> tuple[str, str, str]:
    """Model, query and error of the first generation that failed."""
    for model, name in enumerate(done.models):
        for _, rows in folder.read_columns(model, ["query_id", "error"]):
            failed = rows.filter(pc.is_valid(rows["error"]))
            if failed.num_rows:
                return name, failed["query_id"][0].as_py(), failed["error"][0].as_py()
    raise RunFolderError(
        f"{folder.path}: the manifest counts failed generations, and there are none; label again"
    )


def _closing_line(folder: RunFolder, done: Manifest) -> str:
    counts = done.counts
    line = (
        f"{counts['generations']} generations, {counts['failed']} failed, "
        f"{counts['cost_usd']:.4f} USD{_note(done.price_note)}"
    )
    if done.tokens_estimated:
        line += "; token counts are estimates where a server gave none"
    if counts["failed"]:
        model, query_id, error = _first_failure(folder, done)
        line += f"; the first failure: {model} on {query_id}: {error}"
    return line


def _note(price_note: str) -> str:
    return f" ({price_note})" if price_note else ""
