"""Several coroutines or streams at once: the first error ends all, and leaving ends the rest."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

__all__ = ["all_of", "merged"]

_T = TypeVar("_T")


async def all_of(works: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Wait for all; the first error cancels the others and is raised as it is."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def merged(
    streams: Sequence[AsyncGenerator[_T, None]],
) -> AsyncGenerator[tuple[int, _T], None]:
    """Give the items of all streams as they come.

    Yields:
        The number of the stream, from 0, and its item.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    # One place: whoever reads slowly slows all of them down, and nothing piles up.
    ready: asyncio.Queue[tuple[int, _T]] = asyncio.Queue(maxsize=1)

    async def pump(number: int) -> None:
        async with aclosing(streams[number]) as stream:
            async for item in stream:
                await ready.put((number, item))

    pumps = asyncio.ensure_future(all_of([pump(number) for number in range(len(streams))]))
    taken: asyncio.Future[tuple[int, _T]] | None = None
    try:
        while not pumps.done() or not ready.empty():
            taken = asyncio.ensure_future(ready.get())
            await asyncio.wait({taken, pumps}, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                yield taken.result()
            elif ready.empty():
                break
            else:
                taken.cancel()
        await pumps
    finally:
        if taken is not None:
            taken.cancel()
        pumps.cancel()
        await asyncio.gather(pumps, return_exceptions=True)
