"""Answers of the pyramid in the clients' form: whole, or as they come."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyramid_moa.backends.openai_chunks import Piece
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.api_error import ApiError, bad_request, unavailable
from pyramid_moa.inference.gateway.explanation import (
    gated_block,
    judged_block,
    pyramid_headers,
    several_blocks,
    total_usage,
)
from pyramid_moa.inference.gateway.live_course import (
    Finished,
    Item,
    Judged,
    Models,
    Run,
    TakenOver,
    take_live,
)
from pyramid_moa.inference.gateway.merging import all_of, merged
from pyramid_moa.inference.gateway.plan import Gated
from pyramid_moa.inference.gateway.question import seed_of
from pyramid_moa.inference.gateway.reply import DONE, ReplyForm, comment, event
from pyramid_moa.inference.gateway.upstream import piece_of

__all__ = ["Note", "Opened", "Whole", "gated_stream", "gated_whole"]

Note = Callable[[Mapping[str, Any], Mapping[str, int]], None]
"""Told of a decision that stands: its ``pyramid`` block and the tokens of all calls."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A reply that is not streamed.

    Attributes:
        body: as JSON.
        headers: beside it.
    """

    body: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A stream can begin: there will be an answer.

    Attributes:
        headers: of the response.
    """

    headers: Mapping[str, str]


def _runs(plan: Gated) -> list[Run]:
    """Each answer a way of its own; greedy ones to the same question are one and the same."""
    is_greedy = plan.sampling.temperature == 0
    budget = plan.budget
    if budget.max_usd is not None:
        # They go on at once: what one leaves comes too late for the others. Time they share.
        ways = len(plan.questions) * (1 if is_greedy else plan.n)
        budget = replace(budget, max_usd=budget.max_usd / ways)
    runs = []
    for place, question in enumerate(plan.questions):
        numbers = range(place * plan.n, (place + 1) * plan.n)
        own = partial(Run, question=question, budget=budget)
        if is_greedy:
            runs.append(own(sampling=plan.sampling, choices=tuple(numbers)))
            continue
        for offset, number in enumerate(numbers):
            sampling = replace(plan.sampling, seed=seed_of(plan.sampling, offset))
            runs.append(own(sampling=sampling, choices=(number,)))
    return runs


async def gated_whole(
    plan: Gated, models: Models, form: ReplyForm, *, until: float, note: Note
) -> Whole:
    """Answer when all is decided.

    Raises:
        ApiError: a question is left without an answer.
    """

    async def last(run: Run) -> Finished:
        finished = None
        async with aclosing(take_live(plan, models, run, until=until, live=False)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    finished = item
        assert finished is not None
        return finished

    runs = _runs(plan)
    try:
        all_finished = await all_of([last(run) for run in runs])
    except ConfigError as error:
        raise _bad_budget(error) from error
    block, usage = _summary(plan, all_finished)
    note(block, usage)
    for finished in all_finished:
        _check_answered(finished, block)
    choices = {
        number: form.choice(number, _piece(finished), _finish_reason(finished))
        for run, finished in zip(runs, all_finished, strict=True)
        for number in run.choices
    }
    body = form.whole([choices[number] for number in sorted(choices)], usage, block)
    return Whole(body=body, headers=pyramid_headers(block))


async def gated_stream(
    plan: Gated, models: Models, form: ReplyForm, *, until: float, with_usage: bool, note: Note
) -> AsyncGenerator[Opened | bytes, None]:
    """Answer as soon as something is decided, with the oracle's tokens as they come.

    Yields:
        First that the stream can begin, as soon as it is sure that there will be an answer; then
        its events.

    Raises:
        ApiError: before the stream has begun: there is no answer.
    """
    runs = _runs(plan)
    stream = _Stream(form, plan, runs, note)
    ways = [take_live(plan, models, run, until=until, live=True) for run in runs]
    try:
        async with aclosing(merged(ways)) as items:
            async for number, item in items:
                for part in stream.take(number, item):
                    yield part
                if stream.broken:
                    return
    except ConfigError as error:
        if not stream.opened:
            raise _bad_budget(error) from error
        yield event(_bad_budget(error).body())
        return
    for line in stream.end(with_usage=with_usage):
        yield line


class _Stream:
    """Turns what happens on each question's way into events.

    Attributes:
        opened: something has gone out.
        broken: it has ended in an error.
    """

    def __init__(self, form: ReplyForm, plan: Gated, runs: list[Run], note: Note) -> None:
        self.opened = self.broken = False
        self._form, self._plan, self._runs, self._note = form, plan, runs, note
        self._headers: Mapping[str, str] = {}
        self._held: list[bytes] = []
        self._offsets: dict[int, int] = {}
        self._finished: dict[int, Finished] = {}

    def take(self, number: int, item: Item) -> list[Opened | bytes]:
        """What is to go out for something that has happened on one of the ways.

        Raises:
            ApiError: there is no answer, and nothing has gone out yet.
        """
        run, alone = self._runs[number], len(self._runs) == 1
        if isinstance(item, Judged):
            block = judged_block(item)
            self._held.append(comment(block))
            self._headers = pyramid_headers(block) if alone else {}
            # Whatever becomes of the oracle, the ensemble's answer can be given.
            return self._open() if self.opened or (alone and _has_answer(item)) else []
        if isinstance(item, TakenOver):
            return self._taken_over(run, item)
        if isinstance(item, Piece):
            return [*self._open(), *self._text(run, item)]
        self._finished[number] = item
        block = gated_block_of(self._plan, item)
        # What the client allowed is over: as with max_tokens, the text ends where it is.
        is_short = item.broken_off and item.ran_out
        error = None if is_short else _broken_off(item, block) or _no_answer(item, block)
        if error is not None:
            self._note(*_summary(self._plan, list(self._finished.values())))
            if not self.opened:
                raise error
            self.broken = True
            return [event(error.body())]
        reason = "length" if is_short else _finish_reason(item)
        text = [] if item.streamed or is_short else self._text(run, _piece(item))
        closing = [event(self._form.closing(choice, reason, block)) for choice in run.choices]
        return [*self._open(), *text, *closing]

    def end(self, *, with_usage: bool) -> list[bytes]:
        """What goes out when every way is at its end."""
        block, usage = _summary(self._plan, [self._finished[n] for n in sorted(self._finished)])
        self._note(block, usage)
        return [*([event(self._form.usage(usage, block))] if with_usage else []), DONE]

    def _open(self) -> list[Opened | bytes]:
        """Begin the stream where that has not been done, and send what waited for it."""
        first = [] if self.opened else [Opened(headers=self._headers)]
        held, self._held, self.opened = self._held, [], True
        return [*first, *held]

    def _taken_over(self, run: Run, item: TakenOver) -> list[Opened | bytes]:
        """Say whose text follows: to people at once, and to programs where they already read."""
        told = {"fallback": item.model, "void_characters": item.void_characters}
        self._held.append(comment(told))
        if not self.opened:
            return []
        marks = [event(self._form.mark(choice, told)) for choice in run.choices]
        return [*self._open(), *(marks if item.void_characters else [])]

    def _text(self, run: Run, piece: Piece) -> list[bytes]:
        lines = []
        for choice in run.choices:
            if self._form.chat and choice not in self._offsets:
                lines.append(event(self._form.opening(choice)))
            offset = self._offsets.get(choice, 0)
            self._offsets[choice] = offset + len(piece.text)
            lines.append(event(self._form.piece(choice, piece, offset=offset)))
        return lines


def gated_block_of(plan: Gated, finished: Finished) -> dict[str, Any]:
    """The reason of a decision on one of a plan's questions."""
    block = gated_block(
        finished, plan.rules.pyramid, as_trained=plan.as_trained, distance=plan.distance
    )
    if finished.void_characters:
        block["void_characters"] = finished.void_characters
    if finished.broken_off:
        block["answer_so_far"] = finished.decision.response
    return block


def _has_answer(judged: Judged) -> bool:
    return judged.belief is not None and judged.belief.supporter is not None


def _piece(finished: Finished) -> Piece:
    if finished.completion is not None:
        return piece_of(finished.completion)
    return Piece(text=finished.decision.response or "")


def _finish_reason(finished: Finished) -> str:
    return finished.completion.finish_reason if finished.completion is not None else "stop"


def _summary(plan: Gated, all_finished: list[Finished]) -> tuple[dict[str, Any], dict[str, int]]:
    block = several_blocks([gated_block_of(plan, finished) for finished in all_finished])
    rows = [row for finished in all_finished for row in finished.decision.generations]
    return block, total_usage(rows)


def _check_answered(finished: Finished, block: Mapping[str, Any]) -> None:
    if error := _no_answer(finished, block):
        raise error


def _broken_off(finished: Finished, block: Mapping[str, Any]) -> ApiError | None:
    """The error where part of another text has gone out: the ensemble's can't be put behind it."""
    if not finished.broken_off:
        return None
    return unavailable(
        "the oracle broke off in the middle of its answer; answer_so_far is the ensemble's",
        pyramid=block,
    )


def _no_answer(finished: Finished, block: Mapping[str, Any]) -> ApiError | None:
    """The error where no model has answered; None where one has."""
    decision = finished.decision
    if decision.response is not None:
        return None
    if decision.budget_exhausted and not decision.models_called:
        return bad_request(
            "pyramid: the budget has no room for any model; allow more",
            param="pyramid",
            code="budget_too_small",
        )
    rows = decision.generations
    if rows and not any(row.can_retry for row in rows):
        return bad_request(
            f"no model takes this prompt; {rows[-1].model}: {rows[-1].error}",
            code="refused_by_model",
        )
    if finished.ran_out:
        return unavailable(
            "pyramid.max_latency_ms was over before any model had answered; allow more",
            pyramid=block,
        )
    return unavailable(
        "no model gave an answer; ask again later",
        retry_after_s=finished.retry_after_s or 1.0,
        pyramid=block,
    )


def _bad_budget(error: ConfigError) -> ApiError:
    return bad_request(f"pyramid: {error}", param="pyramid")
