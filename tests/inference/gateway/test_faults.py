"""Models that fail, hang and break off, and what clients then get: never nothing, never late."""

import contextlib
import time

import httpx
import openai
import pytest
from faulty_server import Reply, soon, stream_events
from running_gateway import (
    DOWN,
    UPSTREAM_KEY,
    chat_body,
    fails,
    running_gateway,
    says,
    text_of,
)

from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings

HANGS = Reply(body=b"", delay_s=30)
# Far less than what hangs takes, and more than a busy machine needs besides.
LATE_S = 15.0


def quick(**fields):
    return GatewaySettings(faults=Faults(retries=0, **fields))


@contextlib.contextmanager
def behind(a, b, oracle, **options):
    answers = {"a": a, "b": b, "oracle": oracle}
    with running_gateway(answers, **options) as gateway:
        yield gateway


def breaks_off(tokens):
    """A server that hangs up in the middle of a stream, and fails otherwise."""

    def answer(request):
        if request.body and request.body.get("stream"):
            return Reply(events=stream_events("#### 99")[:tokens], cut_at=0)
        return DOWN

    return answer


def test_a_member_that_is_down_is_done_without():
    with behind(fails(), says("#### 16"), says("#### 99")) as gateway:
        reply = gateway.ask(extra_body={"pyramid": {"threshold": 0.5}})
        assert reply.choices[0].message.content == "#### 16"
        why = reply.pyramid
        assert (why["answered_by"], why["escalated"]) == ("b", False)
        assert "500" in why["models"]["a"]["error"]
        assert "127.0.0.1" not in why["models"]["a"]["error"]


def test_a_member_that_hangs_is_done_without_in_time():
    with behind(
        fails(HANGS), says("#### 16"), says("#### 99"), settings=quick(member_timeout_s=0.3)
    ) as gateway:
        begun = time.monotonic()
        reply = gateway.ask()
        assert time.monotonic() - begun < LATE_S
        assert reply.choices[0].message.content == "#### 99"  # half of the members is no majority
        assert "gave no answer within" in reply.pyramid["models"]["a"]["error"]
        assert soon(gateway.servers["a"].hung_up.is_set)


BUSY = Reply(status=429, body={"error": {"message": "busy"}}, headers={"retry-after": "60"})


def test_nobody_waits_for_a_server_that_is_busy_for_long():
    settings = GatewaySettings(faults=Faults(retries=2))
    with behind(fails(BUSY), says("#### 16"), says("#### 99"), settings=settings) as gateway:
        begun = time.monotonic()
        reply = gateway.ask()
        assert time.monotonic() - begun < LATE_S
        assert reply.choices[0].message.content == "#### 99"
        assert "429" in reply.pyramid["models"]["a"]["error"]
        assert len(gateway.servers["a"].requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_clients_are_told_what_a_busy_server_says(stream):
    settings = GatewaySettings(faults=Faults(retries=2))
    with behind(fails(BUSY), fails(BUSY), fails(BUSY), settings=settings) as gateway:
        begun = time.monotonic()
        reply = gateway.post(chat_body(stream=stream, model="oracle"))
        assert time.monotonic() - begun < LATE_S
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "60")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("member_s", "oracle_s", "told"), [(60, 50, "50"), (None, 50, "50"), (60, None, "60")]
)
def test_who_judges_in_vain_is_told_when_the_first_server_wants_to_be_asked_again(
    stream, status, member_s, oracle_s, told
):
    def busy(seconds):
        headers = {} if seconds is None else {"retry-after": str(seconds)}
        return fails(Reply(status=status, body={"error": {"message": "busy"}}, headers=headers))

    with behind(busy(member_s), busy(None), busy(oracle_s)) as gateway:
        reply = gateway.post(chat_body(stream=stream))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, told)


@pytest.mark.parametrize("how", ["ask", "stream"])
def test_without_any_member_the_oracle_answers(how):
    with behind(fails(), fails(), says("#### 99")) as gateway:
        if how == "ask":
            reply = gateway.ask()
            assert reply.choices[0].message.content == "#### 99"
            # It stands in for those who should have been heard first.
            assert reply.pyramid["degraded"] is True
            assert "pyramid_moa_degraded_total 1.0" in gateway.get("/metrics").text
        else:
            assert text_of(gateway.stream()) == "#### 99"


@pytest.mark.parametrize("oracle", [DOWN, HANGS], ids=["down", "hangs"])
@pytest.mark.parametrize("how", ["ask", "stream"])
def test_without_the_oracle_the_ensemble_answers(how, oracle):
    with behind(
        says("#### 16"), says("#### 8"), fails(oracle), settings=quick(deadline_s=2.0)
    ) as gateway:
        begun = time.monotonic()
        if how == "ask":
            reply = gateway.ask()
            why, text = reply.pyramid, reply.choices[0].message.content
        else:
            chunks = gateway.stream()
            why, text = chunks[-1].pyramid, text_of(chunks)
        assert time.monotonic() - begun < LATE_S
        assert text == "#### 16"
        assert (why["degraded"], why["escalated"], why["answered_by"]) == (True, True, "a")


@pytest.mark.parametrize("fault", [DOWN, HANGS], ids=["down", "hangs"])
@pytest.mark.parametrize("stream", [False, True])
def test_where_nothing_is_left_the_client_is_told_to_come_back(fault, stream):
    down = fails(fault)
    with behind(down, down, down, settings=quick(deadline_s=2.0)) as gateway:
        begun = time.monotonic()
        reply = gateway.post(chat_body(stream=stream))
        assert time.monotonic() - begun < LATE_S
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "no_model_available")
        assert set(error["pyramid"]["models"]) == {"a", "b", "oracle"}
        by_name = gateway.post(chat_body(stream=stream, model="oracle"))
        assert by_name.status_code == 503
        assert "retry-after" in by_name.headers


def test_an_oracle_that_dies_before_its_first_word_is_replaced_by_the_ensemble():
    with behind(says("#### 16"), says("#### 8"), breaks_off(0)) as gateway:
        chunks = gateway.stream()
        assert text_of(chunks) == "#### 16"
        assert chunks[-1].pyramid["degraded"] is True


def test_an_oracle_that_dies_in_mid_stream_ends_it_with_an_error_and_the_best_answer():
    with (
        behind(says("#### 16"), says("#### 8"), breaks_off(4)) as gateway,
        gateway.client() as client,
    ):
        seen = []
        chunks = client.chat.completions.create(**chat_body(), stream=True)

        def read():
            for chunk in chunks:
                seen.append(chunk)

        with pytest.raises(openai.APIError, match="broke off in the middle") as caught:
            read()
        assert text_of(seen) == "####"
        assert caught.value.body["pyramid"]["answer_so_far"] == "#### 16"
        assert caught.value.body["pyramid"]["degraded"] is True


def test_a_model_by_name_that_dies_in_mid_stream_ends_it_with_an_error():
    with behind(says("#### 16"), says("#### 8"), breaks_off(4)) as gateway:
        reply = gateway.post(chat_body(stream=True, model="oracle"))
        assert reply.status_code == 200
        events = [line for line in reply.text.splitlines() if line.startswith("data: ")]
        assert len(events) == 5
        assert '"code":"no_model_available"' in events[-1]


def test_texts_without_an_answer_are_better_than_nothing():
    with behind(says("I do not know."), fails(), fails()) as gateway:
        reply = gateway.ask()
        assert reply.choices[0].message.content == "I do not know."
        assert (reply.pyramid["degraded"], reply.pyramid["answered_by"]) == (True, "a")


def test_a_call_that_may_succeed_later_is_made_again():
    tries = []

    def flaky(request):
        tries.append(request)
        return DOWN if len(tries) == 1 else says("#### 16")(request)

    settings = GatewaySettings(faults=Faults(retries=1))
    with behind(flaky, says("#### 16"), says("#### 99"), settings=settings) as gateway:
        assert gateway.ask().pyramid["escalated"] is False
        assert len(tries) == 2


def test_a_model_that_keeps_failing_is_left_alone_and_then_tried_again():
    down = [True]

    def moody(request):
        return DOWN if down[0] else says("#### 16")(request)

    settings = quick(breaker_failures=2, breaker_open_s=2.0)
    with behind(moody, says("#### 16"), says("#### 99"), settings=settings) as gateway:
        for _ in range(3):
            assert gateway.ask().choices[0].message.content == "#### 99"
        assert len(gateway.servers["a"].requests) == 2
        metrics = gateway.get("/metrics").text
        assert 'pyramid_moa_breaker_state{model="a"} 2.0' in metrics
        assert 'pyramid_moa_model_calls_total{model="a",result="left_out"} 1.0' in metrics
        down[0] = False
        time.sleep(2.1)
        assert gateway.ask().pyramid["escalated"] is False
        assert 'pyramid_moa_breaker_state{model="a"} 0.0' in gateway.get("/metrics").text


def test_a_second_try_overtakes_a_member_that_hangs():
    tries = []

    def slow_once(request):
        tries.append(request)
        return HANGS if len(tries) == 1 else says("#### 16")(request)

    settings = quick(hedge_after_s=0.2)
    with behind(slow_once, says("#### 16"), says("#### 99"), settings=settings) as gateway:
        assert gateway.ask().pyramid["escalated"] is False
        assert len(tries) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["members", "oracle"])
def test_a_client_that_goes_away_ends_all_work_at_once(place, stream):
    slow, fast = says("#### 16", delay_s=30), says("#### 16")
    members = slow if place == "members" else fast
    other = slow if place == "members" else says("#### 8")
    with behind(members, other, slow) as gateway:
        busy = [
            gateway.servers[name] for name in (("a", "b") if place == "members" else ["oracle"])
        ]
        with httpx.Client() as client, contextlib.suppress(httpx.ReadTimeout):
            client.post(
                f"{gateway.base_url}/chat/completions",
                json=chat_body(stream=stream),
                timeout=httpx.Timeout(10, read=0.5),
            )
        # How fast that is, benchmarks/gateway_faults.py measures.
        assert soon(lambda: all(server.hung_up.is_set() for server in busy), within_s=LATE_S)
        idle = "pyramid_moa_requests_in_progress 0.0"
        assert soon(lambda: idle in gateway.get("/metrics").text, within_s=LATE_S)
        assert 'status="499"' in gateway.get("/metrics").text


def test_a_client_that_goes_away_in_mid_stream_ends_the_oracles_work():
    slow = says("#### 99", token_s=0.3)
    with behind(says("#### 16"), says("#### 8"), slow) as gateway:
        with (
            httpx.Client() as client,
            client.stream(
                "POST", f"{gateway.base_url}/chat/completions", json=chat_body(stream=True)
            ) as reply,
        ):
            lines = reply.iter_lines()
            while "content" not in next(lines):
                pass
        assert soon(gateway.servers["oracle"].hung_up.is_set, within_s=LATE_S)


def test_tokens_of_the_oracle_flow_as_they_come():
    with behind(says("#### 16"), says("#### 8"), says("#### 99", token_s=0.2)) as gateway:
        begun, times, comments = time.monotonic(), [], []
        with (
            httpx.Client() as client,
            client.stream(
                "POST",
                f"{gateway.base_url}/chat/completions",
                json=chat_body(stream=True),
                timeout=20,
            ) as reply,
        ):
            assert reply.headers["x-pyramid-escalated"] == "true"
            for line in reply.iter_lines():
                if line.startswith(": pyramid"):
                    comments.append((time.monotonic() - begun, line))
                if '"delta":{"content"' in line:
                    times.append(time.monotonic() - begun)
        assert len(times) == 7
        # Six pauses lie between the first and the last.
        assert times[-1] - times[0] > 1.0
        # The decision is told when it falls, before the oracle's first word.
        ((told, line),) = comments
        assert told < times[0]
        assert '"escalated":true' in line


def test_the_upstreams_keys_are_nowhere_to_be_seen(monkeypatch, caplog):
    monkeypatch.setenv("UPSTREAM_KEY", UPSTREAM_KEY)
    refuses = Reply(status=401, body={"error": {"message": f"bad key {UPSTREAM_KEY}"}})
    answers = {"a": fails(refuses), "b": says("#### 16"), "oracle": fails(refuses)}
    with (
        caplog.at_level("DEBUG"),
        running_gateway(answers, spec={"api_key_env": "UPSTREAM_KEY"}) as gateway,
    ):
        seen = [
            gateway.post(chat_body()),
            gateway.post(chat_body(model="oracle")),
            gateway.post(chat_body(stream=True)),
            gateway.get("/metrics"),
            gateway.get("/readyz"),
        ]
        assert gateway.servers["a"].requests[0].headers["authorization"].endswith(UPSTREAM_KEY)
    assert [reply.status_code for reply in seen] == [200, 503, 200, 200, 200]
    for reply in seen:
        assert UPSTREAM_KEY not in reply.text
        assert UPSTREAM_KEY not in str(reply.headers)
    ours = [record.getMessage() for record in caplog.records if "pyramid" in record.name]
    assert ours
    assert not any(UPSTREAM_KEY in line for line in ours)


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstreams_addresses_and_variables_are_nowhere_to_be_seen(monkeypatch, stream):
    monkeypatch.setenv("UPSTREAM_KEY", UPSTREAM_KEY)
    elsewhere = "https://10.1.2.3:8443/v1/chat/completions?api-key=QUERYSECRET"
    moved = Reply(status=307, headers={"location": elsewhere}, body={"detail": f"see {elsewhere}"})
    refuses = Reply(status=401, body={"error": {"message": "no"}})
    answers = {"a": fails(moved), "b": fails(refuses), "oracle": says("#### 16")}
    with running_gateway(answers, spec={"api_key_env": "UPSTREAM_KEY"}) as gateway:
        seen = [
            gateway.post(chat_body(stream=stream, model=name)) for name in ("pyramid", "a", "b")
        ]
    assert [reply.status_code for reply in seen] == [200, 503, 503]
    assert "a answered 307 and points elsewhere" in seen[0].text
    assert "b answered 401 and refuses the API key: no" in seen[0].text
    for reply in seen:
        for part in ("10.1.2.3", "8443", "QUERYSECRET", "UPSTREAM_KEY", "127.0.0.1"):
            assert part not in reply.text


TURNS = [
    {"role": "user", "content": "How many legs has a spider?"},
    {"role": "assistant", "content": "8"},
    {"role": "user", "content": "And two?"},
]


@pytest.mark.parametrize("stream", [False, True])
def test_where_the_oracle_is_gone_a_member_stands_in_for_it(stream):
    with behind(fails(), says("they have 16"), fails()) as gateway:
        reply = gateway.post(chat_body(messages=TURNS, stream=stream))
        assert reply.status_code == 200
        assert reply.headers["x-pyramid-answered-by"] == "b"
        assert reply.headers["x-pyramid-degraded"] == "true"
        assert reply.headers["x-pyramid-reason"].endswith("which failed: b stands in")
        assert "pyramid_moa_degraded_total 1.0" in gateway.get("/metrics").text
        assert gateway.servers["b"].requests[-1].body["messages"] == TURNS
        # What a small model may not be able to do at all is not asked of it.
        tools = gateway.post(chat_body(tools=[{"type": "function"}], stream=stream))
        assert tools.status_code == 503
        assert gateway.post(chat_body(messages=TURNS, model="oracle")).status_code == 503


def test_where_nobody_stands_in_the_oracles_error_is_told():
    with behind(fails(), fails(), fails()) as gateway:
        reply = gateway.post(chat_body(messages=TURNS))
        assert reply.status_code == 503
        assert "oracle" in reply.json()["error"]["message"]
