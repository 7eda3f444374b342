"""A gateway under way in a thread, over HTTP, and the servers behind it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import openai
import uvicorn
from faulty_server import FaultyServer, Reply, chat_reply, faulty_server, soon, stream_events

from pyramid_moa.backends import ModelSpec, Price
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.app import build_app
from pyramid_moa.inference.gateway.bounded_http import bounded_http
from pyramid_moa.inference.gateway.gateway import serving_spec
from pyramid_moa.inference.gateway.serve import _listening
from pyramid_moa.inference.gateway.settings import AuditSettings, Faults, GatewaySettings
from pyramid_moa.inference.gateway.tracing import Tracing

KEY = "client-key-0123456789-abcdef"
UPSTREAM_KEY = "sk-upstream-0123456789-secret"
# Errors are to be seen at once, not after pauses.
QUICK = Faults(retries=0)
DOWN = Reply(status=500, body={"error": {"message": "out of order"}})
_PRICES = {"oracle": Price(input=10.0, output=10.0), "spare": Price(input=20.0, output=20.0)}
QUESTION = "How many legs have two spiders?"


def says(text: str, *, delay_s: float = 0.0, token_s: float = 0.0) -> Callable[[Any], Any]:
    """A server that gives one answer, whole or streamed as it is asked."""

    def answer(request: Any) -> Any:
        if request.body is None:
            return {"data": [{"id": "m"}]}
        if request.body.get("stream"):
            return Reply(events=stream_events(text, seconds=token_s), delay_s=delay_s)
        return Reply(body=chat_reply(text), delay_s=delay_s)

    return answer


def fails(reply: Any = DOWN) -> Callable[[Any], Any]:
    """A server that answers nothing but this."""
    return lambda request: reply


@dataclass(frozen=True, kw_only=True)
class RunningGateway:
    """A gateway under way.

    Attributes:
        base_url: as clients are given it.
        servers: behind it, by the model's name.
        gate: what decides.
        server: of HTTP.
    """

    base_url: str
    servers: Mapping[str, FaultyServer]
    gate: Gate
    server: uvicorn.Server

    @property
    def root(self) -> str:
        """The address without ``/v1``."""
        return self.base_url.removesuffix("/v1")

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's own client."""
        return openai.OpenAI(
            base_url=self.base_url, api_key=options.pop("api_key", KEY), max_retries=0, **options
        )

    def ask(self, text: str = QUESTION, **fields: Any) -> Any:
        """One question through OpenAI's own client."""
        fields = {"model": "pyramid", **fields}
        with self.client() as client:
            return client.chat.completions.create(
                messages=[{"role": "user", "content": text}], **fields
            )

    def stream(self, text: str = QUESTION, **fields: Any) -> list[Any]:
        """The chunks of one answer, through OpenAI's own client."""
        with self.client() as client:
            chunks = client.chat.completions.create(
                messages=[{"role": "user", "content": text}],
                stream=True,
                **{"model": "pyramid", **fields},
            )
            with chunks:
                return list(chunks)

    def post(self, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        """A request as it is."""
        return httpx.post(f"{self.root}{path}", json=body, timeout=20, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A page."""
        return httpx.get(f"{self.root}{path}", timeout=20, **options)


def chat_body(text: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": "pyramid", "messages": [{"role": "user", "content": text}], **fields}


def text_of(chunks: list[Any]) -> str:
    """All that the chunks of an answer bring."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@contextmanager
def running(
    gate: Gate, settings: GatewaySettings, keys: list[str], *, tracing: Tracing | None = None
) -> Iterator[tuple[str, Any]]:
    """Serve a gate's application in a thread: its address and its server."""
    app = build_app(gate, settings, keys=keys, tracing=tracing)
    with _listening("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            app,
            http=bounded_http(settings.requests),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert soon(lambda: server.started, within_s=20)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", server
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def running_gateway(
    answers: Mapping[str, Callable[[Any], Any]],
    *,
    settings: GatewaySettings | None = None,
    keys: list[str] | None = None,
    pyramid: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    audit: float = 0.0,
    oracles: int = 1,
    tracing: Tracing | None = None,
    **gate_options: Any,
) -> Iterator[RunningGateway]:
    """A gateway in front of a server for each model, the oracles' last; audits are off."""
    settings = replace(settings or GatewaySettings(faults=QUICK), audit=AuditSettings(share=audit))
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(faulty_server(answer)) for name, answer in answers.items()
        }
        specs = [
            ModelSpec(
                name=name,
                model=f"served-{name}",
                backend="openai",
                base_url=server.base_url,
                price=_PRICES.get(name, Price(input=1.0)),
                active_parameters=1e9,
                **(spec or {}),
            )
            for name, server in servers.items()
        ]
        config = Pyramid(members=specs[:-oracles], oracles=specs[-oracles:], **(pyramid or {}))
        backends = {
            own.name: OpenAIBackend(serving_spec(own, settings.faults)) for own in config.models
        }
        gate = stack.enter_context(Gate(config, backends, **gate_options))
        base_url, server = stack.enter_context(running(gate, settings, keys or [], tracing=tracing))
        yield RunningGateway(base_url=base_url, servers=servers, gate=gate, server=server)
