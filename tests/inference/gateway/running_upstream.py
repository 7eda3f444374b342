"""One model as the gateway asks it, and a server on loopback behind it that does as it is told."""

import asyncio
from contextlib import aclosing

from faulty_server import Reply, faulty_server

from pyramid_moa.backends import Message, ModelSpec, Prompt, Sampling
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.inference.gateway.settings import Faults
from pyramid_moa.inference.gateway.upstream import Upstream

CHAT = Prompt(messages=(Message(role="user", content="How many legs has a spider?"),))
TEXT = Prompt(text="A spider's legs are")
GREEDY = Sampling(max_tokens=20)
REQUEST = {"messages": [{"role": "user", "content": "hello"}]}
PATH = "/chat/completions"
DOWN = Reply(status=500, body={"error": {"message": "out of order"}})


def serve(answer, work, *, faults=None, paid=None, **fields):
    """What some work with an upstream gives, how its calls ended, and what its server has seen."""
    calls = []
    paid = [] if paid is None else paid

    async def run(base_url):
        spec = ModelSpec(
            name="big", model="m", backend="openai", base_url=base_url, max_retries=0, **fields
        )
        backend = OpenAIBackend(spec)
        upstream = Upstream(
            spec,
            backend,
            faults or Faults(),
            ended=lambda name, result, s: calls.append(result),
            paid=lambda name, result, usd: paid.append((result, usd)),
        )
        try:
            return await work(upstream)
        finally:
            await upstream.close()
            backend.close()

    with faulty_server(answer) as server:
        result = asyncio.run(run(server.base_url))
    return result, calls, server


def later(seconds):
    """A time of the running loop's clock."""
    return asyncio.get_running_loop().time() + seconds


def asking(times=1, *, within_s=5.0, limit_s=None):
    """Work for ``serve``: ask so often, and see what the breaker makes of it."""

    async def work(upstream):
        outcomes = [
            await upstream.ask(CHAT, GREEDY, until=later(within_s), limit_s=limit_s)
            for _ in range(times)
        ]
        return outcomes, upstream.breaker.state

    return work


async def everything(upstream, prompt=CHAT, within_s=5.0):
    """Work for ``serve``: a stream to its end."""
    async with aclosing(upstream.stream(prompt, GREEDY, until=later(within_s))) as stream:
        return [item async for item in stream]
