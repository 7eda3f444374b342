"""One question taken through the pyramid live: models called, failures borne, the answer streamed.

What is decided, and when, is the course's, the same that ``evaluate`` replays; here is only what a
request needs beside it: bounded time, models that fail, tokens as they come.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from pyramid_moa.backends import Completion, Failure, Sampling
from pyramid_moa.backends.openai_chunks import Piece
from pyramid_moa.inference.budget import Budget, expected_calls
from pyramid_moa.inference.course import Course, Rules
from pyramid_moa.inference.gateway.judges import Judges
from pyramid_moa.inference.gateway.late_calls import (
    after_all,
    any_text,
    cut_short,
    rescued,
    taken_over,
)
from pyramid_moa.inference.gateway.plan import Gated
from pyramid_moa.inference.gateway.request_time import is_over
from pyramid_moa.inference.gateway.tracing import stage
from pyramid_moa.inference.gateway.upstream import Upstream
from pyramid_moa.records import Decision, Query
from pyramid_moa.router_model.route import Belief

__all__ = ["ORACLE_SHARE", "Finished", "Item", "Judged", "Models", "Run", "TakenOver", "take_live"]

_T = TypeVar("_T")
_GAP = "\n\n"
# Where members hang, the oracle still has to have its time.
_MEMBERS_SHARE = 0.5
ORACLE_SHARE = 0.75
"""Of the time that is left, so much may go by before an oracle's next word where others can stand
in for it: they have to have theirs."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a live course is driven with.

    Attributes:
        upstreams: by name, every model of the pyramid.
        member_timeout_s: seconds for the answer of any model but the oracle.
        judges: run grading and scoring, so that the event loop does not wait long for them.
        audit: hears of decisions on answers as in training, when theirs has been given.
        fallback: takes over where the oracle fails; None for nobody.
    """

    upstreams: Mapping[str, Upstream]
    member_timeout_s: float
    judges: Judges
    audit: Callable[[Rules, str, Decision], None]
    fallback: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A question's way through the pyramid.

    Attributes:
        question: its text.
        sampling: how models answer.
        budget: limits of this way, by which calls are planned.
        choices: numbers of the request's answers that its answer is.
    """

    question: str
    sampling: Sampling
    budget: Budget
    choices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The members have spoken, and the oracle is asked or not.

    Attributes:
        escalated: whether it is asked.
        belief: what the router makes of the answers; None where there were none to read.
        threshold: of the operating point.
    """

    escalated: bool
    belief: Belief | None
    threshold: float


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """The oracle has failed, and the fallback oracle is asked in its place.

    Attributes:
        model: the fallback oracle's name.
        void_characters: of the oracle's text that have gone out and are no part of any answer.
    """

    model: str
    void_characters: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The decision stands.

    Attributes:
        decision: with its reason; its response is None where no model has answered.
        completion: what the winner answered, with its tokens; None where nobody has.
        groups: for each model whose answer was read, a number that those with equal answers share;
            None without an answer.
        streamed: whether the winner's text has gone out piece by piece.
        void_characters: of the text that has gone out, those that a model had said before it broke
            off: they are no part of the answer.
        broken_off: such text has gone out, and nobody has taken over.
        ran_out: the client's own time was over before all was done.
        retry_after_s: seconds after which the first of the models that failed, of those whose
            servers say when, wants to be asked again.
    """

    decision: Decision
    completion: Completion | None
    groups: Mapping[str, int | None] = field(default_factory=dict)
    streamed: bool = False
    void_characters: int = 0
    broken_off: bool = False
    ran_out: bool = False
    retry_after_s: float | None = None


Item = Judged | TakenOver | Piece | Finished
"""What happens to a question on its way."""


async def take_live(
    plan: Gated, models: Models, run: Run, *, until: float, live: bool
) -> AsyncGenerator[Item, None]:
    """Take a question through the pyramid.

    Args:
        plan: of the request that it belongs to.
        models: what answers.
        run: the question.
        until: when the request's time is over, on the event loop's clock.
        live: give an oracle's text as it comes.

    Yields:
        That it has been judged, once; pieces of the oracle's text, where they are wanted and its
        word will be the last; that the fallback oracle is asked, where it is, and its text; in the
        end, what has been decided.

    Raises:
        ConfigError: the budget limits the time, and that of a model is not known.
    """
    way = _Way(plan, models, run, until=until, live=live)
    async with aclosing(way.go()) as items:
        async for item in items:
            yield item
    assert way.decision is not None
    # Audits are of answers as in training alone.
    if plan.as_trained:
        models.audit(plan.rules, run.question, way.decision)


class _Way:
    """What is known of a question while it is under way."""

    def __init__(self, plan: Gated, models: Models, run: Run, *, until: float, live: bool) -> None:
        self.decision: Decision | None = None
        self._rules, self._models, self._budget = plan.rules, models, run.budget
        # Kept here, not counted: which query it is, is nobody's business but this request's.
        self._query = Query(query_id="live", question=run.question)
        self._prompt = plan.rules.pyramid.prompt.render(run.question)
        self._sampling = run.sampling
        self._until, self._is_cut, self._live = until, plan.is_cut, live
        self._loop = asyncio.get_running_loop()
        self._outcomes: dict[str, Completion | Failure] = {}
        # Whose text has gone out to its end, and how many characters of everybody's before the last
        # speaker's and in all.
        self._heard_out: str | None = None
        self._before = self._said = 0
        self._ran_out = False

    async def go(self) -> AsyncGenerator[Item, None]:
        begin = partial(Course, self._rules, self._query, budget=self._budget)
        # A parallel policy's first step is known without a look at the question, unless a budget
        # makes it choose: no need to leave the loop.
        known = self._rules.point.policy == "parallel" and self._budget == Budget()
        course = begin() if known else await self._judge(begin)
        async with aclosing(self._walk(course)) as items:
            async for item in items:
                yield item
        decision = course.decision
        if decision.response is None and not decision.escalated and not decision.budget_exhausted:
            decision = await self._rescue(decision)
        took_over = False
        if self._may_take_over(decision):
            started = time.perf_counter()
            async with aclosing(self._ask_fallback()) as parts:
                async for part in parts:
                    yield part
            decision, took_over = await self._take_over(decision, time.perf_counter() - started)
        if not any(row.response is not None for row in decision.generations):
            decision = await self._try_others(decision)
        yield self._finish(decision, course.belief, took_over=took_over)

    async def _walk(self, course: Course) -> AsyncGenerator[Judged | Piece, None]:
        """Ask as the course wants."""
        rules, judged = self._rules, False
        while wanted := course.wanted:
            started = time.perf_counter()
            if wanted == (rules.pyramid.oracle.name,):
                judged = True
                yield _judged(course, rules, escalated=True)
                # Where the ensemble may outvote it, nobody knows yet whose word is the last.
                live = self._live and rules.point.outvote is None
                async with aclosing(self._ask_oracle(live=live)) as pieces:
                    async for piece in pieces:
                        yield piece
            else:
                await self._ask_members(wanted)
            answers = {name: self._outcomes[name] for name in wanted}
            seconds = time.perf_counter() - started
            await self._judge(partial(course.receive, answers, seconds=seconds))
        if not judged:
            yield _judged(course, rules, escalated=False)

    async def _rescue(self, decision: Decision) -> Decision:
        """Ask the oracle although a threshold says never to: a client is owed an answer."""
        if not self._has_room(decision, [self._rules.pyramid.oracle.name]):
            reason = f"{decision.reason}; the budget has no room for the oracle"
            return replace(decision, budget_exhausted=True, reason=reason)
        started = time.perf_counter()
        async with aclosing(self._ask_oracle(live=False)) as pieces:
            assert not [piece async for piece in pieces]
        seconds = time.perf_counter() - started
        outcome = self._outcomes[self._rules.pyramid.oracle.name]
        return await self._judge(
            partial(rescued, self._rules, self._query, decision, outcome, seconds)
        )

    async def _take_over(self, decision: Decision, seconds: float) -> tuple[Decision, bool]:
        """The decision now that the fallback oracle has been asked, and whether it answered."""
        fallback = self._models.fallback
        assert fallback is not None
        outcome = self._outcomes[fallback]
        take = partial(taken_over, self._rules, self._query, decision, fallback, outcome, seconds)
        return await self._judge(take), isinstance(outcome, Completion)

    async def _try_others(self, decision: Decision) -> Decision:
        """Where nobody has answered, ask mid oracles, and those that are left alone, after all."""
        upstreams, pyramid = self._models.upstreams, self._rules.pyramid
        best_first = [*reversed(pyramid.oracles), *pyramid.members]
        names = [
            spec.name
            for spec in best_first
            if (spec in pyramid.mid_oracles and spec.name not in self._outcomes)
            or upstreams[spec.name].breaker.state != "closed"
        ]
        if not names or self._is_late() or not self._has_room(decision, names):
            return decision
        started = time.perf_counter()
        found = await self._first_of(names)
        self._outcomes.update(found)
        seconds = time.perf_counter() - started
        return await self._judge(
            partial(after_all, self._rules, self._query, decision, found, seconds)
        )

    async def _first_of(self, names: Sequence[str]) -> dict[str, Completion | Failure]:
        """Ask some at once until one answers: what there is by then."""
        limit_s = self._until - self._loop.time()
        calls = {
            name: asyncio.ensure_future(self._ask(name, limit_s, early=True)) for name in names
        }
        waiting = set(calls.values())
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(isinstance(call.result(), Completion) for call in done):
                    break
            return {name: call.result() for name, call in calls.items() if call.done()}
        finally:
            for call in waiting:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _finish(self, decision: Decision, belief: Belief | None, *, took_over: bool) -> Finished:
        if decision.response is None:
            decision = any_text(decision)
        members = self._rules.pyramid.member_names
        if all(isinstance(self._outcomes.get(name), Failure) for name in members):
            # Somebody answers in the place of those who should have been heard first.
            decision = replace(decision, degraded=True)
        if self._ran_out:
            decision = cut_short(decision)
        self.decision = decision
        winner = self._outcomes.get(decision.answered_by or "")
        # Who broke off may have been asked again: that answer has not gone out.
        streamed = self._heard_out is not None and self._heard_out == decision.answered_by
        return Finished(
            decision=decision,
            completion=winner if isinstance(winner, Completion) else None,
            groups=_groups(belief),
            streamed=streamed,
            void_characters=self._before if streamed or took_over else self._said,
            broken_off=self._said > 0 and not streamed and not took_over,
            ran_out=self._ran_out,
            retry_after_s=min(
                (
                    outcome.retry_after_s
                    for outcome in self._outcomes.values()
                    if isinstance(outcome, Failure) and outcome.retry_after_s is not None
                ),
                default=None,
            ),
        )

    async def _ask_members(self, names: Sequence[str]) -> None:
        left_s = self._until - self._loop.time()
        # Of the client's own time, what is planned may need all; of the gateway's, the oracle has
        # its share.
        share = 1.0 if self._is_cut else _MEMBERS_SHARE
        limit_s = min(self._models.member_timeout_s, share * left_s)
        answers = await asyncio.gather(*(self._ask(name, limit_s) for name in names))
        self._outcomes.update(zip(names, answers, strict=True))

    async def _ask_oracle(self, *, live: bool) -> AsyncGenerator[Piece, None]:
        """Ask it; where others are still to be asked if it fails, they have their time, too."""
        oracle = self._rules.pyramid.oracle.name
        answered = any(isinstance(outcome, Completion) for outcome in self._outcomes.values())
        patience = 1.0 if answered and self._models.fallback is None else ORACLE_SHARE
        async with aclosing(self._hear(oracle, patience=patience, live=live)) as pieces:
            async for piece in pieces:
                yield piece

    async def _ask_fallback(self) -> AsyncGenerator[TakenOver | Piece, None]:
        """Ask it, unless it has been asked before: then that is its answer."""
        name = self._models.fallback
        assert name is not None
        if self._said:
            # What follows is another's: no word of one runs into a word of the other.
            self._said += len(_GAP)
            yield Piece(text=_GAP)
        self._before = self._said
        if name in self._outcomes:
            return
        yield TakenOver(model=name, void_characters=self._before)
        async with aclosing(self._hear(name, patience=1.0, live=self._live)) as pieces:
            async for piece in pieces:
                yield piece

    async def _hear(self, name: str, *, patience: float, live: bool) -> AsyncGenerator[Piece, None]:
        """Ask one model, and pass on what it says where that is wanted."""
        if not live:
            limit_s = patience * (self._until - self._loop.time())
            self._outcomes[name] = await self._ask(name, limit_s)
            return
        if self._is_late():
            self._outcomes[name] = _not_asked(name)
            self._returned(self._outcomes[name])
            return
        items = self._models.upstreams[name].stream(
            self._prompt, self._sampling, until=self._until, patience=patience
        )
        async with aclosing(items) as stream:
            async for item in stream:
                if isinstance(item, Piece):
                    self._said += len(item.text)
                    yield item
                else:
                    self._heard_out = name if isinstance(item, Completion) else None
                    self._outcomes[name] = item
                    self._returned(item)

    async def _ask(self, name: str, limit_s: float, *, early: bool = False) -> Completion | Failure:
        outcome: Completion | Failure = _not_asked(name)
        if not self._is_late():
            outcome = await self._models.upstreams[name].ask(
                self._prompt, self._sampling, until=self._until, limit_s=limit_s, early=early
            )
        self._returned(outcome)
        return outcome

    async def _judge(self, work: Callable[[], _T]) -> _T:
        answers = self._outcomes.values()
        texts = [self._query.question, *(a.text for a in answers if isinstance(a, Completion))]
        with stage("router"):
            return await self._models.judges.run(work, characters=sum(map(len, texts)))

    def _is_late(self) -> bool:
        return is_over(self._until)

    def _returned(self, outcome: Completion | Failure) -> None:
        """A call is over: whether the client's own time has ended it."""
        # Here and not in the end: what comes in time may be graded after it.
        if self._is_cut and isinstance(outcome, Failure) and self._is_late():
            self._ran_out = True

    def _may_take_over(self, decision: Decision) -> bool:
        """Whether the oracle has failed, and there are another, time and money."""
        fallback = self._models.fallback
        if fallback is None or not decision.degraded:
            return False
        if fallback in self._outcomes:
            return isinstance(self._outcomes[fallback], Completion)
        return not self._is_late() and self._has_room(decision, [fallback])

    def _has_room(self, decision: Decision, names: Sequence[str]) -> bool:
        """Whether the budget has room for some more calls at once."""
        router = self._rules.router
        typical = router.card.typical_calls if router is not None else {}
        expected = expected_calls(self._rules.pyramid, typical, self._query.question)
        seconds = decision.members_s + decision.oracle_s
        return self._budget.leaves_room(
            [names], expected, spent_usd=decision.cost_usd, spent_s=seconds
        )


def _not_asked(name: str) -> Failure:
    return Failure(message=f"{name} was not asked: the time is over", can_retry=True)


def _judged(course: Course, rules: Rules, *, escalated: bool) -> Judged:
    return Judged(escalated=escalated, belief=course.belief, threshold=rules.point.threshold)


def _groups(belief: Belief | None) -> dict[str, int | None]:
    if belief is None:
        return {}
    return dict(zip(belief.models, belief.vote.clusters, strict=True))
