"""Many requests of the OpenAI backend at once, and their end."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from faulty_server import Reply, Request, chat_reply, faulty_server, soon
from openai_backend import GREEDY, backend_of, chat, echo, spec_for, texts

from pyramid_moa.backends.loop_thread import LoopThread
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.protocol import Completion, Failure
from pyramid_moa.errors import BackendError


class TestConcurrency:
    def test_bounded_and_in_order(self) -> None:
        def answer(request: Request) -> Any:
            # Later questions are answered sooner.
            return Reply(body=echo(request), delay_s=0.002 * (40 - int(request.prompt)))

        questions = [str(number) for number in range(40)]
        with faulty_server(answer) as server, backend_of(server, max_concurrency=5) as backend:
            outcomes = backend.generate([chat(q) for q in questions], GREEDY)
        assert texts(outcomes) == questions
        assert server.most_under_way == 5
        assert server.connections <= 5

    def test_calls_share_the_bound_and_the_connections(self) -> None:
        def answer(request: Request) -> Any:
            return Reply(body=echo(request), delay_s=0.02)

        async def many(backend: OpenAIBackend) -> list[list[Completion | Failure]]:
            calls = (backend.agenerate([chat(str(number))], GREEDY) for number in range(9))
            return await asyncio.gather(*calls)

        with faulty_server(answer) as server, backend_of(server, max_concurrency=3) as backend:
            for _ in range(2):
                # Each asyncio.run has a loop of its own.
                outcomes = asyncio.run(many(backend))
                assert texts([outcome for (outcome,) in outcomes]) == [str(i) for i in range(9)]
            backend.generate([chat()], GREEDY)
        assert server.most_under_way == 3
        assert server.connections == 3

    def test_sync_call_while_a_loop_runs(self) -> None:
        async def inside(backend: OpenAIBackend) -> list[str]:
            here = backend.generate([chat("here")], GREEDY)
            there = await asyncio.to_thread(backend.generate, [chat("there")], GREEDY)
            return texts([*here, *there])

        with faulty_server(echo) as server, backend_of(server) as backend:
            assert asyncio.run(inside(backend)) == ["here", "there"]
            assert backend.generate([], GREEDY) == []

    def test_the_loop_is_free_while_it_waits(self) -> None:
        async def inside(backend: OpenAIBackend) -> int:
            ticks = 0
            waiting = asyncio.ensure_future(backend.agenerate([chat()], GREEDY))
            while not waiting.done():
                await asyncio.sleep(0.005)
                ticks += 1
            return ticks

        slow = lambda request: Reply(body=echo(request), delay_s=0.2)  # noqa: E731 - one line
        with faulty_server(slow) as server, backend_of(server) as backend:
            assert asyncio.run(inside(backend)) > 5

    def test_cancelling_cancels_the_requests(self) -> None:
        async def impatient(backend: OpenAIBackend) -> None:
            async with asyncio.timeout(0.1):
                await backend.agenerate([chat(), chat()], GREEDY)

        with (
            faulty_server(lambda _: Reply(body=chat_reply("late"), delay_s=4)) as server,
            backend_of(server) as backend,
        ):
            with pytest.raises(TimeoutError):
                asyncio.run(impatient(backend))
            assert server.hung_up.wait(2.0)
            assert soon(lambda: server.under_way == 0)

    def test_closing_ends_what_is_under_way(self) -> None:
        found: list[BaseException] = []

        def call(backend: OpenAIBackend, run: Callable[[OpenAIBackend], object]) -> None:
            try:
                run(backend)
            except BaseException as error:
                found.append(error)

        ways: list[Callable[[OpenAIBackend], object]] = [
            lambda backend: backend.generate([chat()], GREEDY),
            lambda backend: asyncio.run(backend.agenerate([chat()], GREEDY)),
        ]
        with faulty_server(lambda _: Reply(delay_s=4)) as server:
            for run in ways:
                backend = OpenAIBackend(spec_for(server))
                caller = threading.Thread(target=call, args=(backend, run))
                server.started.clear()
                caller.start()
                assert server.started.wait(2.0)
                backend.close()
                caller.join(2.0)
                assert not caller.is_alive()
        assert [type(error) for error in found] == [BackendError, BackendError]

    def test_an_interrupt_cancels_the_requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        submit = LoopThread.submit

        class Interrupted:
            """A future whose waiter is interrupted once the request is under way."""

            def __init__(self, thread: LoopThread, work: Any) -> None:
                self.future = submit(thread, work)

            def result(self) -> None:
                assert server.started.wait(2.0)
                raise KeyboardInterrupt

            def cancel(self) -> bool:
                return self.future.cancel()

        monkeypatch.setattr(LoopThread, "submit", lambda *args: Interrupted(*args))
        with (
            faulty_server(lambda _: Reply(body=chat_reply("late"), delay_s=4)) as server,
            backend_of(server) as backend,
        ):
            with pytest.raises(KeyboardInterrupt):
                backend.generate([chat()], GREEDY)
            assert server.hung_up.wait(2.0)

    def test_closed_for_good_and_nothing_left(self) -> None:
        before = threading.active_count()
        with warnings.catch_warnings(record=True) as caught, faulty_server(echo) as server:
            warnings.simplefilter("always")
            backend = OpenAIBackend(spec_for(server))
            backend.check()
            backend.generate([chat(str(number)) for number in range(4)], GREEDY)
            backend.close()
            backend.close()
            with pytest.raises(BackendError, match="'member': the backend has been closed"):
                backend.generate([chat()], GREEDY)
            with pytest.raises(BackendError, match="has been closed"):
                asyncio.run(backend.agenerate([chat()], GREEDY))
            del backend
            gc.collect()
        assert not [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
        assert soon(lambda: threading.active_count() <= before)
