"""Traces: a span for each stage of a request, from the client's own trace on to the servers'."""

import gzip
import http.server
import json
import threading
from contextlib import contextmanager

import httpx
import pytest
from faulty_server import faulty_server, soon
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from running_gateway import KEY, QUESTION, UPSTREAM_KEY, chat_body, fails, running_gateway, says
from served_program import program, write_pyramid

from pyramid_moa.errors import ConfigError, MissingExtraError
from pyramid_moa.inference.gateway import tracing
from pyramid_moa.inference.gateway.settings import Telemetry

AGREE = {"a": says("#### 16"), "b": says("it is 16"), "oracle": says("#### 17")}
DIFFER = {**AGREE, "b": says("#### 9")}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Spans:
    """What has been traced."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = tracing.traces_of(provider)

    @property
    def all(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.all if span.name == name]

    def root(self):
        """The request's own; it ends when its answer has gone out."""
        assert soon(lambda: [span for span in self.all if span.name.startswith("POST")])
        return next(span for span in self.all if span.name.startswith("POST"))


@pytest.fixture
def spans():
    return Spans()


def test_what_a_call_sends_is_made_once_for_all_chunks(spans):
    with spans.tracing.request("/v1/chat/completions", {}):
        call = tracing.traced_call("a", served_as="served-a", provider="openai")
        assert call.headers["traceparent"].split("-")[1] == call.trace_id
        assert call.headers is call.headers
        call.end()


@pytest.mark.parametrize("stream", [False, True])
def test_each_stage_is_a_span_of_the_request(spans, stream):
    with running_gateway(DIFFER, tracing=spans.tracing) as gateway:
        assert gateway.post(chat_body(stream=stream)).is_success
        root = spans.root()
    names = sorted(span.name for span in spans.all)
    calls = ["chat served-a", "chat served-b", "chat served-oracle"]
    assert names == ["POST /v1/chat/completions", "admission", *calls, "router", "router"]
    for span in spans.all:
        assert span.context.trace_id == root.context.trace_id
        assert span is root or span.parent.span_id == root.context.span_id
        assert span.status.is_ok or span.status.status_code.name == "UNSET"
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    told = root.attributes
    assert told["pyramid_moa.route"] == "vote"
    assert told["pyramid_moa.escalated"] is True
    assert told["pyramid_moa.answered_by"] == "oracle"
    assert told["http.response.status_code"] == 200
    assert told["gen_ai.request.model"] == "pyramid"
    calls = [span.attributes for span in spans.all if span.name.startswith("chat")]
    assert {call["pyramid_moa.model"] for call in calls} == {"a", "b", "oracle"}
    assert {call["gen_ai.provider.name"] for call in calls} == {"openai"}
    assert all(call["pyramid_moa.result"] == "answered" for call in calls)
    sums = [sum(call[f"gen_ai.usage.{kind}_tokens"] for call in calls) for kind in IN_OUT]
    assert sums == [told[f"gen_ai.usage.{kind}_tokens"] for kind in IN_OUT]


IN_OUT = ("input", "output")


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_trace_goes_on_to_the_servers(spans, stream):
    with running_gateway(DIFFER, tracing=spans.tracing) as gateway:
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        gateway.post(chat_body(stream=stream), headers=headers)
        root = spans.root()
        assert f"{root.context.trace_id:032x}" == TRACE
        assert f"{root.parent.span_id:016x}" == PARENT
        for name, server in gateway.servers.items():
            version, trace, parent, flags = server.requests[-1].headers["traceparent"].split("-")
            assert (version, trace, flags) == ("00", TRACE, "01")
            (span,) = spans.named(f"chat served-{name}")
            assert parent == f"{span.context.span_id:016x}"
            assert server.requests[-1].headers["tracestate"] == "vendor=1"


def test_one_request_sends_nothing_of_another(spans):
    with running_gateway(AGREE, tracing=spans.tracing) as gateway:
        for _ in range(3):
            gateway.post(chat_body(stream=True))
        assert soon(lambda: len(spans.named("POST /v1/chat/completions")) == 3)
        for server in (gateway.servers["a"], gateway.servers["b"]):
            traces = [request.headers["traceparent"].split("-")[1] for request in server.requests]
            assert len(set(traces)) == 3


@pytest.mark.parametrize("header", ["rubbish", f"00-{'0' * 32}-{PARENT}-01", "00-" + "f" * 9000])
def test_what_is_no_trace_begins_a_new_one(spans, header):
    with running_gateway(AGREE, tracing=spans.tracing) as gateway:
        assert gateway.post(chat_body(), headers={"traceparent": header}).is_success
        assert spans.root().parent is None


def test_a_client_that_is_not_sampled_is_not_traced(spans):
    with running_gateway(AGREE, tracing=spans.tracing) as gateway:
        gateway.post(chat_body(), headers={"traceparent": TRACEPARENT[:-1] + "0"})
        gateway.post(chat_body())
        assert spans.root().parent is None
        assert len(spans.named("POST /v1/chat/completions")) == 1


def test_what_failed_is_marked(spans):
    answers = {**AGREE, "b": fails(), "oracle": fails()}
    with running_gateway(answers, tracing=spans.tracing) as gateway:
        gateway.post(chat_body())
        gateway.post(chat_body(model="oracle"))
        gateway.post(chat_body(model="nobody"))
        assert soon(lambda: len(spans.named("POST /v1/chat/completions")) == 3)
    (failed,) = spans.named("chat served-b")
    assert failed.attributes["error.type"] == "failed"
    assert not failed.status.is_ok
    answered, gone, unknown = spans.named("POST /v1/chat/completions")
    assert answered.attributes["pyramid_moa.degraded"] is True
    assert gone.attributes["http.response.status_code"] == 503
    assert not gone.status.is_ok
    assert unknown.attributes["error.type"] == "model_not_found"
    assert unknown.attributes["gen_ai.request.model"] == "other"
    # The client's own mistake.
    assert unknown.status.status_code.name == "UNSET"


def test_an_audit_is_a_stage_of_the_request_that_it_is_about(spans):
    with running_gateway(AGREE, tracing=spans.tracing, audit=1.0) as gateway:
        gateway.post(chat_body())
        assert soon(lambda: spans.named("audit"))
    (audit,) = spans.named("audit")
    assert audit.attributes["pyramid_moa.agrees"] is False
    assert audit.context.trace_id == spans.root().context.trace_id
    assert spans.named("chat served-oracle")


def test_no_span_holds_a_text_or_a_key(spans):
    answers = {**AGREE, "b": fails()}
    with running_gateway(answers, tracing=spans.tracing, keys=[KEY]) as gateway:
        for stream in (False, True):
            headers = {"authorization": f"Bearer {KEY}"}
            assert gateway.post(chat_body(stream=stream), headers=headers).is_success
        gateway.post(chat_body(model="oracle"), headers=headers)
        assert soon(lambda: len(spans.named("POST /v1/chat/completions")) == 3)
    told = [text for span in spans.all for text in (span.name, *span.attributes.values())]
    for secret in (QUESTION, "#", "16", KEY, UPSTREAM_KEY, "127.0.0.1", "out of order"):
        assert not [text for text in told if isinstance(text, str) and secret in text]
    assert not [span for span in spans.all if span.events or span.status.description]


def test_without_tracing_nothing_is_sent_or_kept():
    with running_gateway(AGREE) as gateway:
        gateway.post(chat_body(), headers={"traceparent": TRACEPARENT})
        assert "traceparent" not in gateway.servers["a"].requests[-1].headers
    assert tracing.stage("router") is tracing.NO_STAGE
    assert tracing.traced_call("a", served_as="a", provider="openai") is tracing.NO_STAGE


@pytest.mark.parametrize(
    ("enabled", "environment", "traces"),
    [
        (None, {}, False),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (None, {"OTEL_TRACES_EXPORTER": "none"}, False),
        (False, {"OTEL_TRACES_EXPORTER": "otlp"}, False),
        (True, {}, True),
        (True, {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_who_wants_traces(enabled, environment, traces):
    opened = tracing.open_tracing(Telemetry(enabled=enabled), environment)
    try:
        assert (type(opened) is not tracing.Tracing) == traces
    finally:
        opened.close()


def test_without_the_extra_it_says_which_command_brings_it(monkeypatch):
    def missing(module, *, extra, purpose):
        raise MissingExtraError(f"{module} is needed for {purpose}: pyramid-moa[{extra}]")

    monkeypatch.setattr(tracing, "import_extra", missing)
    with pytest.raises(MissingExtraError, match=r"traces.*pyramid-moa\[otel\]"):
        tracing.open_tracing(Telemetry(enabled=True), {})


def test_an_endpoint_is_an_address_and_is_not_repeated():
    with pytest.raises(ConfigError, match="telemetry: endpoint") as caught:
        Telemetry(endpoint="user:secret@collector:4318")
    assert "secret" not in str(caught.value)


@contextmanager
def collector():
    """A receiver of OTLP over HTTP: its address, and the spans that have come."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            message = ExportTraceServiceRequest.FromString(body)
            received.extend(
                (dict(_pairs(block.resource.attributes)), span)
                for block in message.resource_spans
                for scope in block.scope_spans
                for span in scope.spans
            )
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pairs(attributes):
    return [(pair.key, pair.value.string_value) for pair in attributes]


def test_a_program_sends_its_traces_to_a_collector(tmp_path):
    with (
        collector() as (endpoint, received),
        faulty_server(says("#### 16")) as one,
        faulty_server(says("#### 9")) as other,
        faulty_server(says("#### 17")) as oracle,
    ):
        pyramid = write_pyramid(
            tmp_path, {"a": one.base_url, "b": other.base_url, "oracle": oracle.base_url}
        )
        config = tmp_path / "serve.yaml"
        config.write_text(json.dumps({"telemetry": {"enabled": True, "endpoint": endpoint}}))
        variables = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
        with program("--pyramid", str(pyramid), "--config", str(config), **variables) as (
            process,
            url,
            logged,
        ):
            reply = httpx.post(
                f"{url}/chat/completions",
                json=chat_body(),
                headers={"traceparent": TRACEPARENT},
                timeout=30,
            )
            assert reply.json()["choices"][0]["message"]["content"] == "#### 17"
            assert soon(lambda: len(received) == 7, within_s=20)
            httpx.post(f"{url}/chat/completions", json=chat_body(), timeout=30)
            # What is not sent yet is sent before it ends.
            process.terminate()
            assert process.wait(30) == 0
        assert len(received) == 14
        first = [span for _, span in received if span.trace_id.hex() == TRACE]
        assert sorted(span.name for span in first) == [
            "POST /v1/chat/completions",
            "admission",
            "chat m",
            "chat m",
            "chat m",
            "router",
            "router",
        ]
        resource, _ = received[0]
        assert resource["service.name"] == "pyramid-moa"
        asked = [request for request in oracle.requests if request.body is not None]
        assert asked[0].headers["traceparent"].split("-")[1] == TRACE
        requests = [json.loads(line) for line in logged if '"message": "request"' in line]
        assert requests[0]["trace_id"] == TRACE


def test_a_collector_that_is_not_there_holds_nobody_up(tmp_path):
    with faulty_server(says("#### 16")) as one, faulty_server(says("#### 17")) as oracle:
        pyramid = write_pyramid(tmp_path, {"a": one.base_url, "oracle": oracle.base_url})
        variables = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        with program("--pyramid", str(pyramid), **variables) as (process, url, _):
            for _ in range(3):
                assert httpx.post(
                    f"{url}/chat/completions", json=chat_body(), timeout=30
                ).is_success
            process.terminate()
            assert process.wait(30) == 0
