"""Prompts that come while a model of this process works, asked together when it is free."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pyramid_moa.backends import Backend, Completion, Failure, Prompt, Sampling
from pyramid_moa.errors import BackendError

__all__ = ["Batcher"]

_log = logging.getLogger("pyramid_moa.gateway")

# A batch takes as long as its longest answer: whoever comes next waits for all of it.
_MOST = 64


@dataclass(kw_only=True)
class _Waiting:
    prompt: Prompt
    sampling: Sampling
    begin: Callable[[], None]
    answer: "asyncio.Future[Completion | Failure]"


class Batcher:
    """Gives a backend one batch at a time; belongs to one event loop.

    Models in this process answer a batch in about the time of one prompt, and are not made for
    several callers at once.
    """

    def __init__(self, backend: Backend) -> None:
        """Stand before a backend that nobody else asks."""
        self._backend = backend
        self._name = backend.name
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(
        self, prompt: Prompt, sampling: Sampling, *, begin: Callable[[], None]
    ) -> Completion | Failure:
        """Answer a prompt in the next batch.

        Args:
            prompt: what to ask.
            sampling: how; prompts of one batch share it.
            begin: told when its batch begins.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Completion | Failure] = loop.create_future()
        self._waiting.append(_Waiting(prompt=prompt, sampling=sampling, begin=begin, answer=answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return await answer

    async def close(self) -> None:
        """Give up those who wait; the batch under way ends in its thread, unheard."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for one in self._waiting:
            one.answer.cancel()

    async def _work(self) -> None:
        # A turn of the loop, so that prompts that come together are asked together.
        await asyncio.sleep(0)
        while batch := self._next():
            for one in batch:
                one.begin()
            prompts = [one.prompt for one in batch]
            outcomes: list[Completion | Failure]
            try:
                outcomes = await self._backend.agenerate(prompts, batch[0].sampling)
                assert len(outcomes) == len(batch), "expected an outcome for each prompt"
            except BackendError as error:
                outcomes = [Failure(message=str(error), can_retry=True)] * len(batch)
            except Exception:
                # Of the backend's own code or of a library under it: the next batch may do better.
                _log.exception("%s: a batch failed by a fault nobody has thought of", self._name)
                said = f"{self._name} failed on a fault of its own; the gateway's log says more"
                outcomes = [Failure(message=said, can_retry=True)] * len(batch)
            for one, outcome in zip(batch, outcomes, strict=True):
                # Somebody who has given up does not wait for it any more.
                if not one.answer.done():
                    one.answer.set_result(outcome)

    def _next(self) -> list[_Waiting]:
        """The first that waits, and those that can be asked with it."""
        here = [one for one in self._waiting if not one.answer.done()]
        batch = [one for one in here if one.sampling == here[0].sampling][:_MOST]
        taken = set(map(id, batch))
        self._waiting = [one for one in here if id(one) not in taken]
        return batch
