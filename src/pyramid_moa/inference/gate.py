"""The gate: takes one query, or many, through the pyramid."""

import asyncio
import json
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pyramid_moa.backends import (
    Backend,
    Completion,
    Failure,
    ModelSpec,
    Prompt,
    RecordedBackend,
    open_backend,
)
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.data_prep.pyramid import Pyramid, load_pyramid
from pyramid_moa.grading import Vote, load_grader, vote
from pyramid_moa.inference.decisions import Judgement, build_decision
from pyramid_moa.inference.requirements import (
    check_options,
    check_pyramid,
    check_requirements,
    needed_hidden_states,
)
from pyramid_moa.records import Decision, Generation, Query
from pyramid_moa.router_model.policy import (
    OperatingPoint,
    escalates,
    vote_point,
    vote_scores,
)
from pyramid_moa.router_model.router import Router

__all__ = ["Gate"]

Outcomes = list[Completion | Failure]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Ask one model these prompts."""

    model: str
    prompts: list[Prompt]


# What the gate wants done next, until it has its decisions: the one body of sync and async.
_Program = Generator[list[_Call], list[Outcomes], list[Decision]]


class Gate:
    """Members first; the oracle where the router says that it pays.

    Without a router the vote rule decides: the oracle is asked unless all members agree.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        backends: Mapping[str, Backend],
        *,
        router: Router | None = None,
        point: OperatingPoint | None = None,
    ) -> None:
        """Put a gate together from running backends, which it closes in the end.

        Args:
            pyramid: members, oracle, prompt, sampling and grader.
            backends: one for each model, by name.
            router: scores the members' answers; None for the vote rule.
            point: where on the dial; the router's first point, or all agree, where left out.

        Raises:
            CheckpointError: the router does not fit the pyramid, or needs what the backends
                can't give.
        """
        if router is not None:
            check_requirements(router.card, pyramid, backends)
        self._pyramid = pyramid
        self._backends = dict(backends)
        self._router = router
        self._grader = load_grader(pyramid.grader)
        self.point = point or (router.card.operating_point() if router else vote_point())

    @classmethod
    def from_config(
        cls,
        pyramid: str | Path,
        *,
        router: str | Path | None = None,
        operating_point: str | None = None,
        threshold: float | None = None,
    ) -> "Gate":
        """Load everything from files.

        Args:
            pyramid: YAML file of the pyramid, or ``embedded``.
            router: checkpoint folder; None for the vote rule.
            operating_point: name of a point of the checkpoint; its first where left out.
            threshold: ask the oracle where p(ensemble fails) is larger, instead of a point.

        Raises:
            ConfigError: the YAML file is wrong, or the options do not go together.
            CheckpointError: the checkpoint is damaged or does not fit.
            BackendError: a model can't be loaded or reached.
        """
        check_options(router, operating_point, threshold)
        config = load_pyramid(pyramid)
        loaded = None
        if router is not None:
            loaded = Router.load(router, own_grader=config.grader)
            grader = load_grader(config.grader).name
            loaded = loaded.graded_by(grader, config.member_names) or loaded
        point = loaded.card.operating_point(operating_point) if loaded is not None else None
        if threshold is not None:
            point = OperatingPoint(name="given", threshold=threshold, target="given by the caller")
        hidden = None
        if loaded is not None:
            # Before models are loaded, which takes minutes, what their entries tell.
            check_pyramid(loaded.card, config)
            hidden = needed_hidden_states(loaded.card)
        backends: dict[str, Backend] = {}
        try:
            for spec in config.models:
                wanted = hidden if spec in config.members else None
                backends[spec.name] = open_backend(spec, hidden_states=wanted)
            return cls(config, backends, router=loaded, point=point)
        except BaseException:
            _close_all(backends)
            raise

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        router: str | Path | None = None,
        operating_point: str | None = None,
        own_grader: str | None = None,
    ) -> "Gate":
        """Replay a run folder: every model answers what it answered then.

        Args:
            run: the run folder; its questions are the ones that can be asked.
            router: checkpoint folder; None for the vote rule.
            operating_point: as in ``from_config``.
            own_grader: the caller's own ``module:function``, where the run was graded by it.

        Raises:
            RunFolderError: the run is missing, unfinished or damaged.
            CheckpointError: the checkpoint is damaged or does not fit.
            ConfigError: an operating point without a router.
        """
        check_options(router, operating_point, None)
        data = read_labelled_run(Path(run), own_grader=own_grader)
        manifest = data.manifest
        template = PromptTemplate(chat=False)
        specs = [
            ModelSpec(
                name=cost.name,
                model=cost.name,
                backend="recorded",
                price=cost.price,
                active_parameters=cost.active_parameters,
            )
            for cost in manifest.costs
        ]
        pyramid = Pyramid(
            name=manifest.dataset,
            members=specs[: len(manifest.members)],
            oracles=specs[len(manifest.members) :],
            prompt=template,
            grader=manifest.grader,
            price_note=manifest.price_note,
        )
        rows: dict[str, dict[Prompt, Generation]] = {name: {} for name in manifest.models}
        for index, query in enumerate(data.queries):
            prompt = template.render(query.question)
            answers = data.answers_before_oracle(index)
            answers[manifest.oracle] = data.generations[manifest.oracle][index]
            for name, generation in answers.items():
                rows[name].setdefault(prompt, generation)
        loaded = None
        if router is not None:
            loaded = Router.load(router, own_grader=own_grader)
            loaded = loaded.graded_by(manifest.grader, manifest.members) or loaded
        return cls(
            pyramid,
            {name: RecordedBackend(name, own) for name, own in rows.items()},
            router=loaded,
            point=loaded.card.operating_point(operating_point) if loaded is not None else None,
        )

    @property
    def identity(self) -> str:
        """All that decides the answers, as one text: pyramid, router and threshold."""
        weights = self._router.weights_identity if self._router else "vote"
        pyramid = json.dumps(self._pyramid.identity(), sort_keys=True)
        return f"{pyramid}\n{weights}\n{self.point.threshold!r}"

    @property
    def price_note(self) -> str:
        """What must be said wherever a cost of this pyramid is shown."""
        return self._pyramid.price_note

    def answer(self, question: str) -> Decision:
        """Answer one question; see ``answer_many``."""
        return self.answer_many([Query(query_id="0", question=question)])[0]

    async def aanswer(self, question: str) -> Decision:
        """Answer one question without blocking the event loop."""
        return (await self.aanswer_many([Query(query_id="0", question=question)]))[0]

    def answer_many(self, queries: Sequence[Query]) -> list[Decision]:
        """Answer queries, each model's in one batch.

        A model that fails on a query counts as one without an answer. Where the oracle
        is wanted and fails, the ensemble's answer is given and marked ``degraded``.

        Args:
            queries: what to ask; gold answers are not looked at.

        Returns:
            One decision a query, in order.

        Raises:
            BackendError: a model can't answer anything any more.
        """
        program = self._program(queries)
        calls = next(program)
        with ThreadPoolExecutor(max_workers=len(self._backends)) as pool:
            while True:
                # Models in this process take turns; servers work at the same time.
                waiting = {
                    call.model: pool.submit(self._generate, call)
                    for call in calls
                    if self._is_remote(call)
                }
                outcomes = [
                    waiting[call.model].result() if self._is_remote(call) else self._generate(call)
                    for call in calls
                ]
                calls, decisions = _advance(program, outcomes)
                if decisions is not None:
                    return decisions

    async def aanswer_many(self, queries: Sequence[Query]) -> list[Decision]:
        """Do the same without blocking the event loop."""
        program = self._program(queries)
        calls = next(program)
        while True:
            waiting = {
                call.model: asyncio.ensure_future(self._agenerate(call))
                for call in calls
                if self._is_remote(call)
            }
            try:
                outcomes = [
                    await (waiting[call.model] if self._is_remote(call) else self._agenerate(call))
                    for call in calls
                ]
            finally:
                # Where one failed or the caller gave up, no request of the others goes on unseen.
                for task in waiting.values():
                    task.cancel()
                await asyncio.gather(*waiting.values(), return_exceptions=True)
            # Grading and scoring many answers takes long enough to be felt on the loop.
            calls, decisions = await asyncio.to_thread(_advance, program, outcomes)
            if decisions is not None:
                return decisions

    def close(self) -> None:
        """Close every backend."""
        _close_all(self._backends)

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every backend."""
        self.close()

    def _program(self, queries: Sequence[Query]) -> _Program:
        """Members, judgement, oracle where wanted, decisions."""
        prompts = [self._pyramid.prompt.render(query.question) for query in queries]
        started = time.perf_counter()
        answers = yield [_Call(model=name, prompts=prompts) for name in self._pyramid.member_names]
        members_s = (time.perf_counter() - started) / max(len(queries), 1)
        judgements = [
            self._judge(query, [outcomes[index] for outcomes in answers], members_s)
            for index, query in enumerate(queries)
        ]
        asked = [index for index, judgement in enumerate(judgements) if judgement.escalated]
        oracle: dict[int, Generation] = {}
        oracle_s = 0.0
        if asked:
            started = time.perf_counter()
            name = self._pyramid.oracle.name
            (outcomes,) = yield [_Call(model=name, prompts=[prompts[index] for index in asked])]
            oracle_s = (time.perf_counter() - started) / len(asked)
            oracle = {
                index: self._graded(queries[index], self._pyramid.oracle, outcome)
                for index, outcome in zip(asked, outcomes, strict=True)
            }
        return [
            build_decision(self._pyramid, judgement, self.point, oracle.get(index), oracle_s)
            for index, judgement in enumerate(judgements)
        ]

    def _judge(
        self, query: Query, outcomes: Sequence[Completion | Failure], members_s: float
    ) -> Judgement:
        """Score the members' answers to one query and decide on the oracle."""
        started = time.perf_counter()
        generations = {
            spec.name: self._graded(query, spec, outcome)
            for spec, outcome in zip(self._pyramid.members, outcomes, strict=True)
        }
        result: Vote
        if self._router is None:
            result = vote([row.answer for row in generations.values()], self._grader.equal)
            scores = vote_scores(result.share)
        else:
            evidence = self._router.evidence(query.question, generations)
            result = evidence.vote
            scores = self._router.score_evidence(
                evidence, list(generations), self._router.hidden_states(generations)
            )
        return Judgement(
            query_id=query.query_id,
            generations=tuple(generations.values()),
            vote=result,
            scores=scores,
            escalated=escalates(scores, self.point.threshold),
            rule="vote" if self._router is None else "router",
            members_s=members_s,
            router_s=time.perf_counter() - started,
        )

    def _graded(self, query: Query, spec: ModelSpec, outcome: Completion | Failure) -> Generation:
        # Gold is for evaluation; a gate that saw it could not be trusted.
        return graded_generation(
            Query(query_id=query.query_id, question=query.question), spec, outcome, self._grader
        )

    def _generate(self, call: _Call) -> Outcomes:
        return self._backends[call.model].generate(call.prompts, self._pyramid.sampling)

    async def _agenerate(self, call: _Call) -> Outcomes:
        return await self._backends[call.model].agenerate(call.prompts, self._pyramid.sampling)

    def _is_remote(self, call: _Call) -> bool:
        return self._pyramid.spec(call.model).is_served


def _close_all(backends: Mapping[str, Backend]) -> None:
    """Close every backend, whatever happens to the others."""
    with ExitStack() as stack:
        for backend in backends.values():
            stack.callback(backend.close)


def _advance(
    program: _Program, outcomes: list[Outcomes]
) -> tuple[list[_Call], list[Decision] | None]:
    """Hand a program what it asked for: what it wants next, or its decisions."""
    try:
        return program.send(outcomes), None
    except StopIteration as stop:
        return [], list(stop.value)
