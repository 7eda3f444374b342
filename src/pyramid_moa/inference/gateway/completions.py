"""Requests for answers, from the first byte of their body to the last of the reply."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.api_request import CompletionRequest, read_request
from pyramid_moa.inference.gateway.bounded_http import CUT_OFF
from pyramid_moa.inference.gateway.disconnects import ClientGoneError, unless_gone
from pyramid_moa.inference.gateway.explanation import IN_HEADERS
from pyramid_moa.inference.gateway.gated_answer import Opened
from pyramid_moa.inference.gateway.gateway import Gateway
from pyramid_moa.inference.gateway.http_replies import error_response, json_response, own_fault
from pyramid_moa.inference.gateway.plan import Gated
from pyramid_moa.inference.gateway.reply import event
from pyramid_moa.inference.gateway.site import Site
from pyramid_moa.inference.gateway.tracing import RequestStage

__all__ = ["Completions"]

_log = logging.getLogger("pyramid_moa.gateway")
# As nginx writes it: the client closed the request. Nobody is sent it; logs and metrics hold it.
_GONE = 499
# What a stream may take, past its own time, to be read.
_SLOW_S = 5.0
# After which another gateway, or this one again, may be there.
_AGAIN_S = 5.0
_JSON = "application/json"
# Numbers, names and words of a fixed list; the route has a name of its own here.
_LOGGED = tuple(name for name in IN_HEADERS if name not in ("route", "reason"))


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
        own = {"id": self.number, "model": self.model, "route": self.route, "error": self.code}
        return {
            **own,
            "streamed": self.streamed,
            **{name: block[name] for name in _LOGGED if name in block},
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

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
        await self._send(message)

    async def tell(self, error: ApiError) -> bool:
        """Say what has gone wrong, if that can still be said."""
        self._account.code = error.code
        if not self._begun:
            await error_response(error)(self._scope, self._receive, self.send)
            return True
        if self._account.streamed:
            # Nothing else can be told any more in a stream that has begun.
            last = event(error.body())
            await self.send({"type": "http.response.body", "body": last, "more_body": False})
        return self._account.streamed


class Completions:
    """The ASGI application of one kind of completions."""

    def __init__(self, site: Site, kind: type[CompletionRequest]) -> None:
        """Answer requests of a kind."""
        self._site = site
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one."""
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
            if not await reply.tell(own_fault()):
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
            response = json_response(reply.body, headers={**reply.headers, "x-request-id": form.id})
            await response(scope, receive, send)

        async def stream() -> None:
            begun = time.perf_counter()
            parts = gateway.stream(request, plan, form, until=until, note=note)
            # Who reads more slowly than models write would keep its places as long as it likes.
            cut_off = scope["extensions"][CUT_OFF]["now"]
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


def _ending() -> ApiError:
    return ApiError(503, "the gateway ends; ask again", code="gateway_ends", retry_after_s=_AGAIN_S)


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
