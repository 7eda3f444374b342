"""A fallback oracle that is named takes over where the oracle fails, in mid-stream too."""

import json
import time

import pytest
from faulty_server import Reply, stream_events
from running_gateway import DOWN, chat_body, fails, running_gateway, says, text_of

from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.plan import check_names
from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings

TURNS = [
    {"role": "user", "content": "How many legs has a spider?"},
    {"role": "assistant", "content": "8"},
    {"role": "user", "content": "And two?"},
]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
STALLS = Reply(events=[*stream_events("#### 99")[:4], (30.0, "[DONE]")])


def dies(events=None):
    """A server that hangs up after four tokens of a stream, and fails otherwise."""

    def answer(request):
        if request.body and request.body.get("stream"):
            return Reply(events=events or stream_events("#### 99")[:4], cut_at=0)
        return DOWN

    return answer


def behind(oracle, spare, *, fallback="spare", deadline_s=20.0, **options):
    answers = {"a": says("#### 16"), "b": says("#### 8"), "spare": spare, "oracle": oracle}
    faults = Faults(retries=0, deadline_s=deadline_s, fallback_oracle=fallback)
    return running_gateway(answers, oracles=2, settings=GatewaySettings(faults=faults), **options)


def events_of(reply):
    return [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]


def test_the_stream_goes_on_with_the_fallback_oracles_text():
    with behind(dies(), says("it is #### 20")) as gateway:
        chunks = gateway.stream(stream_options={"include_usage": True})
        text, why = text_of(chunks), chunks[-1].pyramid
        void = why["void_characters"]
        assert text == "####\n\nit is #### 20"
        assert text[void:] == "it is #### 20"
        assert (why["answered_by"], why["degraded"], why["escalated"]) == ("spare", True, True)
        assert why["answer"] == "20"
        assert why["models_called"] == ["a", "b", "oracle", "spare"]
        assert why["reason"].endswith("failed: spare, the fallback oracle, answers")
        assert why["models"]["spare"]["cost_usd"] > 0
        # Told where it happens, too, and to people in a comment.
        (mark,) = [c for c in chunks if getattr(c, "pyramid", {}).get("fallback")]
        assert (mark.pyramid["fallback"], mark.pyramid["void_characters"]) == ("spare", void)
        assert len({chunk.id for chunk in chunks}) == 1
        assert "pyramid_moa_degraded_total 1.0" in gateway.get("/metrics").text
        raw = gateway.post(chat_body(stream=True)).text
        assert f': pyramid {{"fallback":"spare","void_characters":{void}}}' in raw


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [DOWN, Reply(delay_s=30)], ids=["down", "hangs"])
def test_it_answers_where_the_oracle_says_nothing(fault, stream):
    with behind(fails(fault), says("#### 20"), deadline_s=4.0) as gateway:
        begun = time.monotonic()
        if stream:
            chunks = gateway.stream()
            text, why = text_of(chunks), chunks[-1].pyramid
        else:
            reply = gateway.ask()
            text, why = reply.choices[0].message.content, reply.pyramid
        assert time.monotonic() - begun < 8
        assert text == "#### 20"
        assert (why["answered_by"], why["degraded"]) == ("spare", True)
        assert "void_characters" not in why


def test_an_oracle_that_stalls_in_mid_stream_leaves_it_time():
    with behind(fails(STALLS), says("#### 20"), deadline_s=4.0) as gateway:
        chunks = gateway.stream()
        assert text_of(chunks) == "####\n\n#### 20"
        assert chunks[-1].pyramid["answered_by"] == "spare"


def test_where_it_fails_too_the_stream_ends_with_an_error_and_the_best_answer():
    with behind(dies(), fails()) as gateway:
        *_, last = events_of(gateway.post(chat_body(stream=True)))
        why = json.loads(last)["error"]["pyramid"]
        assert (why["answer_so_far"], why["degraded"]) == ("#### 16", True)
        assert why["reason"].endswith("spare, the fallback oracle, failed too")
        whole = gateway.ask()
        assert whole.choices[0].message.content == "#### 16"
        assert whole.pyramid["answered_by"] == "a"


def test_a_member_that_is_the_fallback_is_not_asked_twice():
    with behind(dies(), fails(), fallback="b") as gateway:
        chunks = gateway.stream()
        assert text_of(chunks) == "####\n\n#### 8"
        why = chunks[-1].pyramid
        assert (why["answered_by"], why["degraded"], why["void_characters"]) == ("b", True, 6)
        assert why["models_called"] == ["a", "b", "oracle"]
        assert len([r for r in gateway.servers["b"].requests if r.body]) == 1
        assert gateway.ask().choices[0].message.content == "#### 8"


def test_it_is_not_asked_where_the_budget_has_no_room_for_it():
    """What it is expected to cost counts as every other call's does."""
    with behind(fails(), says("#### 20")) as gateway:
        # Room for the members and the oracle, as they are expected to cost; not for one more.
        reply = gateway.ask(extra_body={"pyramid": {"max_cost_usd": 0.006}})
        assert reply.pyramid["models_called"] == ["a", "b", "oracle"]
        assert reply.choices[0].message.content == "#### 16"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", ["turns", "tools"])
def test_what_nobody_judges_it_answers_too(field, stream):
    own = {"messages": TURNS} if field == "turns" else {"tools": TOOLS}
    with behind(fails(), says("they have 16")) as gateway:
        reply = gateway.post(chat_body(**own, stream=stream))
        assert reply.status_code == 200
        assert reply.headers["x-pyramid-answered-by"] == "spare"
        assert reply.headers["x-pyramid-degraded"] == "true"


def test_what_nobody_judges_goes_on_in_mid_stream():
    with behind(dies(), says("they have 16")) as gateway:
        chunks = gateway.stream(extra_body={"tools": TOOLS})
        why = chunks[-1].pyramid
        assert text_of(chunks)[why["void_characters"] :] == "they have 16"
        assert (why["answered_by"], why["degraded"]) == ("spare", True)
        assert all(chunk.choices for chunk in chunks)
        assert len({chunk.id for chunk in chunks}) == 1
        # A model that the client has named is not replaced.
        named = gateway.post(chat_body(model="oracle", stream=True))
        assert '"code":"no_model_available"' in events_of(named)[-1]


def test_half_a_tool_call_is_not_gone_on_with():
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"x":'}}
    choice = {"index": 0, "finish_reason": None, "delta": {"tool_calls": [call]}}
    begins = [(0.0, {"id": "up", "choices": [choice]})]
    with behind(dies(begins), says("they have 16")) as gateway:
        events = events_of(gateway.post(chat_body(tools=TOOLS, stream=True)))
        assert '"tool_calls"' in events[0]
        assert '"error"' in events[-1]
        assert "they have" not in str(events)


def test_before_its_first_word_anybody_may_stand_in():
    role = {"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": ""}}
    begins = [(0.0, {"id": "up", "choices": [role]})]
    with behind(dies(begins), fails(), fallback=None) as gateway:
        chunks = gateway.stream(extra_body={"messages": TURNS})
        assert text_of(chunks) == "#### 16"
        assert chunks[-1].pyramid["answered_by"] == "a"


def test_a_fallback_that_is_no_other_model_is_refused():
    pyramid = load_pyramid("embedded")
    for name in ("nobody", pyramid.oracle.name):
        with pytest.raises(
            ConfigError, match=r"fallback_oracle: expected one of .* oracles, before"
        ):
            check_names(pyramid, Faults(fallback_oracle=name))
    check_names(pyramid, Faults(fallback_oracle=pyramid.member_names[0]))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [DOWN, Reply(delay_s=30)], ids=["down", "hangs"])
def test_where_nobody_else_is_left_a_mid_oracle_stands_in(fault, stream):
    gone = fails(fault)
    answers = {"a": gone, "b": gone, "spare": says("#### 20"), "oracle": gone}
    settings = GatewaySettings(faults=Faults(retries=0, deadline_s=4.0, member_timeout_s=1.0))
    with running_gateway(answers, oracles=2, settings=settings) as gateway:
        if stream:
            chunks = gateway.stream()
            text, why = text_of(chunks), chunks[-1].pyramid
        else:
            reply = gateway.ask()
            text, why = reply.choices[0].message.content, reply.pyramid
        assert text == "#### 20"
        assert (why["answered_by"], why["degraded"], why["answer"]) == ("spare", True, "20")
        assert why["reason"].endswith("nobody else was left: spare stands in")
        assert why["models_called"] == ["a", "b", "oracle", "spare"]


def test_where_nobody_else_is_left_those_that_are_left_alone_are_tried_after_all():
    """One request at a time, as a half-open breaker does; and it closes if that is answered."""
    down = [True]

    def moody(request):
        return DOWN if down[0] else says("#### 16")(request)

    faults = Faults(retries=0, breaker_failures=1, breaker_open_s=60)
    answers = {"a": moody, "b": fails(), "oracle": fails()}
    with running_gateway(answers, settings=GatewaySettings(faults=faults)) as gateway:
        assert gateway.post(chat_body()).status_code == 503
        down[0] = False
        reply = gateway.ask()
        assert reply.choices[0].message.content == "#### 16"
        assert (reply.pyramid["answered_by"], reply.pyramid["degraded"]) == ("a", True)
        metrics = gateway.get("/metrics").text
        assert 'pyramid_moa_breaker_state{model="a"} 0.0' in metrics
        assert 'pyramid_moa_breaker_state{model="b"} 2.0' in metrics
        again = gateway.ask()
        assert again.pyramid["models"]["a"]["error"] is None
