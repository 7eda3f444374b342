"""Any OpenAI-compatible server: a vLLM server, a hosted API."""

import asyncio
import concurrent.futures
import queue
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from pyramid_moa.backends.loop_thread import LoopThread
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_model import OpenAIModel
from pyramid_moa.backends.protocol import Completion, Failure, HiddenStates, Prompt, Sampling
from pyramid_moa.errors import BackendError

__all__ = ["OpenAIBackend"]

_T = TypeVar("_T")

# Outcomes that may wait for whoever draws them from ``stream``, as a multiple of the requests that
# may be under way; and how long a request waits before it looks again whether there is room.
_WAITING = 4
_LOOK_AGAIN_S = 0.005


class OpenAIBackend:
    """One model of an OpenAI-compatible server.

    Requests run in an event loop of the backend's own, in a thread, so that connections survive
    between calls and ``generate`` and ``agenerate`` share one bound on requests under way.
    """

    def __init__(self, spec: ModelSpec, *, hidden_states: HiddenStates | None = None) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            spec: the model's entry.
            hidden_states: what to keep of the hidden states, where the server shares a folder
                with this machine; None keeps nothing.

        Raises:
            BackendError: somebody else can write to the folder that the server shares.
            ConfigError: the key's environment variable is not set, base_url is no address, or
                extra_body holds fields that are the backend's, that are no JSON, or a limit of
                tokens that is none.
        """
        self.name = spec.name
        self.gives_logprobs = spec.logprobs
        self._spec = spec
        self._hidden_states = hidden_states
        self._model = OpenAIModel(spec, hidden_states=hidden_states)
        self.hidden_keys = self._model.hidden_keys
        # Of all calls together: each has as many workers by itself.
        self._free = asyncio.Semaphore(spec.max_concurrency)
        self._thread = LoopThread(f"openai backend {spec.name}", at_end=self._model.close)

    def in_this_loop(self) -> OpenAIModel:
        """The same model once more, to be asked from the caller's own event loop and closed there.

        A server that asks for one answer at a time spares itself the way to another thread, and
        bounds by itself how many there are at once. What failures say may go to its clients: no
        address is in it.
        """
        return OpenAIModel(self._spec, hidden_states=self._hidden_states, for_clients=True)

    def check(self) -> None:
        """Ask the server whether it is there, takes the key and knows the model.

        Servers that keep no list of models pass. Where hidden states are wanted, one token is
        asked for, to see that they come.

        Raises:
            BackendError: it is not, or does not; ``can_retry`` where it may be later.
        """
        self._run(self._model.check())

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion | Failure]:
        """Answer prompts; see ``Backend.generate``. Latencies include retries.

        Raises:
            BackendError: the backend has been closed.
        """
        return self._run(self._answer_all(prompts, sampling))

    async def agenerate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Do the same from any event loop; cancelling it cancels the requests.

        Raises:
            BackendError: the backend has been closed.
        """
        future = self._submit(self._answer_all(prompts, sampling))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._thread.closed and not (task and task.cancelling()):
                raise self._closed_error() from error
            raise

    def stream(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Answer prompts, ``max_concurrency`` at once; see ``Backend.stream``.

        Raises:
            BackendError: the backend has been closed.
        """
        ready: queue.SimpleQueue[tuple[int, Completion | Failure] | None] = queue.SimpleQueue()
        future = self._submit(self._feed(prompts, sampling, ready))
        try:
            while (item := ready.get()) is not None:
                yield item
            self._result(future)
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what is under way and close the connections; a second time does nothing."""
        self._thread.close()

    def _submit(self, work: Coroutine[Any, Any, _T]) -> "concurrent.futures.Future[_T]":
        try:
            return self._thread.submit(work)
        except RuntimeError as error:
            raise self._closed_error() from error

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = self._submit(work)
        try:
            return self._result(future)
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _result(self, future: "concurrent.futures.Future[_T]") -> _T:
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise self._closed_error() from error

    def _closed_error(self) -> BackendError:
        return BackendError(f"model {self.name!r}: the backend has been closed")

    async def _answer_all(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        outcomes: list[Completion | Failure | None] = [None] * len(prompts)

        async def take(index: int, outcome: Completion | Failure) -> None:
            outcomes[index] = outcome

        workers = min(len(prompts), self._spec.max_concurrency)
        await self._work_through(prompts, sampling, take, workers=workers)
        return cast("list[Completion | Failure]", outcomes)

    async def _feed(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling,
        ready: "queue.SimpleQueue[tuple[int, Completion | Failure] | None]",
    ) -> None:
        most = _WAITING * self._spec.max_concurrency

        async def take(index: int, outcome: Completion | Failure) -> None:
            ready.put((index, outcome))
            while ready.qsize() > most:
                await asyncio.sleep(_LOOK_AGAIN_S)

        try:
            await self._work_through(prompts, sampling, take, workers=self._spec.max_concurrency)
        finally:
            ready.put(None)

    async def _work_through(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling,
        take: Callable[[int, Completion | Failure], Awaitable[None]],
        *,
        workers: int,
    ) -> None:
        todo = iter(enumerate(prompts))

        async def work() -> None:
            for index, prompt in todo:
                async with self._free:
                    outcome = await self._model.answer(prompt, sampling)
                await take(index, outcome)

        # A task for each request that may be under way, not one for each prompt.
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as several:
            # What drawing a prompt raised, as whoever made the prompts knows it.
            raise several.exceptions[0] from several
