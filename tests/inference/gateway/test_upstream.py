"""One model as the gateway asks it, against a server on loopback that errs as it is told."""

import asyncio
import time
from contextlib import aclosing

import pytest
from faulty_server import Reply, chat_reply, faulty_server, soon, stream_events, text_reply

from pyramid_moa.backends import (
    Completion,
    Failure,
    Message,
    ModelSpec,
    Price,
    Prompt,
    Sampling,
    openai_model,
    openai_relay,
)
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.openai_chunks import AnswerOfChunks, Piece
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.errors import BackendError
from pyramid_moa.inference.gateway.settings import Faults
from pyramid_moa.inference.gateway.upstream import Upstream

CHAT = Prompt(messages=(Message(role="user", content="How many legs has a spider?"),))
TEXT = Prompt(text="A spider's legs are")
GREEDY = Sampling(max_tokens=20)
REQUEST = {"messages": [{"role": "user", "content": "hello"}]}
PATH = "/chat/completions"
DOWN = Reply(status=500, body={"error": {"message": "out of order"}})
REFUSES = Reply(status=400, body={"error": {"message": "the prompt is too long"}})


def serve(answer, work, *, faults=None, paid=None, **fields):
    """What some work with an upstream gives, how its calls ended, and what its server has seen."""
    calls = []
    paid = [] if paid is None else paid

    async def run(base_url):
        spec = ModelSpec(
            name="big", model="m", backend="openai", base_url=base_url, max_retries=0, **fields
        )
        backend = OpenAIBackend(spec)
        upstream = Upstream(
            spec,
            backend,
            faults or Faults(),
            ended=lambda name, result, s: calls.append(result),
            paid=lambda name, result, usd: paid.append((result, usd)),
        )
        try:
            return await work(upstream)
        finally:
            await upstream.close()
            backend.close()

    with faulty_server(answer) as server:
        result = asyncio.run(run(server.base_url))
    return result, calls, server


def later(seconds):
    return asyncio.get_running_loop().time() + seconds


def asking(times=1, *, within_s=5.0, limit_s=None):
    async def work(upstream):
        outcomes = [
            await upstream.ask(CHAT, GREEDY, until=later(within_s), limit_s=limit_s)
            for _ in range(times)
        ]
        return outcomes, upstream.breaker.state

    return work


async def everything(upstream, prompt=CHAT, within_s=5.0):
    async with aclosing(upstream.stream(prompt, GREEDY, until=later(within_s))) as stream:
        return [item async for item in stream]


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


def test_a_second_try_overtakes_a_first_that_hangs():
    seen = []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=30) if len(seen) == 1 else chat_reply("fast")

    ((outcomes, _), calls, server) = serve(answer, asking(), faults=Faults(hedge_after_s=0.1))
    assert outcomes[0].text == "fast"
    assert calls == ["answered"]
    assert soon(server.hung_up.is_set)


def test_a_second_try_that_fails_waits_for_the_first():
    seen = []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=0.3) if len(seen) == 1 else DOWN

    ((outcomes, _), _, _) = serve(answer, asking(), faults=Faults(hedge_after_s=0.05))
    assert outcomes[0].text == "slow"


def test_where_both_tries_fail_the_call_fails():
    ((outcomes, _), calls, _) = serve(
        lambda request: Reply(body=DOWN.body, status=500, delay_s=0.1),
        asking(),
        faults=Faults(hedge_after_s=0.05),
    )
    assert isinstance(outcomes[0], Failure)
    assert calls == ["failed"]


def test_a_second_try_waits_for_the_first_to_begin():
    def answer(request):
        slow = "slow" in request.prompt
        # The last keeps its place until both others are done: no second try of theirs begins.
        return Reply(body=chat_reply("8"), delay_s=1.5 if slow else 0.5)

    async def work(upstream):
        asked = [
            upstream.ask(
                Prompt(messages=(Message(role="user", content=text),)), GREEDY, until=later(20)
            )
            for text in ("slow 1", "slow 2", "quick, but for the queue")
        ]
        return await asyncio.gather(*asked)

    _, calls, server = serve(answer, work, faults=Faults(hedge_after_s=1.0), max_concurrency=2)
    assert calls == ["answered"] * 3
    assert len(server.requests) == 3


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


def asks_and_goes(chunk=False):
    """Ask, and go away when the model has begun to answer."""

    async def work(upstream):
        if chunk:
            await anext(stream := upstream.stream(CHAT, GREEDY, until=later(30)))
            await stream.aclose()
            return
        task = asyncio.ensure_future(upstream.ask(CHAT, GREEDY, until=later(30)))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return work


LONG = [*stream_events("abc")[:2], (30.0, "[DONE]")]
# 29 characters make 7 tokens of the prompt; a prompt token costs one dollar here, others two.
SEVEN = round(len(CHAT.messages[0].content) / 4)


@pytest.mark.parametrize(
    ("reply", "work", "bill"),
    [
        (chat_reply("8"), asking(), [("answered", 7 + 2 * 2)]),
        (Reply(events=stream_events("abc")), everything, [("answered", 7 + 2 * 3)]),
        (Reply(events=LONG), asks_and_goes(chunk=True), [("given_up", SEVEN + 2 * 1)]),
        (Reply(delay_s=30), asks_and_goes(), [("given_up", SEVEN)]),
        (Reply(delay_s=30), asking(limit_s=0.2), [("given_up", SEVEN)]),
        (DOWN, asking(), [("failed", 0)]),
        (DOWN, everything, [("failed", 0)]),
        (chat_reply("8", message={"content": None}), asking(), [("failed", 7 + 2 * 2)]),
        (Reply(events=stream_events("abc")[:2], cut_at=0), everything, [("failed", SEVEN + 4)]),
    ],
    ids=["whole", "stream", "left stream", "left", "late", "down", "down live", "null", "broken"],
)
def test_every_try_is_paid_for_once_whatever_becomes_of_it(reply, work, bill):
    paid = []
    price = Price(input=1e6, output=2e6)
    serve(lambda request: reply, work, paid=paid, price=price)
    assert paid == [(result, pytest.approx(usd)) for result, usd in bill]


def test_the_try_that_loses_is_paid_for_too():
    seen, paid = [], []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=30) if len(seen) == 1 else chat_reply("8")

    faults = Faults(hedge_after_s=0.1)
    serve(answer, asking(), faults=faults, paid=paid, price=Price(input=1e6, output=2e6))
    assert sorted(paid) == [("answered", 7 + 4), ("given_up", SEVEN)]


def test_requests_handed_on_are_paid_for():
    paid = []

    async def work(upstream):
        await upstream.relay(PATH, REQUEST, until=later(5))
        return [chunk async for chunk in upstream.relay_stream(PATH, REQUEST, until=later(5))]

    serve(
        lambda request: (
            Reply(events=stream_events("abc")) if request.body.get("stream") else chat_reply("8")
        ),
        work,
        paid=paid,
        price=Price(input=1e6, output=2e6),
    )
    assert paid == [("answered", 7 + 4), ("answered", 7 + 6)]


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


class Local:
    """A model of this process: takes its time for a batch, and never two at once."""

    name = "local"

    def __init__(self, *, seconds=0.0, error=None):
        self.seconds, self.error = seconds, error
        self.batches = []
        self.answers = 1
        self.working = False

    async def agenerate(self, prompts, sampling):
        assert not self.working
        self.working = True
        self.batches.append([prompt.text for prompt in prompts])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.working = False
        if self.error is not None:
            raise self.error
        return self.answers * [
            Completion(
                text=f"{prompt.text}!",
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
                latency_s=0.0,
            )
            for prompt in prompts
        ]


def local(backend, work, *, paid=None, **faults):
    calls = []
    paid = [] if paid is None else paid

    async def run():
        spec = ModelSpec(name="local", model="m", price=Price(input=1e6, output=2e6))
        upstream = Upstream(
            spec,
            backend,
            Faults(**faults),
            ended=lambda name, result, s: calls.append(result),
            paid=lambda name, result, usd: paid.append((result, usd)),
        )
        try:
            return await work(upstream)
        finally:
            await upstream.close()

    return asyncio.run(run()), calls


def asks(upstream, text, *, sampling=GREEDY, within_s=5.0, limit_s=None):
    prompt = Prompt(text=text)
    return asyncio.ensure_future(
        upstream.ask(prompt, sampling, until=later(within_s), limit_s=limit_s)
    )


def test_what_a_model_of_this_process_has_begun_is_paid_for():
    async def work(upstream):
        begun = asks(upstream, "a prompt that it begins", limit_s=0.2)
        await asyncio.sleep(0.05)
        waits = asks(upstream, "a prompt that waits for it", limit_s=0.05)
        return await asyncio.gather(begun, waits)

    paid = []
    local(Local(seconds=20.0), work, paid=paid)
    assert paid == [("given_up", 0), ("given_up", round(len("a prompt that it begins") / 4))]
    paid = []
    local(Local(), lambda upstream: asks(upstream, "x"), paid=paid)
    assert paid == [("answered", 1 + 2)]


def test_a_model_that_is_gone_is_a_failure_and_no_error():
    backend = Local(error=BackendError("out of memory"))
    outcome, calls = local(backend, lambda upstream: asks(upstream, "x"))
    assert outcome == Failure(message="out of memory", can_retry=True)
    assert calls == ["failed"]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), None], ids=["raised", "miscounted"])
def test_a_fault_nobody_has_thought_of_is_a_failure_and_logged(error, caplog):
    backend = Local(error=error)
    if error is None:
        backend.answers = 0

    async def work(upstream):
        outcomes = [await asks(upstream, "x"), await asks(upstream, "y")]
        backend.error, backend.answers = None, 1
        return [*outcomes, await asks(upstream, "z")]

    (*failures, answer), calls = local(backend, work)
    assert all(isinstance(failure, Failure) and failure.can_retry for failure in failures)
    assert "a fault of its own" in failures[0].message
    assert calls == ["failed", "failed", "answered"]
    assert answer.text == "z!"
    assert "nobody has thought of" in caplog.text


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


def test_a_model_in_this_process_streams_its_answer_in_one_piece():
    (piece, completion), _ = local(Local(), lambda upstream: everything(upstream, TEXT))
    assert piece.text == completion.text == f"{TEXT.text}!"


def test_what_comes_while_a_local_model_works_is_asked_together():
    other = Sampling(max_tokens=7)

    async def work(upstream):
        first = asks(upstream, "a")
        await asyncio.sleep(0.05)
        rest = [asks(upstream, text) for text in "bcd"]
        rest.append(asks(upstream, "e", sampling=other))
        await asyncio.sleep(0)
        rest.pop(1).cancel()
        return [(await task).text for task in [first, *rest]]

    backend = Local(seconds=0.1)
    texts, calls = local(backend, work)
    assert texts == ["a!", "b!", "d!", "e!"]
    assert backend.batches == [["a"], ["b", "d"], ["e"]]
    assert calls.count("answered") == 4


def test_who_waits_too_long_for_a_busy_model_does_not_count_against_it():
    async def work(upstream):
        first = asks(upstream, "a")
        await asyncio.sleep(0.05)
        second = await asks(upstream, "b", limit_s=0.1)
        await first
        return second, upstream.breaker.state

    (outcome, state), calls = local(Local(seconds=0.4), work, breaker_failures=1)
    assert "more to do than it can at once" in outcome.message
    assert calls == ["crowded_out", "answered"]
    assert state == "closed"


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
