"""Answers that break off or are none: what they cost, and whose fault it is."""

import asyncio
import json
from contextlib import aclosing

import pytest
from faulty_server import Reply, stream_events
from running_gateway import DOWN, chat_body, running_gateway, says
from running_upstream import CHAT, GREEDY, PATH, REQUEST, everything, later, serve

from pyramid_moa.backends import Price
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings

TURNS = [
    {"role": "user", "content": "How many legs has a spider?"},
    {"role": "assistant", "content": "8"},
    {"role": "user", "content": "And two?"},
]
SAID = 40
# Silence of more than a third of the deadline is a model's own fault.
THREE_S = Faults(deadline_s=3.0, breaker_failures=1)


def breaks_off(*, usage=None):
    """A server that hangs up after some tokens, with or without having counted them."""

    def answer(request):
        if request.body is None:
            return {"data": [{"id": "m"}]}
        if not request.body.get("stream"):
            return DOWN
        counted = [(0.0, {"choices": [], "usage": usage})] if usage else []
        return Reply(events=[*stream_events("y" * 50)[:SAID], *counted], cut_at=0)

    return answer


def behind(oracle, **faults):
    answers = {"a": says("#### 16"), "spare": says("they have 16"), "oracle": oracle}
    settings = GatewaySettings(faults=Faults(retries=0, **faults))
    return running_gateway(answers, oracles=2, settings=settings)


def last_of(reply):
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    return json.loads(lines[-1])


def metric(gateway, name):
    lines = gateway.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"pyramid_moa_{name} ")]
    return float(line.split()[-1])


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 9, "completion_tokens": 60}])
def test_what_an_upstream_tells_of_a_stream_that_broke_off(usage):
    paid = []
    found, _, _ = serve(
        breaks_off(usage=usage), everything, paid=paid, price=Price(input=1e6, output=2e6)
    )
    failure = found[-1]
    tokens = (failure.prompt_tokens, failure.completion_tokens)
    assert tokens == ((7, SAID) if usage is None else (9, 60))
    assert failure.tokens_estimated is (usage is None)
    assert paid == [("failed", pytest.approx(tokens[0] + 2 * tokens[1]))]


def test_of_a_stream_that_never_began_nobody_pays():
    found, _, _ = serve(lambda request: DOWN, everything)
    assert (found[-1].prompt_tokens, found[-1].completion_tokens) == (None, None)


def test_an_oracle_that_breaks_off_saves_nothing():
    with behind(breaks_off()) as gateway:
        told = last_of(gateway.post(chat_body(stream=True, pyramid={"threshold": -1.0})))
        why = told["error"]["pyramid"]
        own = why["models"]["oracle"]
        assert own["completion_tokens"] == SAID
        assert own["tokens_estimated"] is True
        assert own["cost_usd"] > SAID * 1e-5
        assert why["cost_usd"] > own["cost_usd"]
        assert why["saved_usd"] < 0
        assert metric(gateway, "saved_usd") == pytest.approx(why["saved_usd"])
        assert metric(gateway, "cost_usd_total") == pytest.approx(why["cost_usd"])


def test_who_takes_over_adds_to_what_the_oracle_took():
    with behind(breaks_off(), fallback_oracle="spare") as gateway:
        body = chat_body(messages=TURNS, stream=True, stream_options={"include_usage": True})
        last = last_of(gateway.post(body))
        why = last["pyramid"]
        assert why["models_called"] == ["oracle", "spare"]
        spares = len("they have 16")
        assert last["usage"]["completion_tokens"] == SAID + spares
        prompt = last["usage"]["prompt_tokens"]
        assert last["usage"]["total_tokens"] == prompt + SAID + spares
        usd = (SAID + prompt - 7) * 1e-5 + (spares + 7) * 2e-5
        assert why["cost_usd"] == pytest.approx(usd)
        assert metric(gateway, "cost_usd_total") == pytest.approx(usd)


def test_who_takes_over_may_say_what_is_left_of_the_money():
    with behind(breaks_off(), fallback_oracle="spare") as gateway:
        body = chat_body(messages=TURNS, stream=True, pyramid={"max_cost_usd": 0.01})
        longest = []
        for model in ("spare", "pyramid"):
            assert gateway.post({**body, "model": model}).status_code == 200
            longest.append(gateway.servers["spare"].requests[-1].body["max_tokens"])
        characters = sum(len(turn["content"]) for turn in TURNS)
        lost = (SAID + round(characters / 4)) * 1e-5
        assert longest[0] - longest[1] == pytest.approx(lost / 2e-5, abs=1)


# Of which the oracle takes the half or more: too little for the dearer one even before, or after.
@pytest.mark.parametrize("usd", [8e-4, 1.2e-3])
def test_nobody_takes_over_whom_nothing_is_left_for(usd):
    with behind(breaks_off(), fallback_oracle="spare") as gateway:
        told = gateway.post(chat_body(messages=TURNS, stream=True, pyramid={"max_cost_usd": usd}))
        assert last_of(told)["error"]["code"] == "no_model_available"
        assert "fallback" not in told.text
        assert not [r for r in gateway.servers["spare"].requests if r.body]


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 1000, "completion_tokens": 1000}])
def test_who_stands_in_adds_to_what_a_whole_reply_took_that_is_no_answer(usage):
    def no_answer(request):
        return Reply(body={"choices": [{"index": 0, "finish_reason": "stop"}], "usage": usage})

    with behind(no_answer, fallback_oracle="spare") as gateway:
        told = gateway.post(chat_body(messages=TURNS)).json()
        why = told["pyramid"]
        assert why["models_called"] == ["oracle", "spare"]
        # Of a prompt that nobody has counted, a token for four characters.
        characters = sum(len(turn["content"]) for turn in TURNS)
        lost = sum(usage.values()) if usage else round(characters / 4)
        own = 7 + len("they have 16") + 1
        assert told["usage"]["total_tokens"] == lost + own
        assert why["cost_usd"] == pytest.approx(lost * 1e-5 + own * 2e-5)
        assert metric(gateway, "cost_usd_total") == pytest.approx(why["cost_usd"])
        paid = metric(gateway, 'model_cost_usd_total{model="oracle",result="answered"}')
        assert paid == pytest.approx(lost * 1e-5)


def test_a_stream_that_nobody_finishes_is_counted():
    with behind(breaks_off()) as gateway:
        told = gateway.post(chat_body(model="oracle", stream=True))
        assert '"error"' in told.text
        assert metric(gateway, "cost_usd_total") > SAID * 1e-5
        tokens = gateway.get("/metrics").text
        assert f'pyramid_moa_tokens_total{{kind="completion"}} {SAID}.0' in tokens


@pytest.mark.parametrize("patience", [1.0, 0.75])
def test_a_model_that_speaks_until_the_time_is_over_has_not_failed(patience):
    async def work(upstream):
        stream = upstream.stream(CHAT, GREEDY, until=later(2.0), patience=patience)
        async with aclosing(stream) as items:
            *_, failure = [item async for item in items]
        return failure, upstream.breaker.state

    answer = Reply(events=stream_events("y" * 200, seconds=0.05))
    (failure, state), calls, _ = serve(lambda request: answer, work, faults=THREE_S)
    assert failure.completion_tokens > 0
    assert (calls, state) == (["given_up"], "closed")


def test_a_model_that_falls_silent_has_failed():
    async def work(upstream):
        await everything(upstream, within_s=2.0)
        return upstream.breaker.state

    stalls = Reply(events=[*stream_events("yyyy")[:2], (30.0, "[DONE]")])
    state, calls, _ = serve(lambda request: stalls, work, faults=THREE_S)
    assert (calls, state) == (["timed_out"], "open")


def test_a_slow_reader_is_no_fault_of_the_model():
    async def work(upstream):
        async with aclosing(upstream.relay_stream(PATH, REQUEST, until=later(2.0))) as chunks:
            await anext(chunks)
            await asyncio.sleep(2.5)
            with pytest.raises(RelayError, match="gave no answer"):
                await anext(chunks)
        return upstream.breaker.state

    stalls = Reply(events=[*stream_events("y")[:1], (30.0, "[DONE]")])
    state, calls, _ = serve(lambda request: stalls, work, faults=THREE_S)
    assert (calls, state) == (["given_up"], "closed")


def test_a_text_that_broke_off_is_not_taken_for_the_answer_to_a_second_try():
    streams = breaks_off()

    def oracle(request):
        whole = request.body is not None and not request.body.get("stream")
        return says("they have 17: #### 17")(request) if whole else streams(request)

    settings = GatewaySettings(faults=Faults(retries=0, breaker_failures=1))
    answers = {"a": lambda request: DOWN, "oracle": oracle}
    with running_gateway(answers, settings=settings) as gateway:
        told = last_of(gateway.post(chat_body(stream=True)))
        why = told["error"]["pyramid"]
        assert why["answered_by"] == "oracle"
        assert why["answer_so_far"] == "they have 17: #### 17"
        assert why["void_characters"] == SAID
