"""What all routes of the gateway share, and the replies that are no answers of models."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pyramid_moa import __version__
from pyramid_moa.errors import ConfigError, PyramidError
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.access import Door
from pyramid_moa.inference.gateway.admission import Admission
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.gateway import Gateway
from pyramid_moa.inference.gateway.generations import Generations
from pyramid_moa.inference.gateway.http_replies import json_response
from pyramid_moa.inference.gateway.metrics import CONTENT_TYPE, Metrics
from pyramid_moa.inference.gateway.openapi import openapi_description
from pyramid_moa.inference.gateway.page import page_headers, render_live, render_page
from pyramid_moa.inference.gateway.recent import Recent
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.inference.gateway.tracing import Tracing

__all__ = ["Site"]


class Site:
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
        """Keep what ``build_app`` is given; ``door`` and ``admin_door`` ask for its keys."""
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
        """Begin, in the event loop that answers."""
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
        """End when nothing is under way any more."""
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
        """Reload for whoever has an administrator's key."""
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
        return json_response({"status": "reloaded", "models": self.generations.now.models})

    async def list_models(self, request: Request) -> Response:
        """All names that a request may name."""
        self.door.check(request.headers)
        rows = [self._model(name) for name in self.generations.now.models]
        return json_response({"object": "list", "data": rows})

    async def show_model(self, request: Request) -> Response:
        """One of them."""
        self.door.check(request.headers)
        name = request.path_params["name"]
        if name not in self.generations.now.models:
            raise ApiError(404, "no such model", code="model_not_found", param="model")
        return json_response(self._model(name))

    async def health(self, request: Request) -> Response:
        """The process runs."""
        return json_response({"status": "ok", "version": __version__})

    async def readiness(self, request: Request) -> Response:
        """Ready while any model can answer: the others are done without."""
        # Kept meanwhile: a reload closes what nobody uses.
        async with self.generations.using() as gateway:
            states = await gateway.states()
        ready = "ok" in states.values()
        body = {"status": "ready" if ready else "no model can be reached", "models": states}
        return json_response(body, status=200 if ready else 503)

    async def page(self, request: Request) -> Response:
        """The page for people."""
        self.door.check(request.headers, browser=True)
        now, texts = self.generations.now, self.settings.page.texts
        html, nonce = render_page(now.rules, self.recent, now.audit.count, texts=texts)
        return HTMLResponse(html, headers=page_headers(nonce))

    async def live(self, request: Request) -> Response:
        """What of the page changes."""
        self.door.check(request.headers, browser=True)
        audit, texts = self.generations.now.audit.count, self.settings.page.texts
        return HTMLResponse(render_live(self.recent, audit, texts=texts), headers=page_headers())

    async def show_metrics(self, request: Request) -> Response:
        """For Prometheus."""
        self.door.check(request.headers)
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def describe(self, request: Request) -> Response:
        """The OpenAPI description."""
        self.door.check(request.headers, browser=True)
        models, limits = self.generations.now.models, self.settings.requests
        admin = self._admin_door is not None
        return json_response(
            openapi_description(models, limits, keys=self.door.wants_keys, admin=admin)
        )

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "pyramid-moa"}
