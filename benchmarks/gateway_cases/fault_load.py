"""Requests at a steady rate at a gateway whose models fail, and what has become of each."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from gateway_cases.faulty_gateway import ServedGateway, question

__all__ = ["Outcome", "Seen", "ask", "at_a_rate", "busy_clients", "request_of"]

Outcome = Literal["answered", "degraded", "broken off", "unavailable", "busy", "gone", "lost"]
"""``broken off``: a stream that ended in an error event with the best answer so far; ``gone``: the
client hung up; ``lost``: anything that a client can't make sense of, or nothing at all."""
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_GONE_S = 0.05


@dataclass(kw_only=True)
class Seen:
    """What has become of some requests.

    Attributes:
        outcomes: how many ended how, by the kind of request (``judged``, ``turns``, ``tools``).
        seconds: of each that a client has waited for.
        hangs: those that took longer than the deadline and some slack.
        wrong: in words, of what should not have been: the first few.
        wrongs: how many there were of those.
    """

    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    hangs: int = 0
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0

    def add(self, kind: str, outcome: Outcome, seconds: float, *, limit_s: float) -> None:
        """Count a request."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        if outcome != "gone":
            self.seconds.append(seconds)
            self.hangs += seconds > limit_s

    def is_wrong(self, what: str) -> None:
        """Take note of what should not have been."""
        self.wrongs += 1
        if len(self.wrong) < 5:
            self.wrong.append(what)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(counts.total() for counts in self.outcomes.values())

    def percentile(self, percent: int) -> float:
        """In seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """A request: its body, its kind, and the number that its answer has to repeat."""

    body: dict[str, Any]
    kind: str
    number: int
    hangs_up: bool


def request_of(number: int) -> _Sent:
    """The number-th request of a mix: easy and hard ones, streamed and whole, some unjudged."""
    body = question(number, easy=number % 2 == 0, stream=number % 4 < 2)
    kind = "judged"
    if number % 21 == 7:
        # A conversation of several turns: any model may stand in for the oracle.
        first = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
        body["messages"] = [*first, *body["messages"]]
        kind = "turns"
    elif number % 21 == 13:
        body["tools"] = [_TOOL]
        kind = "tools"
    return _Sent(body=body, kind=kind, number=number, hangs_up=number % 21 == 19)


async def ask(session: aiohttp.ClientSession, number: int, seen: Seen, *, limit_s: float) -> None:
    """One request, and what has become of it."""
    sent = request_of(number)
    begun = time.perf_counter()
    outcome: Outcome = "lost"
    try:
        async with asyncio.timeout(_GONE_S if sent.hangs_up else 4 * limit_s):
            async with session.post("/v1/chat/completions", json=sent.body) as reply:
                outcome = _outcome(sent, reply, await reply.text(), seen)
    except TimeoutError:
        outcome = "gone" if sent.hangs_up else "lost"
    except (aiohttp.ClientError, LookupError, TypeError, ValueError) as error:
        # No connection, half an answer, or one that is not of the form that clients read.
        seen.is_wrong(f"{type(error).__name__}: {error}")
    if outcome == "lost":
        seen.is_wrong(f"{sent.kind}, stream {sent.body['stream']}: lost")
    seen.add(sent.kind, outcome, time.perf_counter() - begun, limit_s=limit_s)


def _outcome(sent: _Sent, reply: aiohttp.ClientResponse, text: str, seen: Seen) -> Outcome:
    if reply.status in (429, 503):
        error = json.loads(text)["error"]
        if int(reply.headers.get("retry-after", 0)) < 1 or error["type"] is None:
            seen.is_wrong(f"{reply.status} without Retry-After")
        return "busy" if reply.status == 429 else "unavailable"
    if reply.status != 200:
        seen.is_wrong(f"status {reply.status}: {text[:200]}")
        return "lost"
    if not sent.body["stream"]:
        whole = json.loads(text)
        return _answered(sent, whole["choices"][0]["message"]["content"], whole["pyramid"], seen)
    datas = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if datas and datas[-1] != "[DONE]":
        error = json.loads(datas[-1]).get("error")
        if error is None:
            return "lost"
        if sent.kind == "judged" and "answer_so_far" not in error.get("pyramid", {}):
            seen.is_wrong("an error event without the best answer so far")
        return "broken off"
    chunks = [json.loads(data) for data in datas[:-1]]
    if not chunks or not chunks[-1].get("id"):
        return "lost"
    said = "".join(c["delta"].get("content") or "" for k in chunks for c in k["choices"])
    if not any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]):
        seen.is_wrong("a stream without a reason for its end")
    return _answered(sent, said, chunks[-1]["pyramid"], seen)


def _answered(sent: _Sent, said: str, why: dict[str, Any], seen: Seen) -> Outcome:
    if f"Question {sent.number} " not in said or "####" not in said:
        seen.is_wrong(f"an answer to something else: {said[:100]!r}")
        return "lost"
    return "degraded" if why["degraded"] else "answered"


def _session(gateway: ServedGateway) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        gateway.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def at_a_rate(gateway: ServedGateway, *, rate: float, seconds: float, slack_s: float) -> Seen:
    """Begin a request every so often, whether the earlier ones have been answered or not.

    Args:
        gateway: is asked.
        rate: requests a second.
        seconds: for how long.
        slack_s: that an answer may be later than the deadline before it counts as a hang.
    """
    seen, limit_s = Seen(), gateway.deadline_s + slack_s
    first = random.randrange(10**6) * 1000
    async with _session(gateway) as session, asyncio.TaskGroup() as group:
        begun = time.perf_counter()
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            group.create_task(ask(session, first + number, seen, limit_s=limit_s))
    return seen


async def busy_clients(gateway: ServedGateway, *, clients: int, seconds: float) -> float:
    """Keep some clients busy, each with one request after another: requests a second."""
    seen, count = Seen(), 0
    begun = time.perf_counter()

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal count
        while time.perf_counter() < begun + seconds:
            number, count = count, count + 1
            if number % 21 != 19:
                await ask(session, number, seen, limit_s=gateway.deadline_s)

    async with _session(gateway) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(session))
    return len(seen.seconds) / (time.perf_counter() - begun)
