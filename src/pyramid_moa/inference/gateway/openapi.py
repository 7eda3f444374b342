"""The OpenAPI description of what is served, made from the models that read the requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from pyramid_moa import __version__
from pyramid_moa.inference.gateway.api_request import ChatRequest, PyramidOptions, TextRequest
from pyramid_moa.inference.gateway.explanation import IN_HEADERS
from pyramid_moa.inference.gateway.replies_described import REPLY_SCHEMAS
from pyramid_moa.inference.gateway.settings import RequestLimits

__all__ = ["openapi_description"]

_REFS = "#/components/schemas/{model}"
# What each status means, and the header that comes with it.
_ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("The request can't be answered as it is; `param` names the field", None),
    401: ("No key of this gateway, or another", "www-authenticate"),
    403: ("Asked for under a name that is not this machine's, or not set up", None),
    404: ("No such model", None),
    408: ("The request took too long to come", None),
    409: ("Not reloaded; the one before serves on", None),
    413: ("More bytes than `requests.body_bytes`", None),
    415: ("The body is said to be something else than JSON", None),
    429: ("More requests than are worked on and queued", "retry-after"),
    431: ("A head of more than `requests.header_bytes`", None),
    500: ("A fault of the gateway's own", None),
    503: ("No model that could answer does", "retry-after"),
}
_ABOUT = """\
Gated inference behind OpenAI's API: members answer, a router decides whether the oracle is asked.

Every error has OpenAI's form, `{"error": {"message", "type", "param", "code"}}`; wrong fields are
400 (never 422), unknown paths 404 and other methods 405 with `Allow`."""


def openapi_description(
    models: Sequence[str], limits: RequestLimits, *, keys: bool, admin: bool
) -> dict[str, Any]:
    """Describe a gateway by OpenAPI 3.1.

    Args:
        models: names that it answers to.
        limits: of a request.
        keys: whether clients need one.
        admin: whether somebody may reload it by HTTP.
    """
    _, made = models_json_schema(
        [(ChatRequest, "validation"), (TextRequest, "validation"), (PyramidOptions, "validation")],
        ref_template=_REFS,
    )
    requests = made["$defs"]
    for name in ("ChatRequest", "TextRequest"):
        _narrow(requests[name]["properties"], models, limits)
    mine: list[dict[str, list[str]]] = [{"apiKey": []}, {"browser": []}] if keys else []
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pyramid MoA", "version": __version__, "description": _ABOUT},
        "security": mine,
        "paths": {
            "/v1/chat/completions": _completions("ChatRequest", "Chat", requests),
            "/v1/completions": _completions("TextRequest", "Text", requests),
            "/v1/models": {"get": _reading("listModels", "Names to ask for", "ModelList")},
            "/v1/models/{name}": {
                "get": {
                    **_reading("showModel", "One of them", "Model", 404),
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "enum": list(models)},
                        }
                    ],
                }
            },
            "/healthz": {
                "get": {**_reading("health", "The process runs", "Health"), "security": []}
            },
            "/readyz": {"get": _readiness()},
            "/metrics": {"get": _metrics()},
            "/admin/reload": {"post": _reload(admin=admin)},
        },
        "components": {
            "schemas": {**requests, **REPLY_SCHEMAS},
            "responses": {str(status): _error(status) for status in _ERRORS},
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "A client's key"},
                "browser": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A client's key as the password, under any name",
                },
                "adminKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An administrator's key; clients' keys do not open it",
                },
            },
        },
    }


def _narrow(properties: dict[str, Any], models: Sequence[str], limits: RequestLimits) -> None:
    """Put in what this gateway, by its files, takes less of than the models of requests do."""
    properties["model"] = {"type": "string", "enum": list(models)}
    for name, most in (
        ("n", limits.n),
        ("best_of", limits.n),
        ("max_tokens", limits.max_tokens),
        ("max_completion_tokens", limits.max_tokens),
    ):
        if name in properties and most is not None:
            properties[name]["anyOf"][0]["maximum"] = most
    if "messages" in properties:
        properties["messages"]["maxItems"] = limits.messages


def _completions(request: str, reply: str, requests: Mapping[str, Any]) -> dict[str, Any]:
    options = requests["PyramidOptions"]["properties"]
    return {
        "post": {
            "operationId": f"create{reply}Completion",
            "summary": "Ask the pyramid, or one of its models",
            "parameters": [
                {
                    "name": f"x-pyramid-{name.replace('_', '-')}",
                    "in": "header",
                    "description": f"Stands for `pyramid.{name}` where the body leaves it out",
                    # A header that is there says something: leaving it out is its null.
                    "schema": schema["anyOf"][0],
                }
                for name, schema in options.items()
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref(request)}},
            },
            "responses": {
                "200": {
                    "description": "The answer, and why it is what it is",
                    "headers": {
                        "x-request-id": {"schema": {"type": "string"}},
                        **{
                            f"x-pyramid-{name.replace('_', '-')}": {
                                "description": f"`{name}` of the `pyramid` block, where known",
                                "schema": {"type": "string"},
                            }
                            for name in IN_HEADERS
                        },
                    },
                    "content": {
                        "application/json": {"schema": _ref(f"{reply}Reply")},
                        "text/event-stream": {"schema": _event(f"{reply}Chunk")},
                    },
                },
                **_errors(400, 401, 403, 404, 408, 413, 415, 429, 431, 500, 503),
            },
        }
    }


def _event(chunk: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "With `stream: true`, each event. A comment, `: pyramid {...}`, tells the "
        "decision as soon as it falls; the last event is `[DONE]`, or an Error.",
        "properties": {
            "data": {
                "type": "string",
                "anyOf": [
                    {"const": "[DONE]"},
                    {
                        "contentMediaType": "application/json",
                        "contentSchema": {"anyOf": [_ref(chunk), _ref("Error")]},
                    },
                ],
            }
        },
        "required": ["data"],
    }


def _reading(name: str, summary: str, schema: str, *further: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema)}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": content},
            **_errors(401, 403, *further),
        },
    }


def _readiness() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Readiness")}}
    return {
        "operationId": "readiness",
        "summary": "Whether any model can be reached, and which",
        "security": [],
        "responses": {
            "200": {"description": "Some model can", "content": content},
            "503": {"description": "None can", "content": content},
        },
    }


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Figures for Prometheus",
        "responses": {
            "200": {
                "description": "In its text format",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_errors(401, 403),
        },
    }


def _reload(*, admin: bool) -> dict[str, Any]:
    allowed = "" if admin else "; this gateway was started without such keys, so it says 403"
    return {
        "operationId": "reload",
        "summary": f"Read pyramid and checkpoint anew{allowed}",
        "security": [{"adminKey": []}],
        "responses": {
            "200": {
                "description": "Both were good and serve from now on",
                "content": {"application/json": {"schema": _ref("Reloaded")}},
            },
            **_errors(401, 403, 409),
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(model=name)}


def _errors(*statuses: int) -> dict[str, dict[str, str]]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _error(status: int) -> dict[str, Any]:
    said, header = _ERRORS[status]
    described: dict[str, Any] = {
        "description": said,
        "content": {"application/json": {"schema": _ref("Error")}},
    }
    if header is not None:
        described["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return described
