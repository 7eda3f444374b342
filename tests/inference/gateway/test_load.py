"""More requests than can be worked on, and what is seen of them from outside."""

import asyncio
import io
import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from faulty_server import soon
from running_gateway import QUESTION, QUICK, chat_body, fails, running_gateway, says

from pyramid_moa.backends.openai_chunks import Piece
from pyramid_moa.config_file import load_config
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.json_logs import JsonFormatter, log_as_json
from pyramid_moa.inference.gateway.merging import all_of, merged
from pyramid_moa.inference.gateway.settings import (
    Faults,
    GatewaySettings,
    Load,
    RequestLimits,
)

AGREE = {"a": says("#### 16"), "b": says("#### 16"), "oracle": says("#### 99")}


def test_past_the_queue_requests_are_told_to_come_back():
    slow = {"a": says("#### 16", delay_s=1.0), "b": says("#### 16"), "oracle": says("#### 99")}
    settings = GatewaySettings(faults=QUICK, load=Load(max_concurrency=1, max_queue=1))
    with running_gateway(slow, settings=settings) as gateway, ThreadPoolExecutor() as pool:

        def gauge(name):
            return f"pyramid_moa_requests_{name} 1.0" in gateway.get("/metrics").text

        first = pool.submit(gateway.post, chat_body())
        assert soon(lambda: gauge("in_progress"))
        second = pool.submit(gateway.post, chat_body())
        assert soon(lambda: gauge("waiting"))
        refused = gateway.post(chat_body(stream=True))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert first.result().status_code == second.result().status_code == 200
        assert gateway.post(chat_body()).status_code == 200


def test_past_the_queue_nothing_more_is_read_of_a_request():
    slow = {"a": says("#### 16", delay_s=1.5), "b": says("#### 16"), "oracle": says("#### 99")}
    settings = GatewaySettings(faults=QUICK, load=Load(max_concurrency=1, max_queue=0))
    with running_gateway(slow, settings=settings) as gateway, ThreadPoolExecutor() as pool:
        first = pool.submit(gateway.post, chat_body())
        assert soon(gateway.servers["a"].started.is_set)
        assert half_a_request(gateway).startswith(b"HTTP/1.1 429 ")
        assert first.result().status_code == 200


def half_a_request(gateway, begun=b""):
    """What is told to who has sent a head, and no more than that of 1,000 bytes."""
    host, port = gateway.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n" + begun
        )
        return connection.recv(65536)


def test_bodies_together_are_bounded():
    settings = GatewaySettings(
        faults=QUICK, load=Load(bodies_bytes=1500), requests=RequestLimits(body_s=1.0)
    )
    with running_gateway(AGREE, settings=settings) as gateway, ThreadPoolExecutor() as pool:
        large = chat_body("How many?" + " " * 1000)
        assert gateway.post(large).status_code == 200
        halves = [pool.submit(half_a_request, gateway, b"{" * 600) for _ in range(3)]
        assert soon(lambda: any(half.done() for half in halves))
        refused = gateway.post(large)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        statuses = sorted(half.result().split()[1] for half in halves)
        assert statuses == [b"408", b"408", b"429"]
        assert gateway.post(large).status_code == 200


def test_nobody_waits_for_ever_for_his_turn():
    slow = {"a": says("#### 16", delay_s=4.0), "b": says("#### 16"), "oracle": says("#### 99")}
    settings = GatewaySettings(faults=QUICK, load=Load(max_concurrency=1, queue_wait_s=0.2))
    with running_gateway(slow, settings=settings) as gateway, ThreadPoolExecutor() as pool:
        first = pool.submit(gateway.post, chat_body())
        assert soon(gateway.servers["a"].started.is_set)
        assert gateway.post(chat_body()).status_code == 429
        assert not first.done()
        assert first.result().is_success


def test_many_requests_at_once_are_all_answered():
    with running_gateway(AGREE) as gateway, ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: gateway.post(chat_body()), range(60)))
        assert {reply.status_code for reply in replies} == {200}
        assert {reply.json()["choices"][0]["message"]["content"] for reply in replies} == {
            "#### 16"
        }


def test_readiness_says_which_models_can_not_be_reached():
    with running_gateway({**AGREE, "a": fails()}) as gateway:
        reply = gateway.get("/readyz")
        assert reply.status_code == 200
        assert reply.json()["models"] == {"a": "unreachable", "b": "ok", "oracle": "ok"}
    with running_gateway({"a": fails(), "oracle": fails()}) as gateway:
        assert gateway.get("/readyz").status_code == 503
        assert gateway.get("/healthz").status_code == 200


def value(metrics, name):
    (line,) = [line for line in metrics.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def test_metrics_count_what_has_happened():
    differ = {**AGREE, "b": says("#### 8")}
    with running_gateway(differ) as gateway:
        gateway.ask()
        gateway.ask(extra_body={"pyramid": {"threshold": 0.9}})
        gateway.ask(model="a")
        gateway.stream(n=2, temperature=1.0)
        gateway.post(chat_body(model="stranger" * 20))
        assert soon(lambda: 'status="404"' in gateway.get("/metrics").text)
        metrics = gateway.get("/metrics").text
    requests = "pyramid_moa_requests_total"
    assert value(metrics, f'{requests}{{model="pyramid",route="pyramid",status="200"}}') == 3
    assert value(metrics, f'{requests}{{model="a",route="direct",status="200"}}') == 1
    assert value(metrics, f'{requests}{{model="other",route="none",status="404"}}') == 1
    assert value(metrics, "pyramid_moa_judged_total") == 4
    assert value(metrics, "pyramid_moa_escalations_total") == 3
    assert value(metrics, "pyramid_moa_p_ensemble_fails_count") == 4
    assert value(metrics, 'pyramid_moa_stage_seconds_count{stage="oracle"}') == 3
    for model, calls in (("a", 5), ("b", 4), ("oracle", 3)):
        answered = f'pyramid_moa_model_calls_total{{model="{model}",result="answered"}}'
        assert value(metrics, answered) == calls
    assert value(metrics, 'pyramid_moa_first_byte_seconds_count{route="pyramid"}') == 1
    prompts = 7 * (4 * 2 + 3 + 1)
    assert value(metrics, 'pyramid_moa_tokens_total{kind="prompt"}') == prompts
    assert value(metrics, "pyramid_moa_cost_usd_total") > 0
    assert "stranger" not in metrics


def test_the_log_has_a_line_a_request_and_no_text(caplog):
    with caplog.at_level(logging.INFO, logger="pyramid_moa"), running_gateway(AGREE) as gateway:
        gateway.ask()
        gateway.post(chat_body(temperature=9))
        assert soon(lambda: len(caplog.records) >= 2)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    answered, refused = [line for line in lines if line["message"] == "request"]
    assert answered["model"] == "pyramid"
    assert answered["status"] == 200
    assert answered["models_called"] == ["a", "b"]
    assert answered["prompt_tokens"] == 14
    assert answered["seconds"] > 0
    assert (refused["status"], refused["error"]) == (400, "invalid_value")
    assert QUESTION not in str(lines)
    assert "####" not in str(lines)


@pytest.fixture
def log():
    """What a program whose log is JSON writes there."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # The root logger's own are put back, not closed.
    root.handlers = []
    log_as_json(stream)
    try:
        yield stream
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_the_log_has_no_addresses(log):
    with running_gateway({**AGREE, "a": fails()}) as gateway:
        gateway.ask()
        assert soon(lambda: '"request"' in log.getvalue())
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).info("HTTP Request: GET https://127.0.0.1/?token=t")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {line["logger"] for line in lines} <= {"pyramid_moa.gateway", "uvicorn.error"}
    ours = [line for line in lines if line["logger"] == "pyramid_moa.gateway"]
    assert ours
    assert "127.0.0.1" not in str(ours)


def test_a_fault_of_the_gateways_own_is_not_shown_to_clients(monkeypatch, caplog):
    from pyramid_moa.inference.gateway import live_course

    def broken(*given, **fields):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(live_course, "Course", broken)
    with running_gateway(AGREE) as gateway:
        for stream in (False, True):
            reply = gateway.post(chat_body(stream=stream))
            assert reply.status_code == 500
            assert reply.json()["error"]["code"] == "internal_error"
            assert "secret detail" not in reply.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (Faults, {"deadline_s": 0.0}, "deadline_s: expected seconds"),
        (Faults, {"retries": -1, "breaker_failures": 0}, "retries.*breaker_failures"),
        (Faults, {"hedge_after_s": float("nan")}, "hedge_after_s"),
        (Load, {"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, fields, said):
    with pytest.raises(ConfigError, match=said):
        kind(**fields)


def test_the_file_of_limits_has_every_one_with_its_default():
    path = Path(__file__).parents[3] / "configs" / "serve.yaml"
    assert load_config(GatewaySettings, path) == GatewaySettings()
    assert _names(yaml.safe_load(path.read_text())) == _names(asdict(GatewaySettings()))


def _names(tree):
    return {name: _names(own) if isinstance(own, dict) else None for name, own in tree.items()}


def test_streams_are_merged_as_they_come_and_end_together():
    closed = []

    async def numbers(own, pause, count):
        try:
            for number in range(count):
                await asyncio.sleep(pause)
                yield own, number
        finally:
            closed.append(own)

    async def all_items():
        streams = [numbers("a", 0.03, 3), numbers("b", 0.0, 2), numbers("c", 0.0, 0)]
        return [item async for item in merged(streams)]

    items = asyncio.run(all_items())
    assert [item for stream, item in items if stream == 0] == [("a", k) for k in range(3)]
    assert [item for stream, item in items if stream == 1] == [("b", k) for k in range(2)]

    async def leave():
        closed.clear()
        stream = merged([numbers("a", 0.0, 9), numbers("b", 30.0, 9)])
        await anext(stream)
        await stream.aclose()

    asyncio.run(asyncio.wait_for(leave(), 5))
    assert sorted(closed) == ["a", "b"]


def test_an_error_ends_what_runs_beside_it():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    async def wrong():
        await asyncio.sleep(0.01)
        raise ConfigError("no")

    async def wrong_stream():
        await wrong()
        yield 1

    async def slow_stream():
        await slow()
        yield 1

    async def both():
        with pytest.raises(ConfigError):
            await all_of([slow(), wrong()])
        stream = merged([slow_stream(), wrong_stream()])
        with pytest.raises(ConfigError):
            await anext(stream)

    asyncio.run(asyncio.wait_for(both(), 5))
    assert ended == [True, True]


def test_nobody_waits_for_his_turn_past_his_own_time():
    slow = {"a": says("#### 16", delay_s=8.0), "b": says("#### 16"), "oracle": says("#### 99")}
    settings = GatewaySettings(faults=QUICK, load=Load(max_concurrency=1, queue_wait_s=60))
    with running_gateway(slow, settings=settings) as gateway, ThreadPoolExecutor() as pool:
        first = pool.submit(gateway.post, chat_body())
        assert soon(gateway.servers["a"].started.is_set)
        told = gateway.post(chat_body(pyramid={"max_latency_ms": 300}))
        assert told.status_code == 429
        assert not first.done()
        assert first.result().is_success


@pytest.mark.parametrize("begun", [False, True])
def test_a_fault_that_comes_up_late_is_told_in_the_stream(begun, monkeypatch):
    """A ``ConfigError``, or one of the gateway's own, when something has gone out already."""
    from pyramid_moa.inference.gateway import gated_answer

    for fault, code in ((ConfigError("no"), None), (RuntimeError("secret"), "internal_error")):

        async def broken(*given, fault=fault, **fields):
            if begun:
                yield Piece(text="It is")
            raise fault

        monkeypatch.setattr(gated_answer, "take_live", broken)
        with running_gateway(AGREE) as gateway:
            reply = gateway.post(chat_body(stream=True))
            assert "secret" not in reply.text
            if not begun:
                assert reply.status_code == (500 if code else 400)
                continue
            assert reply.status_code == 200
            last = reply.text.strip().splitlines()[-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
