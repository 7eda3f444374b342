"""uvicorn's faster reading of HTTP, with the bounds on a connection that it lacks.

Of itself it bounds how long a connection rests between two requests, and nothing else. Whoever
opened many and sent half a line on each would hold them for ever, and so would whoever asks and
reads no answer: closing waits until all has been taken. And it takes in any number of requests
behind one that is under way, and then no longer sees that the client hangs up.

It also loses the body of a request that offers another protocol, as Java's client of HTTP does of
itself, where a server is free to go on as if nothing had been offered (RFC 9110, 7.8).
"""

import asyncio
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.reply import json_text
from pyramid_moa.inference.gateway.settings import RequestLimits

__all__ = ["CUT_OFF", "BoundedHttp", "bounded_http"]

CUT_OFF = "pyramid_moa.cut_off"
"""An extension of a request's scope: ``now`` is a function that ends its connection at once."""

# One that takes nothing of its answer for so many seconds has as good as gone.
_WRITE_S = 30.0
# How often a connection is looked at within the shortest time that it may take.
_LOOKS = 10


class _NoMoreError(Exception):
    """Raised amid parsing, which ends it."""


def bounded_http(limits: RequestLimits) -> "type[BoundedHttp]":
    """Make the protocol of a server's connections.

    Args:
        limits: ``header_bytes`` of a request's head, a longer one is answered 431 and the
            connection closed; ``head_s`` for a head to be there, else the connection is cut off.
    """
    known = {"most_bytes": limits.header_bytes, "head_s": limits.head_s, "write_s": _WRITE_S}
    return type("BoundedHttp", (BoundedHttp,), known)


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    most_bytes: ClassVar[int]
    head_s: ClassVar[float]
    write_s: ClassVar[float]

    _head_bytes = 0
    # Of what has been read since the parser last told of anything: a line that never ends.
    _untold_bytes = 0
    _told = False
    # Another request came before the answer to the one before.
    _is_deaf = False
    # A head that has been heard is read again; see ``_parse``.
    _is_known = False
    # What is waited for, and since when; see ``_awaited``.
    _before: tuple[object, ...] | None = None
    _since = 0.0
    _next_look: asyncio.TimerHandle | None = None

    # A server's transports are whole ones, as uvicorn's own class has it.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look whether anything comes and goes."""
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._is_deaf:
            return
        self._told = False
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse_head()
        self._untold_bytes = 0 if self._told else self._untold_bytes + len(data)
        if self._untold_bytes > self.most_bytes:
            self._refuse(_too_large(self.most_bytes))

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            # The parser takes what follows for the other protocol. One that is told no more of the
            # head than how its body comes reads on.
            framed = [
                name + b": " + value + b"\r\n"
                for name, value in self.headers
                if name in (b"content-length", b"transfer-encoding")
            ]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._is_known = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framed) + b"\r\n")
            self._parse(data[offered.args[0] :])

    def on_message_begin(self) -> None:
        """Begin to count, unless a request is under way.

        Its answer is then the last one on the connection: clients that ask ahead have to ask again
        what a closed connection has left open (RFC 9112, 9.3.2). Reading goes on, for only who
        reads sees that the other side has gone; what is read is thrown away.
        """
        if self._is_known:
            return
        if self._is_working:
            self.cycle.keep_alive = False
            self._is_deaf = True
            raise _NoMoreError
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {CUT_OFF: {"now": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        """Count a part of the address."""
        if self._is_known:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or what a client sends like one behind its body."""
        if self._is_known:
            return
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless that has been done."""
        if self._is_known:
            self._is_known = False
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body, unless the parser only thinks that there is none."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which the application bounds."""
        self._told = True
        super().on_body(body)

    def leave_if_resting(self) -> None:
        """Close the connection if it waits for another request, of which nothing has come."""
        if self.timeout_keep_alive_task is not None:
            self.transport.close()

    def _refuse_head(self) -> None:
        """Answer what is no HTTP, or too much of it, and close the connection."""
        if self._head_bytes > self.most_bytes:
            self._refuse(_too_large(self.most_bytes))
        else:
            self._refuse(ApiError(400, "expected a request of HTTP/1.1, found something else"))

    def _count(self, size: int) -> None:
        self._told = True
        self._head_bytes += size
        if self._head_bytes > self.most_bytes:
            raise _NoMoreError

    def _refuse(self, error: ApiError) -> None:
        # What has come behind a request leaves its answer whole.
        if self._is_deaf or self.transport.is_closing():
            return
        body = json_text(error.body())
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
        self.transport.close()

    @property
    def _is_working(self) -> bool:
        # None before the first one.
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _awaited(self) -> tuple[object, ...] | None:
        """What the client has to do, as it looks now; it has done something when that changes."""
        if unread := self.transport.get_write_buffer_size():
            return ("read", unread)
        if not self._is_working and self.timeout_keep_alive_task is None:
            # Neither at work nor at rest: part of a head has come, or nothing. What is left of a
            # body after its answer counts, too: it holds the connection as well.
            return ("send", self.cycle)
        return None

    def _look(self) -> None:
        now, awaited = self.loop.time(), self._awaited()
        if awaited is None or awaited != self._before:
            self._before, self._since = awaited, now
        elif now - self._since >= (self.write_s if awaited[0] == "read" else self.head_s):
            # Not closed: that would wait for what is unread.
            self.transport.abort()
            return
        pause_s = min(self.head_s, self.write_s) / _LOOKS
        self._next_look = self.loop.call_later(pause_s, self._look)


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        431, f"expected a head of at most {most_bytes} bytes, found more", code="head_too_large"
    )
