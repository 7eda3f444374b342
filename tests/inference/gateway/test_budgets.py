"""What a request may cost and how long it may take: on every route, and never more."""

import asyncio
import time

import pytest
from faulty_server import Reply, stream_events
from running_gateway import chat_body, fails, running_gateway, says, text_of

from pyramid_moa.inference.gateway.api_request import ChatRequest, PyramidOptions, TextRequest
from pyramid_moa.inference.gateway.judges import Judges
from pyramid_moa.inference.gateway.plan import _budget

TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
HANGS = Reply(delay_s=30)
STALLS = Reply(events=[*stream_events("#### 99")[:4], (30.0, "[DONE]")])
# Far less than the deadline, and more than a busy machine takes for a request.
CUT = {"pyramid": {"max_latency_ms": 1500}}
SOON_S = 10.0


def behind(oracle, a=None, b=None):
    return running_gateway({"a": a or says("#### 16"), "b": b or says("#### 8"), "oracle": oracle})


@pytest.mark.parametrize("stream", [False, True])
def test_past_its_time_a_request_gets_the_best_answer_so_far(stream):
    with behind(fails(HANGS)) as gateway:
        begun = time.monotonic()
        if stream:
            chunks = gateway.stream(extra_body=CUT)
            text, why = text_of(chunks), chunks[-1].pyramid
        else:
            reply = gateway.ask(extra_body=CUT)
            text, why = reply.choices[0].message.content, reply.pyramid
        assert time.monotonic() - begun < SOON_S
        assert text == "#### 16"
        assert (why["budget_exhausted"], why["degraded"], why["answered_by"]) == (True, False, "a")
        assert why["reason"].endswith("max_latency_ms is over")
        assert gateway.servers["oracle"].hung_up.wait(5)
        # That the client had no time says nothing of the model.
        assert 'model_calls_total{model="oracle",result="given_up"}' in gateway.get("/metrics").text


def test_members_that_are_late_are_left_out_and_nobody_else_is_asked():
    with behind(says("#### 99"), a=fails(HANGS)) as gateway:
        why = gateway.ask(extra_body=CUT).pyramid
        assert (why["budget_exhausted"], why["answered_by"]) == (True, "b")
        assert "not asked: the time is over" in why["models"]["oracle"]["error"]
        assert not [r for r in gateway.servers["oracle"].requests if r.body]


def test_an_answer_that_came_in_time_is_no_worse_for_being_graded_late(monkeypatch):
    run = Judges.run

    async def slow(self, work, *, characters):
        result = await run(self, work, characters=characters)
        if "oracle" in getattr(work, "args", ([],))[0]:
            await asyncio.sleep(4.0)
        return result

    monkeypatch.setattr(Judges, "run", slow)
    with behind(says("#### 99"), a=fails()) as gateway:
        why = gateway.ask(extra_body={"pyramid": {"max_latency_ms": 3000, "threshold": -1.0}})
        assert (why.pyramid["answered_by"], why.pyramid["budget_exhausted"]) == ("oracle", False)
        assert "max_latency_ms" not in why.pyramid["reason"]


def test_an_oracle_that_there_is_no_money_for_is_not_asked_to_help_out():
    with behind(says("#### 99"), a=fails(), b=fails()) as gateway:
        # The members' expected price, and less than the oracle's.
        budget = {"threshold": 2.0, "max_cost_usd": 2e-3}
        told = gateway.post(chat_body(pyramid=budget))
        why = told.json()["error"]["pyramid"]
        assert (told.status_code, why["budget_exhausted"]) == (503, True)
        assert why["models_called"] == ["a", "b"]
        assert why["reason"].endswith("the budget has no room for the oracle")
        assert not [r for r in gateway.servers["oracle"].requests if r.body]
        enough = gateway.ask(extra_body={"pyramid": {**budget, "max_cost_usd": 1.0}})
        assert enough.pyramid["answered_by"] == "oracle"


ASKED = "x" * 40


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("own", "ways"),
    [
        ({"prompt": [ASKED] * 4}, 4),
        ({"prompt": ASKED, "n": 4, "temperature": 1.0}, 4),
        ({"prompt": ASKED, "n": 4, "temperature": 0.0}, 1),
    ],
)
def test_a_price_is_that_of_all_answers_to_a_request(own, ways, stream):
    # Each of 10 tokens at 1 USD a million, by every member.
    with behind(says("#### 99"), b=says("#### 16")) as gateway:
        for usd, asked in ((1.5e-5, 0), (2.5e-5, ways)):
            budget = {"max_cost_usd": usd * ways}
            body = {"model": "pyramid", **own, "stream": stream, "pyramid": budget}
            assert gateway.post(body, "/v1/completions").status_code == 200
            assert len(gateway.servers["b"].requests) == asked


def test_a_text_that_is_under_way_ends_where_it_is():
    with behind(fails(STALLS)) as gateway:
        chunks = gateway.stream(extra_body=CUT, stream_options={"include_usage": True})
        assert text_of(chunks) == "####"
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons[-1] == "length"
        why = chunks[-1].pyramid
        assert (why["budget_exhausted"], why["answer_so_far"]) == (True, "#### 16")
        assert why["void_characters"] == len("####")
        unjudged = gateway.stream(extra_body={**CUT, "tools": TOOLS})
        assert text_of(unjudged) == "####"
        assert unjudged[-1].choices[0].finish_reason == "length"
        assert unjudged[-1].pyramid["budget_exhausted"] is True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS}, {"model": "oracle"}])
def test_where_nobody_has_answered_by_then_the_client_is_told(fields, stream):
    hangs = fails(HANGS)
    with behind(hangs, a=hangs, b=hangs) as gateway:
        begun = time.monotonic()
        reply = gateway.post(chat_body(**fields, stream=stream, pyramid={"max_latency_ms": 300}))
        assert time.monotonic() - begun < SOON_S
        assert reply.status_code == 503
        assert "max_latency_ms was over" in reply.json()["error"]["message"]


def test_more_time_than_the_gateway_gives_is_no_more_time(gateway_rules):
    rules = gateway_rules
    # The vote rule knows no times: nothing is planned by them, and the cut holds all the same.
    options = PyramidOptions(max_cost_usd=1.0, max_latency_ms=5.0)
    assert _budget(options, rules).max_ms is None
    assert _budget(options, rules).max_usd == 1.0


@pytest.fixture
def gateway_rules():
    with behind(says("#### 99")) as gateway:
        yield gateway.gate.rules


@pytest.mark.parametrize("stream", [False, True])
def test_a_price_bounds_an_answer_that_nobody_judges(stream):
    # The prompt is some 20 tokens of 10 USD a million; what is left pays for some 80 of the answer.
    budget = {"max_cost_usd": 0.001}
    with behind(says("#### 99")) as gateway:
        reply = gateway.post(chat_body(tools=TOOLS, stream=stream, pyramid=budget))
        assert reply.status_code == 200
        sent = gateway.servers["oracle"].requests[-1].body
        assert 30 < sent["max_tokens"] < 100
        named = gateway.post(chat_body(model="a", max_completion_tokens=7, pyramid=budget))
        assert named.status_code == 200
        asked = gateway.servers["a"].requests[-1].body
        assert (asked["max_tokens"], "max_completion_tokens" in asked) == (7, False)
        by_header = gateway.post(
            chat_body(model="oracle"), headers={"x-pyramid-max-cost-usd": "0.001"}
        )
        assert by_header.status_code == 200
        assert gateway.servers["oracle"].requests[-1].body["max_tokens"] < 100


def test_an_answer_that_the_price_has_shortened_says_so():
    cut = Reply(
        body={
            "choices": [
                {"index": 0, "message": {"content": "It is"}, "finish_reason": "length"},
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 80},
        }
    )
    with behind(fails(cut)) as gateway:
        reply = gateway.ask(model="oracle", extra_body={"pyramid": {"max_cost_usd": 0.001}})
        assert reply.pyramid["budget_exhausted"] is True
        assert reply.pyramid["reason"].endswith("max_cost_usd pays for no more")
        enough = gateway.ask(model="oracle", extra_body={"pyramid": {"max_cost_usd": 1.0}})
        assert "budget_exhausted" not in enough.pyramid


@pytest.mark.parametrize("stream", [False, True])
def test_a_price_that_can_not_be_kept_is_refused(stream):
    with behind(says("#### 99")) as gateway:
        tiny = gateway.post(chat_body(tools=TOOLS, stream=stream, pyramid={"max_cost_usd": 1e-9}))
        error = tiny.json()["error"]
        assert (tiny.status_code, error["code"]) == (400, "budget_too_small")
        assert error["param"] == "pyramid.max_cost_usd"
        parts = [{"type": "text", "text": "What is it?"}, IMAGE]
        image = gateway.post(
            chat_body(
                messages=[{"role": "user", "content": parts}],
                stream=stream,
                pyramid={"max_cost_usd": 1.0},
            )
        )
        assert (image.status_code, image.json()["error"]["code"]) == (400, "budget_not_applicable")
        assert not [r for r in gateway.servers["oracle"].requests if r.body]


def test_what_a_price_pays_for_is_counted_for_all_answers():
    from pyramid_moa.backends import ModelSpec, Price
    from pyramid_moa.inference.gateway.direct_model import _affordable_tokens

    spec = ModelSpec(name="m", model="m", backend="recorded", price=Price(output=1.0))
    one = TextRequest(model="m", prompt="x")
    assert _affordable_tokens(spec, one, 1e-4) == 100
    assert _affordable_tokens(spec, TextRequest(model="m", prompt=["x", "y"], n=5), 1e-4) == 10
    assert _affordable_tokens(spec, TextRequest(model="m", prompt="x", best_of=4), 1e-4) == 25
    free = ModelSpec(name="m", model="m", backend="recorded")
    assert _affordable_tokens(free, one, 1e-4) is None
    chat = ChatRequest.model_validate(chat_body(model="m", n=2))
    assert _affordable_tokens(spec, chat, 1e-4) == 50
