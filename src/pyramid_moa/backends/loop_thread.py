"""An event loop in a thread of its own, for code that is called with and without one."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["LoopThread"]

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines in one event loop, whoever asks and from wherever.

    Connections belong to the loop that opened them. One loop for the life of a backend lets them
    survive between calls, also where each call comes from a loop of its own.
    """

    def __init__(self, name: str, *, at_end: Callable[[], Awaitable[None]]) -> None:
        """Start the thread; it ends with ``close`` or with the process.

        Args:
            name: of the thread, as debuggers show it.
            at_end: run in the loop when all else has ended there.
        """
        self._at_end = at_end
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop
        self._closing: asyncio.Event
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    def submit(self, work: Coroutine[object, object, _T]) -> "Future[_T]":
        """Start a coroutine in the loop; cancelling the future cancels it.

        Raises:
            RuntimeError: the thread has been closed.
        """
        # Nothing may be handed to the loop after it was told to end: nobody would run it.
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError("the event loop has been closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what is under way and end the thread; a second time does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._stay())

    async def _stay(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._ready.set()
        await self._closing.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._at_end()
