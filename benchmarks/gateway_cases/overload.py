"""More requests than can be answered, each of a client of its own with a connection of its own."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway_cases.load import request_bytes

__all__ = ["Overload", "bears", "overload"]

_CLIENTS = 16
_LONGEST_S = 60.0
_NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True)
class Overload:
    """What became of the requests.

    Attributes:
        rate: requests a second.
        seconds: that each took, by the status of its answer; 0 for none.
    """

    rate: float
    seconds: Mapping[int, list[float]] = field(default_factory=dict)

    def count(self, status: int) -> int:
        """How many were answered so."""
        return len(self.seconds.get(status, ()))

    def percentile(self, status: int, percent: int) -> float:
        """Of the seconds of those."""
        ordered = sorted(self.seconds.get(status, [0.0]))
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    @property
    def unanswered(self) -> int:
        """How many got something else than an answer or Retry-After's 429."""
        return sum(len(own) for status, own in self.seconds.items() if status not in (200, 429))


async def bears(port: int, model: str, *, seconds: float) -> float:
    """Requests a second of clients of which each waits for its answer before the next comes."""
    count, begun = 0, time.perf_counter()

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < begun + seconds:
            await _asked(port, request_bytes(model, keeps=False))
            count += 1

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return count / (time.perf_counter() - begun)


async def overload(port: int, model: str, *, rate: float, seconds: float) -> Overload:
    """Begin a request every so often, whether the earlier ones have been answered or not."""
    found: dict[int, list[float]] = {}

    async def client() -> None:
        status, took = await _asked(port, request_bytes(model, keeps=False))
        found.setdefault(status, []).append(took)

    begun, tasks = time.perf_counter(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(client()))
    await asyncio.gather(*tasks)
    return Overload(rate=rate, seconds=found)


async def _asked(port: int, request: bytes) -> tuple[int, float]:
    begun, status = time.perf_counter(), _NO_ANSWER
    try:
        async with asyncio.timeout(_LONGEST_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            try:
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
        if b"\r\n\r\n" in answer:
            status = int(answer[9:12])
    except (OSError, TimeoutError):
        pass  # no answer, and counted so
    return status, time.perf_counter() - begun
