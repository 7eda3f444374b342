"""The ``openai`` client as the backend uses it: bounded answers, and nothing of the environment."""

import asyncio
import importlib
import os
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import openai

from pyramid_moa.backends.hidden_states_file import new_name, opt_in, requested_name
from pyramid_moa.backends.openai_endpoint import Endpoint

__all__ = ["MAX_BODY_BYTES", "TooLargeError", "open_client", "response_type", "transport_error"]

MAX_BODY_BYTES = 32 << 20

_CONNECT_S = 10.0
# Servers such as vLLM's close a connection after 5 idle seconds: ours goes first, so that no
# request is sent into one that is just being closed.
_KEEP_ALIVE_S = 4.0


class TooLargeError(openai.OpenAIError):
    """A server's answer is larger than anything that was asked for; the client does not retry."""


def _http_library() -> Any:  # noqa: ANN401 - one of two libraries of like interface
    """The library under the client: httpx for openai 2, httpx2 since openai 3."""
    base = openai.DefaultAsyncHttpxClient.__mro__[1]
    return importlib.import_module(base.__module__.partition(".")[0])


def response_type() -> Any:  # noqa: ANN401 - a class of one of two libraries
    """What to ask the client for to get an answer unread: its HTTP library's response."""
    return _http_library().Response


def transport_error() -> type[Exception]:
    """What the HTTP library raises where a connection breaks while an answer is read live."""
    error: type[Exception] = _http_library().HTTPError
    return error


def open_client(
    endpoint: Endpoint,
    *,
    max_concurrency: int,
    timeout_s: float,
    max_retries: int,
    live: bool = False,
) -> openai.AsyncOpenAI:
    """Build a client that sends an endpoint its own key and nothing else.

    Args:
        endpoint: the server.
        max_concurrency: connections at once.
        timeout_s: seconds for one request.
        max_retries: further tries, which honour Retry-After.
        live: give answers as they come; the timeout is then one between two pieces, and whoever
            reads them bounds them.
    """
    http = _http_library()
    client = _Client(
        api_key=endpoint.key,
        base_url=endpoint.base_url,
        timeout=http.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S), pool=None),
        max_retries=max_retries,
        default_headers=None if endpoint.is_openai else _own_headers(endpoint),
        http_client=_http_client(
            http, endpoint, max_concurrency, _bounded_client(http, timeout_s, live=live)
        ),
    )
    # The client takes these from the environment, where they mean an account with OpenAI.
    client.admin_api_key = None
    if not endpoint.is_openai:
        client.organization = None
        client.project = None
    return client


class _Client(openai.AsyncOpenAI):
    """Names the hidden states that a request asks for anew at each try."""

    async def _prepare_options(self, options: Any) -> Any:  # noqa: ANN401 - the client's own type
        """Change a try's copy of the request: the client calls this before each.

        A retry under the same name could be given what the first try left behind.
        """
        options = await super()._prepare_options(options)
        body = options.json_data
        if isinstance(body, dict) and requested_name(body.get("kv_transfer_params")) is not None:
            options.json_data = {**body, "kv_transfer_params": opt_in(new_name())}
        return options


def _own_headers(endpoint: Endpoint) -> dict[str, Any]:
    """Headers that keep those of OPENAI_CUSTOM_HEADERS from a server they were not meant for."""
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    names = [line.partition(":")[0].strip() for line in lines if ":" in line]
    return {
        **{name: openai.Omit() for name in names if name.lower() != "authorization"},
        "Authorization": f"Bearer {endpoint.key}",
    }


def _bounded_client(
    http: Any,  # noqa: ANN401 - one of two libraries of like interface
    timeout_s: float,
    *,
    live: bool,
) -> type[Any]:
    if live:
        return openai.DefaultAsyncHttpxClient

    class BoundedClient(openai.DefaultAsyncHttpxClient):
        """Reads at most so much of an answer, and takes at most so long over all of it."""

        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:  # noqa: ANN401 - as in the library
            try:
                # The library's own timeouts start anew with every byte.
                async with asyncio.timeout(timeout_s):
                    answer = await super().send(request, stream=True, **options)
                    try:
                        body = await _read(answer)
                    finally:
                        await answer.aclose()
            except TimeoutError as error:
                raise http.ReadTimeout("no complete answer in time", request=request) from error
            headers = [
                (name, value)
                for name, value in answer.headers.multi_items()
                if name not in ("content-encoding", "content-length", "transfer-encoding")
            ]
            return http.Response(answer.status_code, headers=headers, content=body, request=request)

    return BoundedClient


def _http_client(
    http: Any,  # noqa: ANN401 - one of two libraries of like interface
    endpoint: Endpoint,
    max_concurrency: int,
    kind: type[Any],
) -> Any:  # noqa: ANN401 - a client of that library
    return kind(
        limits=http.Limits(
            max_connections=max_concurrency,
            max_keepalive_connections=max_concurrency,
            keepalive_expiry=_KEEP_ALIVE_S,
        ),
        mounts=_direct(endpoint.base_url),
        # Prompts and keys go where the user said and nowhere else.
        follow_redirects=False,
    )


async def _read(answer: Any) -> bytes:  # noqa: ANN401 - a response of one of two libraries
    chunks, size = [], 0
    async for chunk in answer.aiter_bytes():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)


def _direct(base_url: str) -> dict[str, None]:
    """No proxy for this machine's own servers, whatever the environment says about proxies."""
    host = urlsplit(base_url).hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    shown = f"[{host}]" if ":" in host else host
    return {f"all://{shown}": None} if loopback else {}
