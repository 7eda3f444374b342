"""Every fault of a model, at random and at once, under a steady load: no hang, no wrong status."""

import asyncio
import random
import time
from collections import Counter

import httpx
import pytest
from faulty_server import Reply, chat_reply, soon, stream_events
from running_gateway import DOWN, chat_body, running_gateway, says

from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings

RATE = 20
DEADLINE_S = 2.0
# A machine that does much else at the same time needs its time, too.
GRACE_S = 1.5
BUSY = Reply(status=429, body={"error": {"message": "busy"}}, headers={"retry-after": "1"})


def moody(text, draw):
    """A server that answers somewhat more often than it fails, and fails in every way."""

    def answer(request):
        if request.body is None or (chance := draw.random()) < 0.55:
            return says(text)(request)
        if request.body.get("stream") and chance < 0.65:
            return Reply(events=stream_events(text)[: draw.randrange(6)], cut_at=0)
        return draw.choice(
            [
                DOWN,
                BUSY,
                Reply(delay_s=5),  # hangs
                Reply(cut_at=-1),  # hangs up
                Reply(body=chat_reply(text), cut_at=200),
                Reply(body=b'{"choices": [{}]}'),
                Reply(body=b"<html>"),
                Reply(body=b"", status=302),
            ]
        )

    return answer


def request_of(number):
    body = chat_body(stream=number % 2 == 0)
    if number % 11 == 0:
        body["tools"] = [{"type": "function", "function": {"name": "f"}}]
    if number % 13 == 0:
        body["model"] = "oracle"
    return body


def outcome(reply):
    if reply.status_code != 200 or not reply.headers["content-type"].startswith("text/event"):
        return str(reply.status_code)
    if "data: [DONE]" in reply.text:
        return "200"
    return "error event" if 'data: {"error"' in reply.text else "cut off"


async def load(gateway, seconds):
    """Outcomes by kind, and the longest that a request took."""
    outcomes, slowest = Counter(), 0.0

    async def one(client, number):
        nonlocal slowest
        if number % 17 == 0:
            # Some clients go away.
            url = f"{gateway.base_url}/chat/completions"
            try:
                await client.post(url, json=request_of(number), timeout=0.05)
            except httpx.TimeoutException:
                outcomes["gone"] += 1
            return
        begun = time.monotonic()
        reply = await client.post(
            f"{gateway.base_url}/chat/completions", json=request_of(number), timeout=20
        )
        slowest = max(slowest, time.monotonic() - begun)
        outcomes[outcome(reply)] += 1

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits) as client, asyncio.TaskGroup() as group:
        begun = time.monotonic()
        for number in range(RATE * seconds):
            await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            group.create_task(one(client, number))
    return outcomes, slowest


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_whatever_models_do_clients_get_an_answer_or_the_right_error(seconds):
    draw = random.Random(seconds)
    answers = {
        "a": moody("#### 16", draw),
        "b": moody("it is 16", draw),
        "c": moody("#### 8", draw),
        "oracle": moody("#### 99", draw),
    }
    faults = Faults(
        member_timeout_s=0.7,
        deadline_s=DEADLINE_S,
        retries=1,
        breaker_failures=6,
        breaker_open_s=0.5,
    )
    with running_gateway(answers, settings=GatewaySettings(faults=faults)) as gateway:
        outcomes, slowest = asyncio.run(load(gateway, seconds))
        assert soon(lambda: "requests_in_progress 0.0" in gateway.get("/metrics").text)
    assert set(outcomes) <= {"200", "503", "429", "error event", "gone"}, outcomes
    # Where any model lives there is an answer: what fails is what only the oracle could answer.
    assert outcomes["200"] > 0.8 * sum(outcomes.values()), outcomes
    assert slowest < DEADLINE_S + GRACE_S
