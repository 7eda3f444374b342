"""How many requests are worked on at once, how many wait, and what the rest are told."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from pyramid_moa.inference.gateway.api_error import overloaded
from pyramid_moa.inference.gateway.settings import Load
from pyramid_moa.inference.gateway.tracing import stage

__all__ = ["Admission"]

# How much of the last request's time goes into what the next ones are expected to take.
_NEW_SHARE = 0.1


class Admission:
    """Bounds the work of one event loop.

    Attributes:
        working: requests that are worked on.
        waiting: requests that wait for their turn.
        held_bytes: of the bodies of all requests that are here.
    """

    def __init__(self, load: Load) -> None:
        """Begin with nothing to do."""
        self.working = 0
        self.waiting = 0
        self.held_bytes = 0
        self._load = load
        self._places = asyncio.Semaphore(load.max_concurrency)
        self._typical_s = 1.0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Count what a request holds of its body while the ``with`` body runs.

        Yields:
            What is told the size of each part, in bytes, as it comes; it raises an ApiError as
            below when all requests together hold more than they may.

        Raises:
            ApiError: 429: too many wait already, so that reading the body would be for nothing.
        """
        self._check_queue()
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self.held_bytes + size > self._load.bodies_bytes:
                raise overloaded(self._wait_s())
            own += size
            self.held_bytes += size

        try:
            yield take
        finally:
            self.held_bytes -= own

    @asynccontextmanager
    async def turn(self, *, until: float) -> AsyncIterator[None]:
        """Wait for a place, and keep it while the body runs.

        Args:
            until: when the request's time is over, on the event loop's clock.

        Raises:
            ApiError: 429, with the seconds after which a place may be free: too many wait, or this
                one has waited too long.
        """
        self._check_queue()
        self.waiting += 1
        try:
            longest = asyncio.get_running_loop().time() + self._load.queue_wait_s
            with stage("admission"):
                async with asyncio.timeout_at(min(longest, until)):
                    await self._places.acquire()
        except TimeoutError:
            raise overloaded(self._wait_s()) from None
        finally:
            self.waiting -= 1
        started = time.monotonic()
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1
            self._places.release()
            seconds = time.monotonic() - started
            self._typical_s += _NEW_SHARE * (seconds - self._typical_s)

    def _check_queue(self) -> None:
        if self._places.locked() and self.waiting >= self._load.max_queue:
            raise overloaded(self._wait_s())

    def _wait_s(self) -> float:
        """Until those who wait now have had their turn."""
        rounds = (self.waiting + 1) / self._load.max_concurrency
        return max(1.0, rounds * self._typical_s)
