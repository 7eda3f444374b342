"""Replies in JSON, errors among them."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.reply import json_text

__all__ = ["error_response", "json_response", "own_fault"]


def json_response(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A reply that holds this."""
    return Response(json_text(body), status, dict(headers or {}), media_type="application/json")


def error_response(error: ApiError) -> Response:
    """What a client is told of an error."""
    return json_response(error.body(), status=error.status, headers=error.headers)


def own_fault() -> ApiError:
    """A fault of the gateway's own, of which the client is only told that it is one."""
    return ApiError(500, "the gateway has a fault; its log says more", code="internal_error")
