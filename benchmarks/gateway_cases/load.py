"""Requests at a steady rate, and how long each took; and as many as are answered at all."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

__all__ = ["Latencies", "at_a_rate", "one_after_another", "request_bytes"]

_WARM_UP = 30


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """What some requests took.

    Attributes:
        seconds: of each, in the order in which they began.
        wrong: how many had another status than 200.
        wall_s: from the first to the last.
    """

    seconds: list[float]
    wrong: int
    wall_s: float

    def percentile(self, percent: int) -> float:
        """In seconds."""
        return quantiles(self.seconds, n=100)[percent - 1]


def request_bytes(model: str, *, keeps: bool) -> bytes:
    """A request as it goes over the wire; whether its connection is kept for the next one."""
    question = {"role": "user", "content": "How many legs have two spiders?"}
    body = json.dumps({"model": model, "messages": [question]}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"connection: {'keep-alive' if keeps else 'close'}\r\n\r\n"
    )
    return head.encode() + body


class _Connections:
    """Keep-alive connections with nothing but bytes around them, so that little is measured."""

    def __init__(self, port: int, model: str) -> None:
        self._request = request_bytes(model, keeps=True)
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> tuple[float, bool]:
        """One request: its seconds, and whether it was answered."""
        begun = time.perf_counter()
        while pair := self._rested():
            try:
                return await self._answered(*pair, begun)
            except (asyncio.IncompleteReadError, ConnectionError):
                # Closed by its server in the moment in which it was to be used again.
                pair[1].close()
        pair = await self._open()
        begun = time.perf_counter()
        return await self._answered(*pair, begun)

    async def _answered(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: float
    ) -> tuple[float, bool]:
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        seconds = time.perf_counter() - begun
        self._free.append((reader, writer))
        return seconds, head.startswith(b"HTTP/1.1 200 ")

    def _rested(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One that is free; servers close those that have rested for some seconds."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def at_a_rate(ports: Sequence[int], model: str, *, rate: float, requests: int) -> Latencies:
    """Begin a request every so often, whether the earlier ones have been answered or not.

    Args:
        ports: at which each is asked, at once; the slowest answer counts.
        model: likewise.
        rate: requests a second.
        requests: how many.
    """
    servers = [_Connections(port, model) for port in ports]

    async def ask() -> tuple[float, bool]:
        answers = await asyncio.gather(*(server.ask() for server in servers))
        return max(seconds for seconds, _ in answers), all(is_well for _, is_well in answers)

    await asyncio.gather(*(ask() for _ in range(_WARM_UP)))
    begun, tasks = time.perf_counter(), []
    for number in range(requests):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask()))
    found = await asyncio.gather(*tasks)
    wall_s = time.perf_counter() - begun
    for server in servers:
        server.close()
    return _latencies(found, wall_s)


async def one_after_another(port: int, model: str, *, clients: int, requests: int) -> Latencies:
    """Keep some clients busy, each with one request after another."""
    connections = _Connections(port, model)
    await asyncio.gather(*(connections.ask() for _ in range(clients)))
    todo = iter(range(requests))
    found: list[tuple[float, bool]] = []

    async def client() -> None:
        for _ in todo:
            found.append(await connections.ask())

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall_s = time.perf_counter() - begun
    connections.close()
    return _latencies(found, wall_s)


def _latencies(found: list[tuple[float, bool]], wall_s: float) -> Latencies:
    return Latencies(
        seconds=[seconds for seconds, _ in found],
        wrong=sum(not answered for _, answered in found),
        wall_s=wall_s,
    )
