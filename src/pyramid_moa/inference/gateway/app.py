"""The application over HTTP: its routes, and the form of what they refuse."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.access import Door
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.api_request import ChatRequest, TextRequest
from pyramid_moa.inference.gateway.completions import Completions
from pyramid_moa.inference.gateway.http_replies import json_response, own_fault
from pyramid_moa.inference.gateway.plan import check_names
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.inference.gateway.site import Site
from pyramid_moa.inference.gateway.tracing import Tracing

__all__ = ["build_app"]


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
    site = Site(
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
            Route("/v1/chat/completions", Completions(site, ChatRequest), methods=["POST"]),
            Route("/v1/completions", Completions(site, TextRequest), methods=["POST"]),
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
    return json_response(error.body(), status=error.status, headers=error.headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    """What the routing says: no such page, no such method."""
    assert isinstance(error, HTTPException)
    known = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /healthz, /readyz"
    said = ApiError(error.status_code, f"expected one of {known} and /metrics; found another")
    return json_response(said.body(), status=said.status, headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of the gateway's own: the log has it, the client is only told that it is one."""
    return json_response(own_fault().body(), status=500)
