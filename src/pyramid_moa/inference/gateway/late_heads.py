"""Connections on which a request's head does not come, or only a byte at a time.

uvicorn bounds how long a connection rests between two requests, and nothing else: whoever opens
many and sends half a line on each would hold them for ever. Looked at from outside, every second or
so, that costs requests nothing, and it is the same for each of its parsers.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["Connection", "LateHeads"]


class _Cycle(Protocol):
    """A request and its response."""

    response_complete: bool


class _Transport(Protocol):
    def close(self) -> None: ...


class Connection(Protocol):
    """What uvicorn's protocols of HTTP have in common.

    Attributes:
        cycle: the last request on it; None before there was one.
        timeout_keep_alive_task: there while it rests between two requests.
        transport: its end of the wire.
    """

    cycle: _Cycle | None
    timeout_keep_alive_task: object | None
    transport: _Transport


class LateHeads:
    """Closes connections on which a head has been due for too long; belongs to one event loop."""

    def __init__(self, head_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none.

        Args:
            head_s: seconds for a head, from its first byte on, or from the connection on.
            clock: in seconds.
        """
        self._head_s = head_s
        self._clock = clock
        # Since when, and after which request.
        self._due: dict[Connection, tuple[float, _Cycle | None]] = {}

    def close(self, connections: Iterable[Connection]) -> None:
        """Close those that are too late; to be called again and again with all there are."""
        now, before = self._clock(), self._due
        self._due = {}
        for connection in list(connections):
            if not _is_due(connection):
                continue
            since, after = before.get(connection, (now, connection.cycle))
            if after is not connection.cycle:
                # Another request has been answered meanwhile.
                since = now
            if now - since >= self._head_s:
                connection.transport.close()
            else:
                self._due[connection] = (since, connection.cycle)


def _is_due(connection: Connection) -> bool:
    """Whether it neither works on a request nor rests: then part of a head, or nothing, has come.

    What is left of a body after its response counts, too: it holds the connection as well.
    """
    is_working = connection.cycle is not None and not connection.cycle.response_complete
    return not is_working and connection.timeout_keep_alive_task is None
