"""Requests that others have written, handed on to a server whole and live."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from faulty_server import (
    FaultyServer,
    Reply,
    Request,
    chat_reply,
    faulty_server,
    soon,
    stream_events,
)

from pyramid_moa.backends import ModelSpec
from pyramid_moa.backends.openai_relay import OpenAIRelay, RelayError

KEY = "sk-not-a-real-key-0123456789"
SECRET = "the quick brown fox jumps over a lazy dog"
CHAT = "/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}]}


def spec_for(server: FaultyServer, **fields: Any) -> ModelSpec:
    given = {"base_url": server.base_url, "max_retries": 0, "timeout_s": 5.0, **fields}
    return ModelSpec(name="big", model="served-name", backend="openai", **given)


def relayed(
    answer: Callable[[Request], Any],
    work: Callable[[OpenAIRelay, FaultyServer], Any],
    **fields: Any,
) -> tuple[Any, FaultyServer]:
    """What some work with a relay gives, and what its server has seen."""

    async def run(server: FaultyServer) -> Any:
        relay = OpenAIRelay(spec_for(server, **fields))
        try:
            return await work(relay, server)
        finally:
            await relay.close()

    with faulty_server(answer) as server:
        return asyncio.run(run(server)), server


async def failure(relay: OpenAIRelay, server: FaultyServer) -> RelayError:
    with pytest.raises(RelayError) as caught:
        await relay.complete(CHAT, HELLO)
    return caught.value


async def chunks_of(relay: OpenAIRelay) -> list[Any]:
    return [chunk async for chunk in relay.stream(CHAT, HELLO)]


async def live_failure(relay: OpenAIRelay, server: FaultyServer) -> tuple[RelayError, list[Any]]:
    chunks = []
    try:
        async for chunk in relay.stream(CHAT, HELLO):
            chunks.append(chunk)
    except RelayError as error:
        return error, chunks
    raise AssertionError("expected an error, found a whole answer")


def test_a_request_goes_on_as_it_is_but_for_the_models_name_and_the_entrys_own(monkeypatch):
    monkeypatch.setenv("BIG_KEY", KEY)
    request = {**HELLO, "model": "pyramid", "max_completion_tokens": 9, "tools": [{"type": "x"}]}

    async def work(relay, server):
        return await relay.complete(CHAT, request)

    reply, server = relayed(
        lambda request: chat_reply("hello"),
        work,
        api_key_env="BIG_KEY",
        extra_body={"top_k": 7, "tools": []},
    )
    assert reply == chat_reply("hello")
    (seen,) = server.requests
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {
        "messages": HELLO["messages"],
        "model": "served-name",
        "max_tokens": 9,
        "tools": [{"type": "x"}],  # the client's, before the entry's
        "top_k": 7,
    }


@pytest.mark.parametrize(
    ("given", "own", "sent"),
    [
        ({"max_completion_tokens": None, "max_tokens": 50}, {}, 50),
        ({"max_completion_tokens": 50, "max_tokens": None}, {}, 50),
        ({"max_completion_tokens": 50, "max_tokens": 40}, {}, 40),
        ({"max_tokens": 5}, {"max_completion_tokens": 4096}, 5),
        ({"max_tokens": 5000}, {"max_completion_tokens": 4096}, 4096),
        ({"max_completion_tokens": 5}, {"max_tokens": 4096}, 5),
        ({"max_tokens": None}, {"max_completion_tokens": 4096}, 4096),
        ({}, {"max_tokens": 4096}, 4096),
        ({"max_completion_tokens": None}, {"max_tokens": None}, None),
        ({}, {}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_of_the_clients_limit_and_the_entrys_the_smaller_holds_whatever_their_names(
    given, own, sent, field
):
    async def work(relay, server):
        await relay.complete(CHAT, {**HELLO, **given})

    _, server = relayed(
        lambda request: chat_reply("hello"), work, extra_body=own, token_limit_field=field
    )
    body = server.requests[0].body
    found = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}
    assert found == ({} if sent is None else {field: sent})


def test_a_refusal_keeps_its_status_and_shows_neither_key_nor_prompt(monkeypatch):
    monkeypatch.setenv("BIG_KEY", KEY)
    said = {"error": {"message": f"{KEY} may not ask: {SECRET}"}}
    error, _ = relayed(lambda request: Reply(body=said, status=400), failure, api_key_env="BIG_KEY")
    assert error.status == 400
    assert not error.can_retry
    assert KEY not in str(error)
    assert SECRET not in str(error)


def test_a_busy_server_says_when_to_come_back():
    busy = Reply(body={"error": {"message": "busy"}}, status=429, headers={"retry-after": "7"})
    error, _ = relayed(lambda request: busy, failure)
    assert (error.status, error.retry_after_s, error.can_retry) == (429, 7.0, True)


@pytest.mark.parametrize("body", [b"<html>", b"{", {"object": "list"}, [1]])
def test_what_is_no_answer_is_an_error(body):
    error, _ = relayed(lambda request: Reply(body=body), failure)
    assert error.status is None
    assert error.can_retry


def test_chunks_come_while_the_server_still_writes():
    async def work(relay, server):
        begun, times = time.monotonic(), []
        async for _ in relay.stream(CHAT, HELLO):
            times.append(time.monotonic() - begun)
        return times

    times, server = relayed(lambda request: Reply(events=stream_events("abcd", seconds=0.1)), work)
    assert times[0] < 0.25
    assert times[-1] > 0.39
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


def test_a_stream_is_handed_on_whole():
    async def work(relay, server):
        return await chunks_of(relay)

    chunks, _ = relayed(lambda request: Reply(events=stream_events("abc")), work)
    text = "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )
    assert text == "abc"
    assert chunks[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("events", "cut_at", "said"),
    [
        (stream_events("abc")[:2], 0, "big|served|http"),
        (stream_events("abc")[:2], None, "broke off before its end"),
        (
            [*stream_events("abc")[:2], (0.0, {"error": {"message": "out of memory"}})],
            None,
            "memory",
        ),
        ([*stream_events("abc")[:2], (0.0, "{")], None, "expected JSON"),
        ([*stream_events("abc")[:2], (0.0, "[1]")], None, "JSON objects"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error_after_what_came(events, cut_at, said):
    (error, chunks), _ = relayed(lambda request: Reply(events=events, cut_at=cut_at), live_failure)
    assert len(chunks) == 2
    assert re.search(said, str(error))


def choice_chunk(index: Any, *, text: str = "", finish: str | None = None) -> tuple[float, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return 0.0, {"id": "up-1", "choices": [choice]}


BOTH_BEGUN = [choice_chunk(0, text="a"), choice_chunk(1, text="b"), choice_chunk(0, finish="stop")]


@pytest.mark.parametrize("last", [[], [(0.0, "[DONE]")]])
def test_a_stream_that_ends_one_of_two_answers_has_broken_off(last):
    (error, chunks), _ = relayed(lambda request: Reply(events=[*BOTH_BEGUN, *last]), live_failure)
    assert len(chunks) == 3
    assert "broke off before its end" in str(error)


@pytest.mark.parametrize(
    "events",
    [
        [*BOTH_BEGUN, choice_chunk(1, finish="length")],
        [choice_chunk([], text="a"), choice_chunk(None, finish="stop")],
    ],
)
def test_a_stream_is_whole_when_every_answer_that_was_begun_is(events):
    async def work(relay, server):
        return await chunks_of(relay)

    chunks, _ = relayed(lambda request: Reply(events=[*events, (0.0, "[DONE]")]), work)
    assert len(chunks) == len(events)


def test_a_server_that_is_not_there_is_an_error_that_may_pass():
    with faulty_server(lambda request: None) as server:
        gone = server.base_url

    async def work():
        relay = OpenAIRelay(
            ModelSpec(name="big", model="m", backend="openai", base_url=gone, max_retries=0)
        )
        try:
            return await live_failure(relay, server)
        finally:
            await relay.close()

    error, chunks = asyncio.run(work())
    assert error.can_retry
    assert not chunks


def test_giving_up_closes_the_connection_at_once():
    async def work(relay, server):
        stream = relay.stream(CHAT, HELLO)
        await anext(stream)
        begun = time.monotonic()
        await stream.aclose()
        assert soon(server.hung_up.is_set)
        return time.monotonic() - begun

    events = [(0.0, stream_events("a")[0][1]), (30.0, "[DONE]")]
    seconds, _ = relayed(lambda request: Reply(events=events), work)
    assert seconds < 0.1


def test_cancelling_closes_the_connection_at_once():
    async def work(relay, server):
        task = asyncio.ensure_future(relay.complete(CHAT, HELLO))
        while not server.started.is_set():
            await asyncio.sleep(0.005)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert soon(server.hung_up.is_set)
        return time.monotonic() - begun

    seconds, _ = relayed(lambda request: Reply(body=b"late", delay_s=30), work)
    assert seconds < 0.1


def test_a_callers_end_counts_where_the_calls_own_comes_at_the_same_moment():
    """Both are due when the loop looks again: the caller's is not lost, nor the call made again."""

    async def hurried(relay: OpenAIRelay, server: FaultyServer) -> None:
        async with asyncio.timeout(1.0):
            call = asyncio.ensure_future(relay.complete(CHAT, HELLO))
            while not server.requests:
                await asyncio.sleep(0.01)
            # As a busy loop does.
            asyncio.get_running_loop().call_later(0.1, time.sleep, 1.5)
            await call

    async def work(relay: OpenAIRelay, server: FaultyServer) -> float:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await hurried(relay, server)
        return time.monotonic() - begun

    seconds, server = relayed(lambda request: Reply(delay_s=30), work, timeout_s=1.0, max_retries=1)
    assert len(server.requests) == 1
    assert seconds < 5
