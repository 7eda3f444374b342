"""The HTTP side: routes, who may pass, one place where every error gets its form."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pyramid_moa import __version__
from pyramid_moa.errors import ConfigError, PyramidError
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.access import Door
from pyramid_moa.inference.gateway.admission import Admission
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.api_request import (
    ChatRequest,
    CompletionRequest,
    TextRequest,
    read_request,
)
from pyramid_moa.inference.gateway.bounded_http import CUT_OFF
from pyramid_moa.inference.gateway.disconnects import ClientGoneError, unless_gone
from pyramid_moa.inference.gateway.gated_answer import Opened
from pyramid_moa.inference.gateway.gateway import Gateway
from pyramid_moa.inference.gateway.generations import Generations
from pyramid_moa.inference.gateway.metrics import CONTENT_TYPE, Metrics
from pyramid_moa.inference.gateway.openapi import openapi_description
from pyramid_moa.inference.gateway.page import page_headers, render_live, render_page
from pyramid_moa.inference.gateway.plan import Gated, check_names
from pyramid_moa.inference.gateway.recent import Recent
from pyramid_moa.inference.gateway.reply import event, json_text
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.inference.gateway.tracing import RequestStage, Tracing

__all__ = ["build_app"]

_log = logging.getLogger("pyramid_moa.gateway")
# As nginx writes it: the client closed the request. Nobody is sent it; logs and metrics hold it.
_GONE = 499
# What a stream may take, past its own time, to be read.
_SLOW_S = 5.0
# After which another gateway, or this one again, may be there.
_AGAIN_S = 5.0
_JSON = "application/json"


def build_app(
    gate: Gate,
    settings: GatewaySettings,
    *,
    keys: list[str],
    admin_keys: list[str] | None = None,
    reopen: Callable[[], Gate] | None = None,
    retired: Callable[[], None] = lambda: None,
    tracing: Tracing | None = None,
) -> Starlette:
    """Make the ASGI application; its ``state.reload`` reloads, as ``/admin/reload`` does.

    Args:
        gate: what decides and answers; the application closes it when it ends.
        settings: limits.
        keys: of clients; none lets in whoever calls this machine itself.
        admin_keys: of those who may reload; nobody may by HTTP without.
        reopen: opens the gate anew from its files; None for one that has none.
        retired: told after a reload, when what answered before it has been closed.
        tracing: makes the spans of requests; the application closes it when it ends.

    Raises:
        ConfigError: a name can't be served by; see ``check_names``.
    """
    check_names(gate.rules.pyramid, settings.faults)
    site = _Site(
        gate,
        settings,
        Door(keys, settings.access),
        Door(admin_keys, settings.access) if admin_keys else None,
        reopen,
        retired,
        tracing or Tracing(),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        site.open()
        try:
            yield
        finally:
            await site.close()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/chat/completions", _Completions(site, ChatRequest), methods=["POST"]),
            Route("/v1/completions", _Completions(site, TextRequest), methods=["POST"]),
            Route("/v1/models", site.list_models),
            Route("/v1/models/{name:path}", site.show_model),
            Route("/healthz", site.health),
            Route("/readyz", site.readiness),
            Route("/metrics", site.show_metrics),
            Route("/openapi.json", site.describe),
            *([Route("/", site.page), Route("/live", site.live)] if settings.page.enabled else []),
            Route("/admin/reload", site.reload_for_admin, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_exception,
            Exception: _unexpected,
        },
    )
    app.state.reload = site.reload
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), status=error.status, headers=error.headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the routing says: no such page, no such method."""
    assert isinstance(error, HTTPException)
    known = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /healthz, /readyz"
    said = ApiError(error.status_code, f"expected one of {known} and /metrics; found another")
    return _json(said.body(), status=said.status, headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of the gateway's own: the log has it, the client is only told that it is one."""
    return _json(_fault().body(), status=500)


def _fault() -> ApiError:
    return ApiError(500, "the gateway has a fault; its log says more", code="internal_error")


def _ending() -> ApiError:
    return ApiError(503, "the gateway ends; ask again", code="gateway_ends", retry_after_s=_AGAIN_S)


def _json(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(json_text(body), status, dict(headers or {}), media_type=_JSON)


class _Site:
    """What all routes share; the gateway is there while the application runs."""

    def __init__(
        self,
        gate: Gate,
        settings: GatewaySettings,
        door: Door,
        admin_door: Door | None,
        reopen: Callable[[], Gate] | None,
        retired: Callable[[], None],
        tracing: Tracing,
    ) -> None:
        self.settings = settings
        self.door = door
        self.metrics = Metrics()
        self.tracing = tracing
        self.admission = Admission(settings.load)
        self.recent = Recent(decisions=settings.page.decisions, texts=settings.page.texts)
        self.generations: Generations
        self._admin_door = admin_door
        self._reopen, self._retired = reopen, retired
        self._gate = gate
        self._created = int(time.time())

    def open(self) -> None:
        self.generations = Generations(
            self._gate,
            lambda gate: Gateway(gate, self.settings, self.metrics),
            retired=self._retired,
        )
        self.metrics.watch(
            working=lambda: self.admission.working,
            waiting=lambda: self.admission.waiting,
            breakers=lambda: {
                name: upstream.breaker.state
                for name, upstream in self.generations.now.upstreams.items()
            },
            audit=lambda: self.generations.now.audit.count,
        )

    async def close(self) -> None:
        await self.generations.close()
        # What is not sent yet may have to wait for its receiver.
        await asyncio.to_thread(self.tracing.close)

    async def reload(self) -> None:
        """Open the gate anew from its files.

        Raises:
            PyramidError: they are wrong; the one before answers on.
        """
        if self._reopen is None:
            raise ConfigError("expected a gate that comes from files, found one that does not")
        await self.generations.swap(self._reopen)

    async def reload_for_admin(self, request: Request) -> Response:
        if self._admin_door is None:
            raise ApiError(
                403,
                "expected an administrator's key to be set where the gateway was started "
                f"({self.settings.access.admin_keys_env}), found none",
                code="no_admin_key",
            )
        self._admin_door.check(request.headers)
        try:
            await self.reload()
        except PyramidError as error:
            raise ApiError(
                409, f"not reloaded, the one before serves on: {error}", code="not_reloaded"
            ) from error
        except Exception:
            # The log says more, and names files of this machine.
            raise ApiError(
                409,
                "not reloaded, the one before serves on: the files can't be read; the log says why",
                code="not_reloaded",
            ) from None
        return _json({"status": "reloaded", "models": self.generations.now.models})

    async def list_models(self, request: Request) -> Response:
        self.door.check(request.headers)
        rows = [self._model(name) for name in self.generations.now.models]
        return _json({"object": "list", "data": rows})

    async def show_model(self, request: Request) -> Response:
        self.door.check(request.headers)
        name = request.path_params["name"]
        if name not in self.generations.now.models:
            raise ApiError(404, "no such model", code="model_not_found", param="model")
        return _json(self._model(name))

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok", "version": __version__})

    async def readiness(self, request: Request) -> Response:
        """Ready while any model can answer: the others are done without."""
        # Kept meanwhile: a reload closes what nobody uses.
        async with self.generations.using() as gateway:
            states = await gateway.states()
        ready = "ok" in states.values()
        body = {"status": "ready" if ready else "no model can be reached", "models": states}
        return _json(body, status=200 if ready else 503)

    async def page(self, request: Request) -> Response:
        self.door.check(request.headers, browser=True)
        now, texts = self.generations.now, self.settings.page.texts
        html, nonce = render_page(now.rules, self.recent, now.audit.count, texts=texts)
        return HTMLResponse(html, headers=page_headers(nonce))

    async def live(self, request: Request) -> Response:
        self.door.check(request.headers, browser=True)
        audit, texts = self.generations.now.audit.count, self.settings.page.texts
        return HTMLResponse(render_live(self.recent, audit, texts=texts), headers=page_headers())

    async def show_metrics(self, request: Request) -> Response:
        self.door.check(request.headers)
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def describe(self, request: Request) -> Response:
        self.door.check(request.headers, browser=True)
        models, limits = self.generations.now.models, self.settings.requests
        admin = self._admin_door is not None
        return _json(openapi_description(models, limits, keys=self.door.wants_keys, admin=admin))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "pyramid-moa"}


@dataclass(kw_only=True)
class _Account:
    """What is known of a request, for log and metrics."""

    number: str = ""
    model: str = "other"
    route: str = "none"
    streamed: bool = False
    block: Mapping[str, Any] | None = None
    usage: Mapping[str, int] | None = None
    code: str | None = None

    def fields(self) -> dict[str, object]:
        block = self.block or {}
        shown = (
            "escalated",
            "degraded",
            "answered_by",
            "p_ensemble_fails",
            "threshold",
            "models_called",
            "cost_usd",
            "saved_usd",
            "members_s",
            "router_s",
            "oracle_s",
        )
        own = {"id": self.number, "model": self.model, "route": self.route, "error": self.code}
        return {
            **own,
            "streamed": self.streamed,
            **{name: block[name] for name in shown if name in block},
            **(self.usage or {}),
        }


class _Reply:
    """What goes out of an answer.

    Attributes:
        status: of it, as the metrics have it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, account: _Account) -> None:
        self.status = 500
        self._begun = False
        self._scope, self._receive, self._send = scope, receive, send
        self._account = account

    async def send(self, message: Any) -> None:  # noqa: ANN401 - a message of ASGI
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
        await self._send(message)

    async def tell(self, error: ApiError) -> bool:
        """Say what has gone wrong, if that can still be said."""
        self._account.code = error.code
        if not self._begun:
            await _api_response(error)(self._scope, self._receive, self.send)
            return True
        if self._account.streamed:
            # Nothing else can be told any more in a stream that has begun.
            last = event(error.body())
            await self.send({"type": "http.response.body", "body": last, "more_body": False})
        return self._account.streamed


class _Completions:
    """The ASGI application of one kind of completions."""

    def __init__(self, site: _Site, kind: type[CompletionRequest]) -> None:
        self._site = site
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._site.tracing.request(scope["path"], Headers(scope=scope)) as traced:
            await self._traced(scope, receive, send, traced)

    async def _traced(
        self, scope: Scope, receive: Receive, send: Send, traced: RequestStage
    ) -> None:
        account, started = _Account(), time.perf_counter()
        reply = _Reply(scope, receive, send, account)
        try:
            await self._serve(scope, receive, reply.send, account)
        except (ClientGoneError, ClientDisconnect):
            reply.status = _GONE
        except ApiError as error:
            await reply.tell(error)
        except asyncio.CancelledError:
            # The gateway ends, and the request has not been finished in the time that it had.
            if not await reply.tell(_ending()):
                raise
        except Exception:
            _log.exception("a request failed by a fault of the gateway's own")
            if not await reply.tell(_fault()):
                raise
        finally:
            seconds = time.perf_counter() - started
            self._site.metrics.ended(account.model, account.route, reply.status, seconds)
            fields = {**account.fields(), "status": reply.status, "seconds": round(seconds, 6)}
            if traced.trace_id is not None:
                fields["trace_id"] = traced.trace_id
            traced.answered(
                status=reply.status,
                model=account.model,
                block=account.block or {},
                usage=account.usage or {},
                code=account.code,
            )
            _log.info("request", extra={"fields": fields})

    async def _serve(self, scope: Scope, receive: Receive, send: Send, account: _Account) -> None:
        headers = Headers(scope=scope)
        self._site.door.check(headers)
        limits = self._site.settings.requests
        with self._site.admission.body() as take:
            body = await _read_body(
                Request(scope, receive), most=limits.body_bytes, within_s=limits.body_s, take=take
            )
            request = read_request(self._kind, body)
            async with self._site.generations.using() as gateway:
                await self._answer(gateway, request, headers, (scope, receive, send), account)

    async def _answer(
        self,
        gateway: Gateway,
        request: CompletionRequest,
        headers: Headers,
        asgi: tuple[Scope, Receive, Send],
        account: _Account,
    ) -> None:
        scope, receive, send = asgi
        plan = gateway.plan(request, headers)
        account.model = request.model
        account.route = "pyramid" if isinstance(plan, Gated) else "direct"
        account.streamed = bool(request.stream)
        form = gateway.form_of(request)
        account.number = form.id
        loop = asyncio.get_running_loop()
        until = loop.time() + plan.limit_s

        def note(block: Mapping[str, Any], usage: Mapping[str, int]) -> None:
            account.block, account.usage = block, usage
            self._site.metrics.decided(block, usage)
            self._site.recent.add(block, plan.questions)

        async def whole() -> None:
            async with self._site.admission.turn(until=until):
                reply = await gateway.whole(request, plan, form, until=until, note=note)
            response = _json(reply.body, headers={**reply.headers, "x-request-id": form.id})
            await response(scope, receive, send)

        async def stream() -> None:
            begun = time.perf_counter()
            parts = gateway.stream(request, plan, form, until=until, note=note)
            # Who reads more slowly than models write would keep its places as long as it likes.
            cut_off = scope.get("extensions", {}).get(CUT_OFF, lambda: None)
            too_slow = loop.call_at(until + _SLOW_S, cut_off)
            try:
                async with self._site.admission.turn(until=until), aclosing(parts):
                    opened = await anext(parts)
                    assert isinstance(opened, Opened)
                    self._site.metrics.began(account.route, time.perf_counter() - begun)
                    await send(_stream_head({**opened.headers, "x-request-id": form.id}))
                    async for part in parts:
                        assert isinstance(part, bytes)
                        await send({"type": "http.response.body", "body": part, "more_body": True})
            finally:
                too_slow.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await unless_gone(receive, stream() if request.stream else whole())


def _api_response(error: ApiError) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    return _json(error.body(), status=error.status, headers=error.headers)


def _stream_head(headers: Mapping[str, str]) -> dict[str, Any]:
    own = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        # Proxies such as nginx would collect events otherwise.
        "x-accel-buffering": "no",
        **headers,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
    return {"type": "http.response.start", "status": 200, "headers": raw}


async def _read_body(
    request: Request, *, most: int, within_s: float, take: Callable[[int], None]
) -> bytes:
    """Read a body of JSON, no more of it than may come.

    Args:
        request: whose body it is.
        most: bytes of it.
        within_s: seconds until it has to be there.
        take: told the size of each part; what it raises ends the reading.

    Raises:
        ApiError: it is said to be something else, is too large, or takes too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page in a browser may send other kinds anywhere without being asked for leave.
    if kind != _JSON:
        raise ApiError(
            415, f"content-type: expected {_JSON}, found another", code="unsupported_media_type"
        )
    too_large = ApiError(
        413, f"expected a body of at most {most} bytes, found more", code="body_too_large"
    )
    said = request.headers.get("content-length", "0")
    if said.isascii() and said.isdigit() and int(said[:20]) > most:
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise too_large
                take(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, "the request took too long to come", code="timeout") from None
    return b"".join(pieces)
