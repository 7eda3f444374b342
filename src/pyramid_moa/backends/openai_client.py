"""The HTTP client of OpenAI-compatible servers: bounded answers, patient tries, no other's keys.

On aiohttp, not on the ``openai`` package, whose every request costs several times the processor
time, which is what a gateway that asks three models at once has least of.
"""

import asyncio
import os
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import certifi
from yarl import URL

from pyramid_moa import __version__
from pyramid_moa.backends.event_stream import EventStream
from pyramid_moa.backends.openai_endpoint import Endpoint
from pyramid_moa.backends.openai_errors import (
    ServerError,
    StatusError,
    TooLargeError,
    TooSlowError,
    UnreachableError,
)
from pyramid_moa.backends.openai_proxy import basic_credentials, proxy_for
from pyramid_moa.backends.outgoing import outgoing_headers

__all__ = ["MAX_BODY_BYTES", "OpenAIClient"]

MAX_BODY_BYTES = 32 << 20

_CONNECT_S = 10.0
# Servers such as vLLM's close a connection after 5 idle seconds: ours goes first, so that no
# request is sent into one that is just being closed.
_KEEP_ALIVE_S = 4.0
# The pauses between tries where the server asks for none are those of OpenAI's own client: what
# servers are tuned to.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
# Servers close a stream's HTTP in a write of their own, right after what they say last.
_END_S = 0.1
_DONE = b"[DONE]"
_T = TypeVar("_T")


class OpenAIClient:
    """Sends an endpoint its own key and nothing else; belongs to the event loop that uses it.

    Cancelling a request closes its connection at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_concurrency: int,
        timeout_s: float,
        max_retries: int,
        longest_pause_s: float,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            endpoint: the server.
            max_concurrency: connections at once.
            timeout_s: seconds for one try; of a stream, between two pieces of it.
            max_retries: further tries, which honour Retry-After.
            longest_pause_s: seconds that a server may have a further try wait; where it asks for
                more there is none.

        Raises:
            ConfigError: the environment names a proxy that speaks no HTTP.
        """
        parts = urlsplit(endpoint.base_url)
        own = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self.headers = _headers(endpoint)
        self._parts = own._replace(path=own.path.rstrip("/"), fragment="")
        self._urls: dict[str, URL] = {}
        self._proxy = proxy_for(endpoint.base_url)
        if self._proxy is not None and parts.scheme == "http":
            # Such a proxy reads the request itself; one for TLS is told when it opens the tunnel.
            self.headers |= self._proxy.headers
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._longest_pause_s = longest_pause_s
        connect_s = min(timeout_s, _CONNECT_S)
        self._timeout_s = timeout_s
        self._for_all = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        self._for_a_piece = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_s, sock_read=timeout_s
        )
        self._session: aiohttp.ClientSession | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def url(self, path: str) -> URL:
        """The address of a path such as ``/models``."""
        if path not in self._urls:
            whole = self._parts._replace(path=f"{self._parts.path}{path}")
            self._urls[path] = URL(whole.geturl())
        return self._urls[path]

    async def get(self, path: str) -> bytes:
        """Fetch a page; see ``post``."""
        return await self._tried(lambda: self._whole("GET", path, None))

    async def post(self, path: str, body: Callable[[], bytes]) -> bytes:
        """Send a request, again where that may help, and read the answer.

        Args:
            path: such as ``/chat/completions``.
            body: makes the body of each try, as JSON.

        Returns:
            The body of the answer.

        Raises:
            ServerError: there is none.
        """
        return await self._tried(lambda: self._whole("POST", path, body()))

    async def stream(self, path: str, body: Callable[[], bytes]) -> AsyncGenerator[bytes, None]:
        """Send a request, again where that may help, and give the events of the answer.

        Args:
            path: such as ``/chat/completions``.
            body: makes the body of each try, as JSON.

        Yields:
            The data of each event but the last one, which says that all is done.

        Raises:
            BackendError: an event is larger than any could be.
            ServerError: there is no answer, or it broke off.
        """
        answer = await self._tried(lambda: self._opened(path, body()))
        events, is_done = EventStream(), False
        try:
            with _translated():
                async for piece in answer.content.iter_any():
                    for data in events.feed(piece):
                        if is_done := data.startswith(_DONE):
                            return
                        yield data
        finally:
            if is_done:
                self._let_end(answer)
            else:
                # Closed where it has not come to its end, which the loop does in its next turn.
                answer.release()
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the connections."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _let_end(self, answer: aiohttp.ClientResponse) -> None:
        """Read what comes after the last event while nobody waits for it.

        Only a connection that has been read to its end can be used again.
        """
        if not answer.closed:
            task = asyncio.create_task(_read_to_its_end(answer))
            self._ending.add(task)
            # Not by the task itself, which may be cancelled before its first step.
            task.add_done_callback(lambda _: answer.release())
            task.add_done_callback(self._ending.discard)

    async def _whole(self, method: str, path: str, body: bytes | None) -> bytes:
        # Not by aiohttp's own total, which takes a caller's cancellation for itself where both come
        # at once: the call would go on, and be made again.
        with _translated():
            async with asyncio.timeout(self._timeout_s):
                answer = await self._send(method, path, body, self._for_all)
                try:
                    content = await _read(answer)
                finally:
                    answer.release()
        if not 200 <= answer.status < 300:
            raise StatusError(answer.status, answer.headers, content)
        return content

    async def _opened(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send, and wait for the head of a good answer."""
        with _translated():
            answer = await self._send("POST", path, body, self._for_a_piece)
            if 200 <= answer.status < 300:
                return answer
            try:
                async with asyncio.timeout(self._timeout_s):
                    content = await _read(answer)
            finally:
                answer.release()
        raise StatusError(answer.status, answer.headers, content)

    async def _send(
        self, method: str, path: str, body: bytes | None, limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._open_session()
        proxy = self._proxy
        return await self._session.request(
            method,
            self.url(path),
            data=body,
            # Not the session's: those would be shown to a proxy as well, the key among them.
            headers={**self.headers, **outgoing_headers()},
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=proxy.headers if proxy is not None else None,
            timeout=limits,
            # Prompts and keys go where the user said and nowhere else.
            allow_redirects=False,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        secure = self._parts.scheme == "https"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_concurrency,
                keepalive_timeout=_KEEP_ALIVE_S,
                ssl=_trusted() if secure else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _tried(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until there is an answer, or to ask again is no use.

        By hand: how long to wait is the server's to say, which libraries for tries can't be told.
        """
        for number in range(self._max_retries + 1):
            try:
                return await ask()
            except ServerError as error:
                if number == self._max_retries or not _may_pass(error):
                    raise
                if _asked_pause_s(error) > self._longest_pause_s:
                    raise
                pause_s = _asked_pause_s(error) or _own_pause_s(number)
            await asyncio.sleep(min(pause_s, self._longest_pause_s))
        raise AssertionError("the last try returns or raises")


def _trusted() -> ssl.SSLContext:
    """What is believed to be a server: whom SSL_CERT_FILE and SSL_CERT_DIR name, where one is set.

    Otherwise whom the system trusts, and Mozilla, since small containers have no list of their own.
    """
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        context.load_verify_locations(certifi.where())
    return context


@contextmanager
def _translated() -> Iterator[None]:
    """Say what aiohttp raises in words of our own: those of the library name addresses.

    Raises:
        ServerError: in place of an error of aiohttp.
    """
    try:
        yield
    except TimeoutError as error:
        raise TooSlowError("no complete answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(_why(error)) from error


def _why(error: Exception) -> str:
    where = "the proxy: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "")
        return f"{where}its certificate is not trusted: {reason}"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError):
        return f"{where}TLS failed: {cause.reason}"
    if isinstance(cause, OSError) and cause.errno:
        # A name that is not known has a number of its own, and its text names nobody.
        own = cause.strerror if cause.errno < 0 else os.strerror(cause.errno)
        return f"{where}{own}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it answered with something that is no HTTP"
    return f"{where}the connection broke off"


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read_to_its_end(answer: aiohttp.ClientResponse) -> None:
    # An end that breaks off, or does not come, takes nothing from an answer that is whole.
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(_END_S):
            async for _ in answer.content.iter_any():
                continue


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {endpoint.key}",
        "User-Agent": f"pyramid-moa/{__version__}",
    }
    # A user and a password in the address are what the server is opened with.
    if (credentials := basic_credentials(endpoint.base_url)) is not None:
        headers["Authorization"] = credentials
    if endpoint.is_openai:
        for name, variable in (("Organization", "ORG_ID"), ("Project", "PROJECT_ID")):
            if own := os.environ.get(f"OPENAI_{variable}", "").strip():
                headers[f"OpenAI-{name}"] = own
    return headers


def _may_pass(error: ServerError) -> bool:
    if not isinstance(error, StatusError):
        return not isinstance(error, TooLargeError)
    said = error.headers.get("x-should-retry")
    if said == "false":
        return False
    return said == "true" or error.status in (408, 409, 429) or error.status >= 500


def _asked_pause_s(error: ServerError) -> float:
    return (error.retry_after_s or 0.0) if isinstance(error, StatusError) else 0.0


def _own_pause_s(tries: int) -> float:
    # Shorter by chance, so that those who were refused together do not come back together.
    return min(_FIRST_PAUSE_S * 2.0 ** min(tries, 10), _LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)
