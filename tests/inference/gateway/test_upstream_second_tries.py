"""A second try at a model that is slow to answer, and which of both counts."""

import asyncio

from faulty_server import Reply, chat_reply, soon
from running_upstream import DOWN, GREEDY, asking, later, serve

from pyramid_moa.backends import Failure, Message, Prompt
from pyramid_moa.inference.gateway.settings import Faults


def test_a_second_try_overtakes_a_first_that_hangs():
    seen = []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=30) if len(seen) == 1 else chat_reply("fast")

    ((outcomes, _), calls, server) = serve(answer, asking(), faults=Faults(hedge_after_s=0.1))
    assert outcomes[0].text == "fast"
    assert calls == ["answered"]
    assert soon(server.hung_up.is_set)


def test_a_second_try_that_fails_waits_for_the_first():
    seen = []

    def answer(request):
        seen.append(request)
        return Reply(body=chat_reply("slow"), delay_s=0.3) if len(seen) == 1 else DOWN

    ((outcomes, _), _, _) = serve(answer, asking(), faults=Faults(hedge_after_s=0.05))
    assert outcomes[0].text == "slow"


def test_where_both_tries_fail_the_call_fails():
    ((outcomes, _), calls, _) = serve(
        lambda request: Reply(body=DOWN.body, status=500, delay_s=0.1),
        asking(),
        faults=Faults(hedge_after_s=0.05),
    )
    assert isinstance(outcomes[0], Failure)
    assert calls == ["failed"]


def test_a_second_try_waits_for_the_first_to_begin():
    def answer(request):
        slow = "slow" in request.prompt
        # The last keeps its place until both others are done: no second try of theirs begins.
        return Reply(body=chat_reply("8"), delay_s=1.5 if slow else 0.5)

    async def work(upstream):
        asked = [
            upstream.ask(
                Prompt(messages=(Message(role="user", content=text),)), GREEDY, until=later(20)
            )
            for text in ("slow 1", "slow 2", "quick, but for the queue")
        ]
        return await asyncio.gather(*asked)

    _, calls, server = serve(answer, work, faults=Faults(hedge_after_s=1.0), max_concurrency=2)
    assert calls == ["answered"] * 3
    assert len(server.requests) == 3
