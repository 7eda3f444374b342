"""Labelling: every model of a pyramid answers every query of a data set, once."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyramid_moa.backends import Backend, ModelSpec, generation_cost_usd, open_backend
from pyramid_moa.data_prep.datasets import LoadedDataset
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.manifest import Manifest, model_costs, read_manifest, write_manifest
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.splits import assign_splits
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from pyramid_moa.errors import BudgetError, ConfigError, DataError, PyramidError, RunFolderError
from pyramid_moa.grading import Grader, load_grader
from pyramid_moa.progress import Progress
from pyramid_moa.records import Generation, Query

__all__ = ["label"]

# Queries of one part. A remote model's part is smaller: what is under way when the process dies
# has to be paid for again.
_CHUNK_LOCAL = 256
_CHUNK_REMOTE = 32
# Estimates of prompt tokens come close from below, and chat templates add to them: what money is
# concerned is reckoned with so many times the estimate, or more where a model has counted more.
_ALLOWANCE = 1.5


def label(
    dataset: LoadedDataset,
    pyramid: Pyramid,
    out: Path,
    *,
    split: str | None = None,
    resume: bool = False,
    max_usd: float | None = None,
    strict: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Generate with every model, grade, and label; leaves a run folder.

    Args:
        dataset: the queries.
        pyramid: the models, the prompt and the grader.
        out: the run folder; with ``resume`` it may hold a part of the same run.
        split: put all queries in this split instead of dividing them by hash.
        resume: go on with what is there, and try again what failed and may succeed now.
        max_usd: stop before a part that could take the run's cost past this.
        strict: a failed generation is an error.
        say: shown what the run will cost, and how it went.

    Returns:
        The manifest of the finished run.

    Raises:
        RunFolderError: the folder is another run's, or is there without ``resume``.
        BudgetError: ``max_usd`` is reached; what was generated is kept.
        DataError: a question can't be stored; or, with ``strict``, a generation failed, and what
            was generated is kept.
        BackendError: a model can't be loaded or reached. Where nothing has been generated yet,
            no folder is left behind.
        ConfigError: ``max_usd`` is not an amount.
    """
    if split is not None and not split.strip():
        raise ConfigError("--split: expected a name, found an empty one")
    if max_usd is not None and not max_usd >= 0:
        raise ConfigError(f"--max-usd: expected 0 US dollars or more, found {max_usd}")
    queries = list(assign_splits(dataset.queries, all_in=split))
    if not dataset.has_gold:
        # One reference for all: a few golds among many queries would measure two things at once.
        queries = [replace(query, gold=None) for query in queries]
        say("not every question has gold: labels and figures are against the oracle's answers")
    _check_storable(queries)
    wanted = _manifest(dataset, pyramid, split)
    folder = RunFolder(out)
    if not resume and (out / "manifest.json").exists():
        raise RunFolderError(
            f"{out}: there is a run already; --resume goes on with it, another --out starts afresh"
        )
    fresh = not (out / "manifest.json").exists()
    if fresh:
        folder.check_free()
    with folder.locked():
        _open_folder(folder, wanted, queries)
        run = _Run(folder=folder, queries=queries, pyramid=pyramid, max_usd=max_usd, strict=strict)
        say(run.estimate())
        try:
            rows = [run.label_model(index) for index in range(len(pyramid.models))]
        except PyramidError:
            if fresh and not folder.has_parts():
                folder.discard()
            raise
        labels = label_queries(queries, rows[:-1], rows[-1], run.grader, reference=wanted.reference)
        folder.write_labels(labels)
        done = replace(
            wanted,
            counts=_counts(pyramid, queries, rows),
            complete=True,
            tokens_estimated=any(row.tokens_estimated for own in rows for row in own),
        )
        write_manifest(out, done)
    say(_closing_line(done, rows))
    return done


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What every model's turn needs."""

    folder: RunFolder
    queries: Sequence[Query]
    pyramid: Pyramid
    max_usd: float | None
    strict: bool

    @property
    def grader(self) -> Grader:
        return load_grader(self.pyramid.grader)

    def estimate(self) -> str:
        """What the whole run can cost at most, in words."""
        prompt_tokens = sum(map(self._prompt_tokens, self.queries))
        answer_tokens = self.pyramid.sampling.max_tokens * len(self.queries)
        most_tokens = math.ceil(prompt_tokens * _ALLOWANCE)
        usd = sum(
            generation_cost_usd(spec, most_tokens, answer_tokens) for spec in self.pyramid.models
        )
        note = f" ({self.pyramid.price_note})" if self.pyramid.price_note else ""
        return (
            f"{len(self.queries)} queries x {len(self.pyramid.models)} models: about "
            f"{prompt_tokens} prompt tokens and at most {answer_tokens} answer tokens a model, "
            f"hardly more than {usd:.4f} USD{note}"
        )

    def label_model(self, index: int) -> list[Generation]:
        """Have one model answer what it has not answered yet; all its rows, without vectors."""
        spec = self.pyramid.models[index]
        chunks = list(self._chunks(spec))
        todo = [chunk for chunk, queries in chunks if self._pending(index, chunk, queries)]
        if todo:
            # Hidden states are the router's evidence on members; the oracle's are not used.
            member = index < len(self.pyramid.members)
            hidden = self.pyramid.hidden_states if member else None
            backend = open_backend(spec, hidden_states=hidden)
            try:
                self._run_chunks(index, backend, [chunks[chunk] for chunk in todo])
            finally:
                backend.close()
        rows = self.folder.read_generations(index)
        self._check_strict(rows)
        return rows

    def _run_chunks(
        self, index: int, backend: Backend, chunks: Sequence[tuple[int, Sequence[Query]]]
    ) -> None:
        total = sum(len(queries) for _, queries in chunks)
        failed = 0
        spent, allowance = self._spent(), _ALLOWANCE
        with Progress(f"label {backend.name}", total=total) as progress:
            for chunk, queries in chunks:
                # What stands in a part is kept: only what is missing is asked, and paid, again.
                rows = {row.query_id: row for row in self.folder.read_part(index, chunk) or ()}
                ask = [query for query in queries if _is_pending(rows.get(query.query_id))]
                self._check_budget(spent, index, ask, allowance)
                new = self._answer(index, backend, ask)
                rows.update((row.query_id, row) for row in new)
                self.folder.write_part(index, chunk, [rows[query.query_id] for query in queries])
                spent += sum(row.cost_usd or 0.0 for row in new)
                allowance = max(allowance, self._underestimated(ask, new))
                failed += sum(row.error is not None for row in new)
                progress.advance(len(queries), note=f"{failed} failed, {spent:.4f} USD")
                self._check_strict(new)

    def _answer(self, index: int, backend: Backend, ask: Sequence[Query]) -> list[Generation]:
        spec, grader = self.pyramid.models[index], self.grader
        prompts = [self.pyramid.prompt.render(query.question) for query in ask]
        outcomes = backend.generate(prompts, self.pyramid.sampling)
        return [
            graded_generation(query, spec, outcome, grader)
            for query, outcome in zip(ask, outcomes, strict=True)
        ]

    def _chunks(self, spec: ModelSpec) -> Iterator[tuple[int, Sequence[Query]]]:
        size = _CHUNK_LOCAL if spec.backend == "transformers" else _CHUNK_REMOTE
        for first in range(0, len(self.queries), size):
            yield first // size, self.queries[first : first + size]

    def _pending(self, index: int, chunk: int, queries: Sequence[Query]) -> bool:
        rows = self.folder.read_part(index, chunk, hidden_states=False)
        return rows is None or any(map(_is_pending, rows)) or len(rows) != len(queries)

    def _spent(self) -> float:
        return sum(
            row.cost_usd or 0.0
            for index in range(len(self.pyramid.models))
            for row in self.folder.read_generations(index)
        )

    def _underestimated(self, asked: Sequence[Query], rows: Sequence[Generation]) -> float:
        """How many times the estimate a model has counted in its prompts."""
        known = [
            (row.prompt_tokens, self._prompt_tokens(query))
            for query, row in zip(asked, rows, strict=True)
            if row.prompt_tokens is not None
        ]
        return sum(count for count, _ in known) / max(1, sum(estimate for _, estimate in known))

    def _check_budget(
        self, spent: float, index: int, queries: Sequence[Query], allowance: float
    ) -> None:
        if self.max_usd is None:
            return
        spec = self.pyramid.models[index]
        most = sum(
            generation_cost_usd(
                spec,
                math.ceil(self._prompt_tokens(query) * allowance),
                self.pyramid.sampling.max_tokens,
            )
            for query in queries
        )
        if spent + most > self.max_usd:
            raise BudgetError(
                f"stopped at --max-usd {self.max_usd}: {spent:.6f} USD are spent and the next "
                f"{len(queries)} answers of {spec.name} may cost {most:.6f}; what was generated, "
                "if anything, is kept: --resume with a larger --max-usd goes on"
            )

    def _prompt_tokens(self, query: Query) -> int:
        prompt = self.pyramid.prompt.render(query.question)
        texts = [prompt.text or "", *(message.content for message in prompt.messages or ())]
        return sum(map(estimate_tokens, texts))

    def _check_strict(self, rows: Sequence[Generation]) -> None:
        failed = [row for row in rows if row.error is not None]
        if self.strict and failed:
            raise DataError(
                f"--strict: {failed[0].model} failed on {len(failed)} of {len(rows)} queries, "
                f"first on {failed[0].query_id}: {failed[0].error}; what was generated is kept"
            )


def _is_pending(row: Generation | None) -> bool:
    return row is None or (row.error is not None and row.can_retry)


def _check_storable(queries: Sequence[Query]) -> None:
    for query in queries:
        try:
            f"{query.query_id}{query.question}{query.gold}{query.split}".encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"question {query.query_id!a}: half of a surrogate pair in it, which no table can "
                "hold; mend or drop it"
            ) from error


def _open_folder(folder: RunFolder, wanted: Manifest, queries: Sequence[Query]) -> None:
    """Start the run, or make sure that what is there is the same one."""
    if (folder.path / "manifest.json").exists():
        differences = read_manifest(folder.path).differences(wanted)
        if differences:
            raise RunFolderError(
                f"{folder.path}: the run there is another one ({'; '.join(differences[:8])}); "
                "give another --out, or the data set and pyramid it was made with"
            )
        folder.clean()
    else:
        # First of all: a folder with a manifest is ours, whatever else is missing in it.
        write_manifest(folder.path, wanted)
    if not (folder.path / "queries.parquet").exists():
        folder.create(queries)


def _manifest(dataset: LoadedDataset, pyramid: Pyramid, split: str | None) -> Manifest:
    return Manifest(
        dataset=dataset.name,
        dataset_hash=dataset.fingerprint,
        reference="gold" if dataset.has_gold else "oracle",
        members=pyramid.member_names,
        oracle=pyramid.oracle.name,
        costs=model_costs(pyramid),
        price_note=pyramid.price_note,
        grader=pyramid.grader,
        splits=split or "hash",
        pyramid=pyramid.identity(),
    )


def _counts(
    pyramid: Pyramid, queries: Sequence[Query], rows: Sequence[Sequence[Generation]]
) -> dict[str, object]:
    failed = {
        spec.name: sum(row.error is not None for row in own)
        for spec, own in zip(pyramid.models, rows, strict=True)
    }
    return {
        "queries": len(queries),
        "generations": sum(map(len, rows)),
        "failed": sum(failed.values()),
        "failed_by_model": failed,
    }


def _closing_line(manifest: Manifest, rows: Sequence[Sequence[Generation]]) -> str:
    usd = sum(row.cost_usd or 0.0 for own in rows for row in own)
    note = f" ({manifest.price_note})" if manifest.price_note else ""
    counts = manifest.counts
    line = f"{counts['generations']} generations, {counts['failed']} failed, {usd:.4f} USD{note}"
    if manifest.tokens_estimated:
        line += "; token counts are estimates where a server gave none"
    first = next((row for own in rows for row in own if row.error is not None), None)
    if first is not None:
        line += f"; the first failure: {first.model} on {first.query_id}: {first.error}"
    return line
