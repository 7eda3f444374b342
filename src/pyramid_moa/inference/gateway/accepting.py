"""Takes in all connections that wait, whenever the event loop comes round.

uvloop takes in one of them (libuv has it so since its 1.45). A busy loop comes round rarely, and
then clients wait in the kernel's backlog, where nobody tells them that there is too much to do, for
longer than any deadline.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Collection

__all__ = ["Acceptor"]

_LOG = logging.getLogger("pyramid_moa.gateway")
_BACKLOG = 2048
# Taken in at most before anything else has its turn.
_AT_ONCE = 256
# How long nobody is taken in where there is no room.
_PAUSE_S = 0.1
# How often that is said.
_SAID_S = 60.0


class Acceptor:
    """Listens at a socket in the running event loop."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        protocol: Callable[[], asyncio.Protocol],
        connections: Collection[object],
        most: int,
        make_room: Callable[[], object],
    ) -> None:
        """Begin to listen.

        Args:
            listener: bound to its address; stays the caller's to close.
            protocol: makes that of a connection.
            connections: that are open, as the protocols keep it.
            most: of those; further ones wait in the backlog.
            make_room: called where there is none: closes connections that nobody uses.
        """
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._most = most
        self._make_room = make_room
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._said = -math.inf
        self._listen()

    def close(self) -> None:
        """Take in no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if len(self._connections) + len(self._opening) >= self._most:
                self._rest(f"{self._most} connections are open, as many as there may be")
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Too many open files, or no memory for one more: the loop would ask without end.
                self._rest(error.strerror or str(error))
                return
            connection.setblocking(False)
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            # What is written goes out at once, and not with what is written next.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            # It has gone again.
            connection.close()

    def _rest(self, why: str) -> None:
        self._loop.remove_reader(self._listener)
        self._make_room()
        if self._loop.time() - self._said >= _SAID_S:
            self._said = self._loop.time()
            _LOG.warning("new connections wait: %s", why)
        self._pause = self._loop.call_later(_PAUSE_S, self._listen)
