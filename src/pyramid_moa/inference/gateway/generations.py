"""The gateway that answers now, and those before it that still have something to finish."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pyramid_moa.errors import ConfigError, PyramidError
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.gateway import Gateway

__all__ = ["Generations"]

_log = logging.getLogger("pyramid_moa.gateway")


class _Generation:
    """A gateway with its gate, and how many requests it is working on."""

    def __init__(self, gate: Gate, gateway: Gateway) -> None:
        self.gate = gate
        self.gateway = gateway
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def close(self) -> None:
        """Wait for its last request, then close everything of it."""
        await self.idle.wait()
        try:
            await self.gateway.close()
        finally:
            # Its models take memory as long as they are there.
            await asyncio.to_thread(self.gate.close)


class Generations:
    """Swaps one gateway for another without a request noticing; belongs to one event loop."""

    def __init__(
        self,
        gate: Gate,
        build: Callable[[Gate], Gateway],
        *,
        retired: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with a gate, which is closed when another has taken its place, or in the end.

        Args:
            gate: the first one.
            build: makes a gateway of a gate.
            retired: told when one that was replaced has been closed.
        """
        self._build = build
        self._retired = retired
        self._current = _Generation(gate, build(gate))
        self._swapping = asyncio.Lock()
        self._swaps: set[asyncio.Task[None]] = set()
        self._next: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def now(self) -> Gateway:
        """The one that answers now, for what takes no time."""
        return self._current.gateway

    @asynccontextmanager
    async def using(self) -> AsyncIterator[Gateway]:
        """The one that answers now, kept until the body is done with it."""
        generation = self._current
        generation.users += 1
        generation.idle.clear()
        try:
            yield generation.gateway
        finally:
            generation.users -= 1
            if not generation.users:
                generation.idle.set()

    async def swap(self, open_gate: Callable[[], Gate]) -> None:
        """Open another gate, and let it answer from then on if it is good.

        It goes on if whoever wanted it no longer waits: the thread that loads can't be stopped, and
        what it brings has to be closed some day. Until it begins, who wants another waits for the
        same. Where models run in this process, it begins when those that were replaced before are
        closed: there are never more than two of each.

        Args:
            open_gate: reads the files and loads what they name; run in a thread.

        Raises:
            PyramidError: it is not, or all are to be closed; the one before answers on, and the log
                says why.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._swap(open_gate))
            self._swaps.add(self._next)
            self._next.add_done_callback(self._swaps.discard)
        await asyncio.shield(self._next)

    async def _swap(self, open_gate: Callable[[], Gate]) -> None:
        async with self._swapping:
            if self._retiring and self.now.has_own_models:
                _log.info("a reload waits for the models that the one before has replaced")
                await asyncio.wait(self._retiring)
            self._next = None
            try:
                fresh = await self._opened(open_gate)
            except PyramidError as error:
                _log.error("not reloaded, the one before serves on: %s", error)
                raise
            except Exception:
                _log.exception("not reloaded, the one before serves on: a fault of the gateway's")
                raise
            before, self._current = self._current, fresh
            task = asyncio.ensure_future(self._retire(before))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            _log.info("reloaded")

    async def _opened(self, open_gate: Callable[[], Gate]) -> _Generation:
        self._refuse_if_closed()
        gate = await asyncio.to_thread(open_gate)
        try:
            self._refuse_if_closed()
            return _Generation(gate, self._build(gate))
        except BaseException:
            await asyncio.to_thread(gate.close)
            raise

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ConfigError("expected a gateway that goes on, found one that ends")

    async def _retire(self, before: _Generation) -> None:
        try:
            await before.close()
        except Exception:
            _log.exception("what was replaced could not be closed")
        self._retired()

    async def close(self) -> None:
        """Close all of them, when no request is left and nothing is loaded any more."""
        self._is_closed = True
        async with self._swapping:
            try:
                await self._current.close()
            finally:
                await asyncio.gather(*self._retiring)
