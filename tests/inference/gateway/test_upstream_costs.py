"""What a call costs, whatever becomes of it."""

import asyncio

import pytest
from faulty_server import Reply, chat_reply, stream_events
from running_upstream import CHAT, DOWN, GREEDY, PATH, REQUEST, asking, everything, later, serve

from pyramid_moa.backends import Price
from pyramid_moa.inference.gateway.settings import Faults

LONG = [*stream_events("abc")[:2], (30.0, "[DONE]")]
# 29 characters make 7 tokens of the prompt; a prompt token costs one dollar here, others two.
SEVEN = round(len(CHAT.messages[0].content) / 4)


def asks_and_goes(chunk=False):
    """Ask, and go away when the model has begun to answer."""

    async def work(upstream):
        if chunk:
            await anext(stream := upstream.stream(CHAT, GREEDY, until=later(30)))
            await stream.aclose()
            return
        task = asyncio.ensure_future(upstream.ask(CHAT, GREEDY, until=later(30)))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return work


@pytest.mark.parametrize(
    ("reply", "work", "bill"),
    [
        (chat_reply("8"), asking(), [("answered", 7 + 2 * 2)]),
        (Reply(events=stream_events("abc")), everything, [("answered", 7 + 2 * 3)]),
        (Reply(events=LONG), asks_and_goes(chunk=True), [("given_up", SEVEN + 2 * 1)]),
        (Reply(delay_s=30), asks_and_goes(), [("given_up", SEVEN)]),
        (Reply(delay_s=30), asking(limit_s=0.2), [("given_up", SEVEN)]),
        (DOWN, asking(), [("failed", 0)]),
        (DOWN, everything, [("failed", 0)]),
        (chat_reply("8", message={"content": None}), asking(), [("failed", 7 + 2 * 2)]),
        (Reply(events=stream_events("abc")[:2], cut_at=0), everything, [("failed", SEVEN + 4)]),
    ],
    ids=["whole", "stream", "left stream", "left", "late", "down", "down live", "null", "broken"],
)
def test_every_try_is_paid_for_once_whatever_becomes_of_it(reply, work, bill):
    paid = []
    price = Price(input=1e6, output=2e6)
    serve(lambda request: reply, work, paid=paid, price=price)
    assert paid == [(result, pytest.approx(usd)) for result, usd in bill]


def test_the_try_that_loses_is_paid_for_too():
    seen, paid = [], []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=30) if len(seen) == 1 else chat_reply("8")

    faults = Faults(hedge_after_s=0.1)
    serve(answer, asking(), faults=faults, paid=paid, price=Price(input=1e6, output=2e6))
    assert sorted(paid) == [("answered", 7 + 4), ("given_up", SEVEN)]


def test_requests_handed_on_are_paid_for():
    paid = []

    async def work(upstream):
        await upstream.relay(PATH, REQUEST, until=later(5))
        return [chunk async for chunk in upstream.relay_stream(PATH, REQUEST, until=later(5))]

    serve(
        lambda request: (
            Reply(events=stream_events("abc")) if request.body.get("stream") else chat_reply("8")
        ),
        work,
        paid=paid,
        price=Price(input=1e6, output=2e6),
    )
    assert paid == [("answered", 7 + 4), ("answered", 7 + 6)]
