"""The gate: takes one query, or many, through the pyramid."""

import asyncio
import json
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pyramid_moa.backends import (
    Backend,
    Completion,
    Failure,
    HiddenStates,
    ModelSpec,
    Prompt,
    RecordedBackend,
    open_backend,
)
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.data_prep.pyramid import Pyramid, load_pyramid
from pyramid_moa.grading import load_grader
from pyramid_moa.inference.budget import Budget
from pyramid_moa.inference.course import Course, Rules
from pyramid_moa.inference.requirements import (
    check_options,
    check_point,
    check_pyramid,
    check_requirements,
    needed_hidden_states,
)
from pyramid_moa.records import Decision, Generation, Query
from pyramid_moa.router_model.policy import OperatingPoint, PolicyKind, vote_point
from pyramid_moa.router_model.router import Router

__all__ = ["Gate", "OpenModel"]

Outcomes = list[Completion | Failure]


class OpenModel(Protocol):
    """Loads or reaches one model."""

    def __call__(self, spec: ModelSpec, *, hidden_states: HiddenStates | None) -> Backend:
        """Open it; see ``open_backend``."""
        ...


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
        point = point or (router.card.operating_point() if router else vote_point())
        check_point(point, router, pyramid)
        if pyramid.mid_oracles and point.policy == "parallel":
            logging.getLogger(__name__).warning(
                "%s: asked by the sequential policy only; operating point %s is parallel",
                ", ".join(spec.name for spec in pyramid.mid_oracles),
                point.name,
            )
        self._pyramid = pyramid
        self._backends = dict(backends)
        self._rules = Rules(
            pyramid=pyramid, router=router, point=point, grader=load_grader(pyramid.grader)
        )

    @classmethod
    def from_config(
        cls,
        pyramid: str | Path,
        *,
        router: str | Path | None = None,
        operating_point: str | None = None,
        threshold: float | None = None,
        policy: PolicyKind | None = None,
        open_model: OpenModel | None = None,
    ) -> "Gate":
        """Load everything from files.

        Args:
            pyramid: YAML file of the pyramid, or ``embedded``.
            router: checkpoint folder; None for the vote rule.
            operating_point: name of a point of the checkpoint; its first where left out.
            threshold: instead of a point: ask the oracle where p(ensemble fails) is larger; with
                the sequential policy, what the price of an oracle call has to buy.
            policy: ask members one after another, or all at once. Without it the pyramid's holds,
                or what the point says; with it and no point, the first point of that policy.
            open_model: opens each model's backend, given its entry and the hidden states that are
                needed of it; ``open_backend`` where left out.

        Raises:
            ConfigError: the YAML file is wrong, or the options do not go together.
            CheckpointError: the checkpoint is damaged or does not fit.
            BackendError: a model can't be loaded or reached.
        """
        config = load_pyramid(pyramid)
        # A point that is named says its own policy.
        policy = policy or (config.policy if operating_point is None else None)
        check_options(router, operating_point, threshold, policy)
        loaded = None
        if router is not None:
            loaded = Router.load(router, own_grader=config.grader)
            grader = load_grader(config.grader).name
            loaded = loaded.graded_by(grader, config.member_names) or loaded
        point = None
        if threshold is not None:
            point = OperatingPoint(
                name="given",
                threshold=threshold,
                target="given by the caller",
                policy=policy or "parallel",
            )
        elif loaded is not None:
            point = loaded.card.operating_point(operating_point, policy=policy)
        hidden = None
        if loaded is not None:
            # Before models are loaded, which takes minutes, what their entries tell.
            check_pyramid(loaded.card, config)
            hidden = needed_hidden_states(loaded.card)
        backends: dict[str, Backend] = {}
        try:
            for spec in config.models:
                wanted = hidden if spec in config.members else None
                backends[spec.name] = (open_model or open_backend)(spec, hidden_states=wanted)
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
        policy: PolicyKind | None = None,
        own_grader: str | None = None,
    ) -> "Gate":
        """Replay a run folder: every model answers what it answered then.

        Args:
            run: the run folder; its questions are the ones that can be asked.
            router: checkpoint folder; None for the vote rule.
            operating_point: as in ``from_config``.
            policy: likewise.
            own_grader: the caller's own ``module:function``, where the run was graded by it.

        Raises:
            RunFolderError: the run is missing, unfinished or damaged.
            CheckpointError: the checkpoint is damaged or does not fit.
            ConfigError: an operating point without a router.
        """
        check_options(router, operating_point, None, policy)
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
            point=loaded.card.operating_point(operating_point, policy=policy)
            if loaded is not None
            else None,
        )

    @property
    def identity(self) -> str:
        """All that decides the answers, as one text: pyramid, router and threshold."""
        router, point = self._rules.router, self._rules.point
        weights = router.weights_identity if router else "vote"
        pyramid = json.dumps(self._pyramid.identity(), sort_keys=True)
        how = (point.policy, point.rule, point.outvote)
        # As it was written before there were policies, where there is none to speak of.
        way = "" if how == ("parallel", "failure", None) else f"\n{how}"
        return f"{pyramid}\n{weights}\n{point.threshold!r}{way}"

    @property
    def point(self) -> OperatingPoint:
        """Where on the dial this gate stands."""
        return self._rules.point

    @property
    def rules(self) -> Rules:
        """What every query's course goes by."""
        return self._rules

    @property
    def backends(self) -> Mapping[str, Backend]:
        """What runs each model, by name."""
        return self._backends

    @property
    def price_note(self) -> str:
        """What must be said wherever a cost of this pyramid is shown."""
        return self._pyramid.price_note

    def answer(self, question: str, *, budget: Budget | None = None) -> Decision:
        """Answer one question; see ``answer_many``."""
        return self.answer_many([Query(query_id="0", question=question)], budget=budget)[0]

    async def aanswer(self, question: str, *, budget: Budget | None = None) -> Decision:
        """Answer one question without blocking the event loop."""
        query = Query(query_id="0", question=question)
        return (await self.aanswer_many([query], budget=budget))[0]

    def answer_many(
        self, queries: Sequence[Query], *, budget: Budget | None = None
    ) -> list[Decision]:
        """Answer queries, each model's in one batch.

        A model that fails on a query counts as one without an answer. Where the oracle
        is wanted and fails, the ensemble's answer is given and marked ``degraded``.

        Args:
            queries: what to ask; gold answers are not looked at.
            budget: limits of each query. Where they run out the best answer so far is given, and
                marked ``budget_exhausted``.

        Returns:
            One decision a query, in order.

        Raises:
            BackendError: a model can't answer anything any more.
            ConfigError: the budget limits the time, and that of a model is not known.
        """
        program = self._program(queries, budget)
        calls, decisions = _advance(program, None)
        if decisions is not None:
            return decisions
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

    async def aanswer_many(
        self, queries: Sequence[Query], *, budget: Budget | None = None
    ) -> list[Decision]:
        """Do the same without blocking the event loop."""
        program = self._program(queries, budget)
        calls, decisions = await asyncio.to_thread(_advance, program, None)
        if decisions is not None:
            return decisions
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

    def _program(self, queries: Sequence[Query], budget: Budget | None) -> _Program:
        """Every query's next step, each model's in one batch, until all decisions stand."""
        prompts = [self._pyramid.prompt.render(query.question) for query in queries]
        courses = [Course(self._rules, query, budget=budget) for query in queries]
        while True:
            asked: dict[str, list[int]] = {}
            for index, course in enumerate(courses):
                for name in course.wanted:
                    asked.setdefault(name, []).append(index)
            if not asked:
                return [course.decision for course in courses]
            # Models with the earliest steps first: the order of the pyramid.
            names = [spec.name for spec in self._pyramid.models if spec.name in asked]
            started = time.perf_counter()
            answers = yield [
                _Call(model=name, prompts=[prompts[index] for index in asked[name]])
                for name in names
            ]
            waiting = {index for indices in asked.values() for index in indices}
            seconds = (time.perf_counter() - started) / len(waiting)
            received: dict[int, dict[str, Completion | Failure]] = {index: {} for index in waiting}
            for name, outcomes in zip(names, answers, strict=True):
                for index, outcome in zip(asked[name], outcomes, strict=True):
                    received[index][name] = outcome
            for index, outcomes_of in received.items():
                courses[index].receive(outcomes_of, seconds=seconds)

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
    program: _Program, outcomes: list[Outcomes] | None
) -> tuple[list[_Call], list[Decision] | None]:
    """Hand a program what it asked for: what it wants next, or its decisions."""
    try:
        return (next(program) if outcomes is None else program.send(outcomes)), None
    except StopIteration as stop:
        return [], list(stop.value)
