"""uvicorn's faster reading of HTTP, with the bound on a request's head that it lacks."""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.reply import json_text

__all__ = ["bounded_http"]


class _HeadTooLargeError(Exception):
    """Raised amid parsing, which ends it."""


def bounded_http(most_bytes: int) -> type[asyncio.Protocol]:
    """Make the protocol of a server's connections.

    Args:
        most_bytes: of a request's head; a longer one is answered 431, and the connection closed.
    """
    return type("BoundedHttp", (_BoundedHttp,), {"most_bytes": most_bytes})


class _BoundedHttp(HttpToolsProtocol):
    """One connection."""

    most_bytes: ClassVar[int]

    _head_bytes = 0
    # Of what has been read since the parser last told of anything: a line that never ends.
    _untold_bytes = 0
    _told = False

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._told = False
        super().data_received(data)
        self._untold_bytes = 0 if self._told else self._untold_bytes + len(data)
        if self._untold_bytes > self.most_bytes and not self.transport.is_closing():
            self._refuse(_too_large(self.most_bytes))

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or what a client sends like one behind its body."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which the application bounds."""
        self._told = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, and close the connection."""
        if self._head_bytes > self.most_bytes:
            self._refuse(_too_large(self.most_bytes))
        else:
            self._refuse(ApiError(400, "expected a request of HTTP/1.1, found something else"))

    def _count(self, size: int) -> None:
        self._told = True
        self._head_bytes += size
        if self._head_bytes > self.most_bytes:
            raise _HeadTooLargeError

    def _refuse(self, error: ApiError) -> None:
        body = json_text(error.body())
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
        self.transport.close()


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        431, f"expected a head of at most {most_bytes} bytes, found more", code="head_too_large"
    )
