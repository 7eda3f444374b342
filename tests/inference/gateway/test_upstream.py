"""One model as the gateway asks it, against a server on loopback that errs as it is told."""

import asyncio
import time

import pytest
from faulty_server import Reply, chat_reply, soon, stream_events
from running_upstream import CHAT, DOWN, GREEDY, PATH, REQUEST, asking, everything, later, serve

from pyramid_moa.backends import Failure, openai_model, openai_relay
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.inference.gateway.settings import Faults

REFUSES = Reply(status=400, body={"error": {"message": "the prompt is too long"}})


def test_an_answer_is_the_backends_own():
    ((outcomes, _), calls, _) = serve(lambda request: chat_reply("8"), asking())
    assert outcomes[0].text == "8"
    assert outcomes[0].tokens
    assert calls == ["answered"]


def test_a_model_that_is_slow_is_given_its_time_and_no_more():
    begun = time.monotonic()
    ((outcomes, _), calls, server) = serve(
        lambda request: Reply(body=chat_reply("8"), delay_s=30), asking(limit_s=0.1)
    )
    assert time.monotonic() - begun < 15
    assert "gave no answer within" in outcomes[0].message
    assert calls == ["timed_out"]
    assert soon(server.hung_up.is_set)


def test_a_request_with_no_time_left_is_no_fault_of_the_model():
    ((_, state), calls, _) = serve(
        lambda request: Reply(body=chat_reply("8"), delay_s=30),
        asking(times=2, within_s=0.05),
        faults=Faults(breaker_failures=1),
    )
    assert calls == ["given_up", "given_up"]
    assert state == "closed"


def test_a_model_that_keeps_failing_is_left_out_and_then_tried_again():
    down = [True]

    async def work(upstream):
        for _ in range(4):
            await upstream.ask(CHAT, GREEDY, until=later(5))
        down[0] = False
        await asyncio.sleep(2.1)
        return await upstream.ask(CHAT, GREEDY, until=later(5)), upstream.breaker.state

    ((outcome, state), calls, server) = serve(
        lambda request: DOWN if down[0] else chat_reply("8"),
        work,
        faults=Faults(breaker_failures=2, breaker_open_s=2.0),
    )
    assert calls == ["failed", "failed", "left_out", "left_out", "answered"]
    assert (outcome.text, state) == ("8", "closed")
    assert len(server.requests) == 3


def test_a_prompt_that_is_refused_is_no_fault_of_the_model():
    ((outcomes, state), calls, _) = serve(
        lambda request: REFUSES, asking(times=3), faults=Faults(breaker_failures=1)
    )
    assert calls == ["refused"] * 3
    assert not outcomes[0].can_retry
    assert state == "closed"


def test_a_call_that_is_given_up_ends_at_once():
    async def work(upstream):
        task = asyncio.ensure_future(upstream.ask(CHAT, GREEDY, until=later(30)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    _, calls, server = serve(lambda request: Reply(delay_s=30), work)
    assert soon(server.hung_up.is_set)
    assert calls == ["given_up"]


def test_a_model_that_hangs_for_the_better_part_of_the_deadline_is_at_fault():
    # No member's time is over by then: the whole request's is.
    ((outcomes, state), calls, _) = serve(
        lambda request: Reply(body=chat_reply("8"), delay_s=30),
        asking(within_s=0.4),
        faults=Faults(deadline_s=0.8, breaker_failures=1),
    )
    assert isinstance(outcomes[0], Failure)
    assert calls == ["timed_out"]
    assert state == "open"


def test_requests_are_handed_on_and_counted_like_any_call():
    async def work(upstream):
        reply = await upstream.relay(PATH, REQUEST, until=later(5))
        live = upstream.relay_stream(PATH, REQUEST, until=later(5))
        return reply, [chunk async for chunk in live]

    (reply, chunks), calls, _ = serve(
        lambda request: (
            Reply(events=stream_events("abc")) if request.body.get("stream") else chat_reply("8")
        ),
        work,
    )
    assert reply == chat_reply("8")
    assert len(chunks) == 5
    assert calls == ["answered", "answered"]


def test_requests_are_not_handed_on_while_the_breaker_is_open():
    async def work(upstream):
        errors = []
        for _ in range(2):
            with pytest.raises(RelayError) as caught:
                await upstream.relay(PATH, REQUEST, until=later(5))
            errors.append(caught.value)
        with pytest.raises(RelayError) as caught:
            await anext(upstream.relay_stream(PATH, REQUEST, until=later(5)))
        return [*errors, caught.value]

    errors, calls, _ = serve(lambda request: DOWN, work, faults=Faults(breaker_failures=1))
    assert errors[0].status == 500
    assert 9 < errors[1].retry_after_s <= 10
    assert calls == ["failed", "left_out", "left_out"]


def test_a_fault_in_reading_an_answer_is_a_failure_and_logged(monkeypatch, caplog):
    def broken(*args, **options):
        raise RuntimeError("a fault")

    async def work(upstream):
        monkeypatch.setattr(openai_model, "read_completion", broken)
        monkeypatch.setattr(openai_relay, "read_json", broken)
        found = [await upstream.ask(CHAT, GREEDY, until=later(5)), *(await everything(upstream))]
        with pytest.raises(RelayError) as caught:
            await upstream.relay(PATH, REQUEST, until=later(5))
        with pytest.raises(RelayError) as caught_live:
            await anext(upstream.relay_stream(PATH, REQUEST, until=later(5)))
        return [*found, caught.value, caught_live.value]

    found, calls, _ = serve(
        lambda request: (
            Reply(events=stream_events("abc")) if request.body.get("stream") else chat_reply("8")
        ),
        work,
    )
    assert calls == ["failed"] * 4
    for one in found:
        said = one.message if isinstance(one, Failure) else str(one)
        assert said == "big could not be asked: the gateway has a fault; its log says more"
        assert one.can_retry
    assert caplog.text.count("a fault of the gateway's own") == 4


def test_a_server_is_asked_no_more_at_once_than_its_entry_says():
    async def work(upstream):
        asked = [upstream.ask(CHAT, GREEDY, until=later(5)) for _ in range(4)]
        relayed = [upstream.relay(PATH, REQUEST, until=later(5)) for _ in range(2)]
        streamed = [everything(upstream) for _ in range(2)]
        return await asyncio.gather(*asked, *relayed, *streamed)

    def answer(request):
        if request.body.get("stream"):
            return Reply(events=stream_events("abc"), delay_s=0.05)
        return Reply(body=chat_reply("8"), delay_s=0.05)

    _, calls, server = serve(answer, work, max_concurrency=2)
    assert calls == ["answered"] * 8
    assert server.most_under_way == 2


def test_who_gets_a_place_late_does_not_blame_the_model_for_the_rest():
    async def work(upstream):
        both = [upstream.ask(CHAT, GREEDY, until=later(60), limit_s=3.0) for _ in range(2)]
        outcomes = await asyncio.gather(*both)
        return outcomes, upstream.breaker.state

    ((outcomes, state), calls, _) = serve(
        lambda request: Reply(body=chat_reply("8"), delay_s=2.0),
        work,
        faults=Faults(breaker_failures=1),
        max_concurrency=1,
    )
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [False, True]
    assert calls == ["answered", "given_up"]
    assert state == "closed"
