"""Answers of one model that come in pieces: whole, broken off, stalled, or read by nobody."""

import asyncio
import time
from contextlib import aclosing

import pytest
from faulty_server import Reply, chat_reply, soon, stream_events, text_reply
from running_upstream import CHAT, DOWN, GREEDY, TEXT, everything, later, serve

from pyramid_moa.backends import Failure
from pyramid_moa.backends.openai_chunks import AnswerOfChunks, Piece
from pyramid_moa.inference.gateway.settings import Faults


def test_a_breaker_that_tries_a_stream_does_not_wait_for_its_end():
    seen = []

    def answer(request):
        seen.append(request)
        if len(seen) == 1:
            return DOWN
        if request.body.get("stream"):
            return Reply(events=[*stream_events("It")[:1], (30.0, "[DONE]")])
        return chat_reply("8")

    async def work(upstream):
        await upstream.ask(CHAT, GREEDY, until=later(5))
        assert upstream.breaker.state == "open"
        await asyncio.sleep(0.15)
        async with aclosing(upstream.stream(CHAT, GREEDY, until=later(30))) as stream:
            await anext(stream)
            state = upstream.breaker.state
            return state, await upstream.ask(CHAT, GREEDY, until=later(5))

    (state, outcome), calls, _ = serve(
        answer, work, faults=Faults(breaker_failures=1, breaker_open_s=0.1)
    )
    assert state == "closed"
    assert outcome.text == "8"
    assert calls == ["failed", "answered", "given_up"]


def test_a_stream_that_breaks_off_counts_against_a_model_that_was_just_tried_again():
    seen = []

    def answer(request):
        seen.append(request)
        return DOWN if len(seen) == 1 else Reply(events=stream_events("It")[:1], cut_at=0)

    async def work(upstream):
        await upstream.ask(CHAT, GREEDY, until=later(5))
        await asyncio.sleep(0.15)
        await everything(upstream)
        return upstream.breaker.state

    state, calls, _ = serve(answer, work, faults=Faults(breaker_failures=1, breaker_open_s=0.1))
    assert calls == ["failed", "failed"]
    assert state in ("open", "half-open")


@pytest.mark.parametrize("prompt", [CHAT, TEXT], ids=["chat", "text"])
def test_a_streamed_answer_is_the_one_that_the_backend_gives_whole(prompt):
    chat = prompt is CHAT

    def answer(request):
        if request.body.get("stream"):
            return Reply(events=stream_events("It has 8 legs", chat=chat))
        return (chat_reply if chat else text_reply)("It has 8 legs")

    async def work(upstream):
        return await everything(upstream, prompt), await upstream.ask(
            prompt, GREEDY, until=later(5)
        )

    (streamed, whole), _, server = serve(answer, work)
    *pieces, completion = streamed
    assert "".join(piece.text for piece in pieces) == completion.text == whole.text
    assert pieces[0] == Piece(text="I", tokens=((b"I", -0.5),))
    assert [(token.start, token.end) for token in completion.tokens] == [
        (place, place + 1) for place in range(13)
    ]
    asked = [
        {k: v for k, v in request.body.items() if not k.startswith("stream")}
        for request in server.requests
    ]
    assert asked[0] == asked[1]


def test_a_stream_that_breaks_off_ends_in_a_failure():
    items, calls, _ = serve(
        lambda request: Reply(events=stream_events("It has 8")[:3], cut_at=0), everything
    )
    assert [type(item) for item in items] == [Piece, Piece, Piece, Failure]
    assert items[-1].can_retry
    assert calls == ["failed"]


def test_a_stream_that_stalls_ends_with_the_requests_time():
    stalls = [*stream_events("It")[:2], (30.0, "[DONE]")]

    async def work(upstream):
        return await everything(upstream, within_s=0.3)

    begun = time.monotonic()
    items, _, _ = serve(lambda request: Reply(events=stalls), work)
    assert time.monotonic() - begun < 15
    assert "gave no answer within" in items[-1].message


def test_a_stream_that_nobody_reads_on_is_closed():
    async def work(upstream):
        async with aclosing(upstream.stream(CHAT, GREEDY, until=later(30))) as stream:
            return await anext(stream)

    _, calls, server = serve(
        lambda request: Reply(events=[*stream_events("It")[:1], (30.0, "[DONE]")]), work
    )
    assert soon(server.hung_up.is_set)
    assert calls == ["given_up"]


def test_a_stream_of_log_probabilities_that_are_missing_is_a_failure():
    events = stream_events("8")
    events[0][1]["choices"][0]["logprobs"] = None
    items, _, _ = serve(lambda request: Reply(events=events), everything)
    assert "expected a log-probability for each token" in items[-1].message


def test_a_fault_in_reading_a_stream_ends_it_in_a_failure(monkeypatch):
    def broken(*args):
        raise RuntimeError("a fault")

    monkeypatch.setattr(AnswerOfChunks, "add", broken)
    (failure,), calls, server = serve(
        lambda request: Reply(events=[*stream_events("It")[:1], (30.0, "[DONE]")]), everything
    )
    assert isinstance(failure, Failure)
    assert calls == ["given_up"]
    assert soon(server.hung_up.is_set)
