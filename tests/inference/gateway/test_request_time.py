"""Who is woken because a request's time is over sees that it is."""

import asyncio

import pytest
import uvloop

from pyramid_moa.inference.gateway.request_time import is_over


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_timers_that_go_off_early(run):
    async def woken():
        loop = asyncio.get_running_loop()
        seen = []
        for number in range(20):
            until = loop.time() + 0.005 + number * 1e-4
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append(is_over(until))
        assert not is_over(loop.time() + 60)
        return seen

    assert run(woken()) == [True] * 20
