"""One model as the gateway asks it: for one request, in bounded time, and only while it works."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from pyramid_moa.backends import Backend, Completion, Failure, ModelSpec, Prompt, Sampling
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.openai_chunks import AnswerOfChunks, Piece
from pyramid_moa.backends.openai_model import request_body
from pyramid_moa.backends.openai_relay import OpenAIRelay, RelayError
from pyramid_moa.errors import BackendError
from pyramid_moa.inference.gateway.batching import Batcher
from pyramid_moa.inference.gateway.circuit_breaker import CircuitBreaker
from pyramid_moa.inference.gateway.model_call import CallResult, ModelCall
from pyramid_moa.inference.gateway.settings import Faults
from pyramid_moa.inference.gateway.spending import Bill, PaidFor, Spending, prompt_characters
from pyramid_moa.inference.gateway.tracing import Stage, traced_call

__all__ = ["Upstream", "piece_of"]

_T = TypeVar("_T")
_Object = dict[str, object]
_log = logging.getLogger("pyramid_moa.gateway")


class Upstream:
    """A model behind its backend, its relay where it has one, and its circuit breaker.

    It belongs to one event loop. Cancelling a call cancels the request at once; a model in this
    process finishes what it has begun.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        faults: Faults,
        *,
        ended: Callable[[str, CallResult, float], None] = lambda model, result, seconds: None,
        paid: Callable[[str, PaidFor, float], None] = lambda model, result, usd: None,
    ) -> None:
        """Put it around a running backend, which it does not close.

        Args:
            spec: the model's entry.
            backend: answers what the router judges; of one over HTTP, its model is asked from here.
            faults: how long it may take and when it is left out.
            ended: told of each call: the model's name, how it ended and after how many seconds.
            paid: told of each try of a call: the model's name, what became of it, and its price in
                US dollars, as far as the tokens are known.

        Raises:
            ConfigError: the entry's address or key is missing.
        """
        self.spec = spec
        self.breaker = CircuitBreaker(
            failures=faults.breaker_failures, open_s=faults.breaker_open_s
        )
        self._backend = backend
        self._faults = faults
        self._ended = ended
        self._spending = Spending(spec, paid)
        # From this loop: the way to the backend's own thread and back costs milliseconds.
        self._model = backend.in_this_loop() if isinstance(backend, OpenAIBackend) else None
        self._local = Batcher(backend) if self._model is None else None
        self._relay = OpenAIRelay(spec) if spec.is_served else None
        # Of all calls, judged or not: servers are asked for no more at once than they may be.
        self._places = asyncio.Semaphore(spec.max_concurrency)

    @property
    def is_served(self) -> bool:
        """Whether requests can be handed on to it as they are."""
        return self._relay is not None

    async def ask(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        until: float,
        limit_s: float | None = None,
        early: bool = False,
    ) -> Completion | Failure:
        """Ask once, with all that may help an answer come.

        Args:
            prompt: what to ask.
            sampling: how.
            until: when the request's time is over, on the event loop's clock.
            limit_s: seconds that this call may take; None for all there are.
            early: also where it is left alone, by one request at a time; see ``CircuitBreaker``.

        Returns:
            The answer, or why there is none. Nothing is raised but a cancellation.
        """
        call = self._begin(early=early)
        if call.permit is None:
            return self._left_out()
        try:
            async with asyncio.timeout_at(call.end(until, limit_s)):
                with call.sending():
                    outcome = await self._asked(call, prompt, sampling)
        except TimeoutError:
            return call.timed_out(until)
        except Exception:
            call.settle("failed")
            return Failure(message=self._fault(), can_retry=True)
        except BaseException:
            call.settle("given_up")
            raise
        if isinstance(outcome, Failure):
            call.settle("failed" if outcome.can_retry else "refused")
            return outcome
        call.stage.note_tokens(outcome.prompt_tokens, outcome.completion_tokens)
        call.settle("answered")
        return outcome

    async def stream(
        self, prompt: Prompt, sampling: Sampling, *, until: float, patience: float = 1.0
    ) -> AsyncGenerator[Piece | Completion | Failure, None]:
        """Ask, and give the answer as it comes.

        Args:
            prompt: what to ask.
            sampling: how.
            until: when the request's time is over, on the event loop's clock.
            patience: see ``relay_stream``.

        Yields:
            Pieces of the text, one for all of it where the model runs in this process; in the end
            the whole answer, or why it broke off, with what came of it, which is paid for.
        """
        if self._relay is None:
            limit_s = patience * (until - asyncio.get_running_loop().time())
            outcome = await self.ask(prompt, sampling, until=until, limit_s=limit_s)
            if isinstance(outcome, Completion) and outcome.text:
                yield piece_of(outcome)
            yield outcome
            return
        started = time.perf_counter()
        chat = prompt.messages is not None
        answer = AnswerOfChunks(chat=chat)
        path = "/chat/completions" if chat else "/completions"
        request = request_body(self.spec, prompt, sampling)
        bill = Bill()
        try:
            async with aclosing(
                self.relay_stream(path, request, until=until, patience=patience, bill=bill)
            ) as chunks:
                async for chunk in chunks:
                    if (piece := answer.add(chunk)) is not None:
                        yield piece
            latency_s = time.perf_counter() - started
            yield answer.completion(
                logprobs=self.spec.logprobs, max_tokens=sampling.max_tokens, latency_s=latency_s
            )
        except BackendError as error:
            failure = _broken_off(str(error), started, bill, can_retry=error.can_retry)
            come_back_s = error.retry_after_s if isinstance(error, RelayError) else None
            yield replace(failure, retry_after_s=come_back_s)
        except Exception:
            yield _broken_off(self._fault(), started, bill, can_retry=True)

    async def relay(
        self,
        path: str,
        request: Mapping[str, object],
        *,
        until: float,
        limit_s: float | None = None,
    ) -> _Object:
        """Hand a request on as it is; see ``OpenAIRelay.complete`` and, for its time, ``ask``.

        Raises:
            RelayError: there is no answer.
        """
        call, relay = self._relay_call()
        characters = prompt_characters(request)

        async def once() -> _Object:
            with self._spending.bill(characters) as bill:
                try:
                    reply = await relay.complete(path, request)
                except RelayError:
                    bill.take(_NOTHING)
                    raise
                bill.answered(reply.get("usage"))
                return reply

        try:
            async with asyncio.timeout_at(call.end(until, limit_s)):
                with call.sending():
                    reply = await self._hedged(call, once)
        except TimeoutError as error:
            raise RelayError(call.timed_out(until).message, can_retry=True) from error
        except RelayError as error:
            call.settle("failed" if error.can_retry else "refused")
            raise
        except Exception as error:
            call.settle("failed")
            raise RelayError(self._fault(), can_retry=True) from error
        except BaseException:
            call.settle("given_up")
            raise
        call.note_usage(reply)
        call.settle("answered")
        return reply

    async def relay_stream(
        self,
        path: str,
        request: Mapping[str, object],
        *,
        until: float,
        patience: float = 1.0,
        bill: Bill | None = None,
    ) -> AsyncGenerator[_Object, None]:
        """Hand a request on and give its answer as it comes; see ``OpenAIRelay.stream``.

        Args:
            path: of the server.
            request: its body.
            until: when the request's time is over, on the event loop's clock.
            patience: of the time that is left then, the share that may go by before the first
                chunk, and before each further one.
            bill: is told what it takes, for callers that want to know.

        Yields:
            Each chunk as the server gave it.

        Raises:
            RelayError: there is no answer, or it broke off.
        """
        call, relay = self._relay_call()
        now = asyncio.get_running_loop().time

        def next_by() -> float:
            return until if patience >= 1.0 else now() + patience * (until - now())

        try:
            async with asyncio.timeout_at(next_by()):
                await self._places.acquire()
            try:
                call.begin()
                async with aclosing(self._live(relay, path, request, bill)) as chunks:
                    while True:
                        # Around each wait, not around what the caller does with a chunk.
                        async with asyncio.timeout_at(next_by()):
                            with call.sending():
                                chunk = await anext(chunks, None)
                        if chunk is None:
                            break
                        call.shows_life()
                        call.note_usage(chunk)
                        yield chunk
                        call.listens()
            finally:
                self._places.release()
            call.settle("answered")
        except TimeoutError as error:
            raise RelayError(call.timed_out(until).message, can_retry=True) from error
        except RelayError as error:
            call.settle("failed" if error.can_retry else "refused")
            raise
        except Exception as error:
            call.settle("failed")
            raise RelayError(self._fault(), can_retry=True) from error
        finally:
            call.settle("given_up")

    async def check(self) -> None:
        """Ask a server whether it is there; a model in this process always is.

        Raises:
            RelayError: it is not.
        """
        if self._relay is not None:
            await self._relay.check()

    async def close(self) -> None:
        """Close the connections that are its own."""
        if self._relay is not None:
            await self._relay.close()
        if self._model is not None:
            await self._model.close()
        if self._local is not None:
            await self._local.close()

    def _stage(self) -> Stage:
        spec = self.spec
        return traced_call(spec.name, served_as=spec.model, provider=spec.backend)

    def _relay_call(self) -> tuple[ModelCall, OpenAIRelay]:
        assert self._relay is not None, "only a model on a server takes requests as they are"
        call = self._begin()
        if call.permit is None:
            raise RelayError(
                self._left_out().message, can_retry=True, retry_after_s=self.breaker.closes_in_s
            )
        return call, self._relay

    def _begin(self, *, early: bool = False) -> ModelCall:
        return ModelCall(
            self.spec.name, self.breaker, self._faults, self._ended, self._stage, early=early
        )

    def _left_out(self) -> Failure:
        self._ended(self.spec.name, "left_out", 0.0)
        self._stage().end(error="left_out")
        return Failure(
            message=f"{self.spec.name} failed too often and is left alone for "
            f"{self.breaker.closes_in_s:.1f} s more",
            can_retry=True,
        )

    async def _asked(
        self, call: ModelCall, prompt: Prompt, sampling: Sampling
    ) -> Completion | Failure:
        """Ask the model, wherever it runs."""
        model, local, characters = self._model, self._local, prompt_characters(prompt)
        if model is None:
            assert local is not None
            # What waits for it has cost nothing yet; what it has begun it finishes.
            with self._spending.bill(0) as bill:

                def begin() -> None:
                    call.begin()
                    bill.begin(characters)

                outcome = await local.ask(prompt, sampling, begin=begin)
                bill.take(outcome)
                return outcome

        async def once() -> Completion | Failure:
            with self._spending.bill(characters) as bill:
                outcome = await model.answer(prompt, sampling)
                bill.take(outcome)
                return outcome

        return await self._hedged(call, once)

    async def _live(
        self, relay: OpenAIRelay, path: str, request: Mapping[str, object], own: Bill | None
    ) -> AsyncGenerator[_Object, None]:
        """A stream whose tokens are paid for, whoever ends it."""
        with self._spending.bill(prompt_characters(request), own) as bill:
            try:
                async with aclosing(relay.stream(path, request)) as chunks:
                    async for chunk in chunks:
                        # A token each, until the server counts them.
                        bill.completion_tokens += bool(chunk.get("choices"))
                        bill.take_usage(chunk.get("usage"))
                        yield chunk
            except RelayError:
                bill.result = "failed"
                if not bill.completion_tokens:
                    bill.take(_NOTHING)
                raise
            bill.result = "answered"

    def _fault(self) -> str:
        """Log an error that nobody has thought of, and say that there was one."""
        _log.exception("%s: a call failed by a fault of the gateway's own", self.spec.name)
        return f"{self.spec.name} could not be asked: the gateway has a fault; its log says more"

    async def _hedged(self, call: ModelCall, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask; where nothing has come after a while, once more, and take what comes first.

        Each try takes a place of its own, and the while begins when the first one has got its.
        """
        async with self._places:
            call.begin()
            if self._faults.hedge_after_s is None:
                return await ask()
            return await self._raced(ask, self._faults.hedge_after_s)

    async def _raced(self, ask: Callable[[], Awaitable[_T]], hedge_after_s: float) -> _T:
        async def again() -> _T:
            async with self._places:
                return await ask()

        tries = {asyncio.ensure_future(ask())}
        try:
            done, waiting = await asyncio.wait(tries, timeout=hedge_after_s)
            if not done:
                tries.add(asyncio.ensure_future(again()))
                waiting = tries
            while waiting and not any(map(_is_answer, done)):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(filter(_is_answer, done), next(iter(done))).result()
        finally:
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)


# What came of a call that a server has refused, or that never reached it.
_NOTHING = Failure(message="", can_retry=True)


def piece_of(completion: Completion) -> Piece:
    """A whole answer as one piece."""
    text = completion.text
    return Piece(
        text=text,
        tokens=tuple(
            (text[token.start : token.end].encode(), token.logprob) for token in completion.tokens
        ),
    )


def _broken_off(message: str, started: float, bill: Bill, *, can_retry: bool) -> Failure:
    """A stream that gives no answer that could be used."""
    has_come = bill.has_come
    return Failure(
        message=message,
        can_retry=can_retry,
        latency_s=time.perf_counter() - started,
        prompt_tokens=bill.prompt_tokens if has_come else None,
        completion_tokens=bill.completion_tokens if has_come else None,
        tokens_estimated=has_come and bill.is_estimated,
    )


def _is_answer(task: "asyncio.Future[_T]") -> bool:
    return task.exception() is None and not isinstance(task.result(), Failure)
