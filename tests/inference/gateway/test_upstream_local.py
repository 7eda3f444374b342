"""A model of the gateway's own process, which works at one batch at a time."""

import asyncio

import pytest
from running_upstream import GREEDY, TEXT, everything, later

from pyramid_moa.backends import Completion, Failure, ModelSpec, Price, Prompt, Sampling
from pyramid_moa.errors import BackendError
from pyramid_moa.inference.gateway.settings import Faults
from pyramid_moa.inference.gateway.upstream import Upstream


class Local:
    """A model of this process: takes its time for a batch, and never two at once."""

    name = "local"

    def __init__(self, *, seconds=0.0, error=None):
        self.seconds, self.error = seconds, error
        self.batches = []
        self.answers = 1
        self.working = False

    async def agenerate(self, prompts, sampling):
        assert not self.working
        self.working = True
        self.batches.append([prompt.text for prompt in prompts])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.working = False
        if self.error is not None:
            raise self.error
        return self.answers * [
            Completion(
                text=f"{prompt.text}!",
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
                latency_s=0.0,
            )
            for prompt in prompts
        ]


def local(backend, work, *, paid=None, **faults):
    calls = []
    paid = [] if paid is None else paid

    async def run():
        spec = ModelSpec(name="local", model="m", price=Price(input=1e6, output=2e6))
        upstream = Upstream(
            spec,
            backend,
            Faults(**faults),
            ended=lambda name, result, s: calls.append(result),
            paid=lambda name, result, usd: paid.append((result, usd)),
        )
        try:
            return await work(upstream)
        finally:
            await upstream.close()

    return asyncio.run(run()), calls


def asks(upstream, text, *, sampling=GREEDY, within_s=5.0, limit_s=None):
    prompt = Prompt(text=text)
    return asyncio.ensure_future(
        upstream.ask(prompt, sampling, until=later(within_s), limit_s=limit_s)
    )


def test_what_a_model_of_this_process_has_begun_is_paid_for():
    async def work(upstream):
        begun = asks(upstream, "a prompt that it begins", limit_s=0.2)
        await asyncio.sleep(0.05)
        waits = asks(upstream, "a prompt that waits for it", limit_s=0.05)
        return await asyncio.gather(begun, waits)

    paid = []
    local(Local(seconds=20.0), work, paid=paid)
    assert paid == [("given_up", 0), ("given_up", round(len("a prompt that it begins") / 4))]
    paid = []
    local(Local(), lambda upstream: asks(upstream, "x"), paid=paid)
    assert paid == [("answered", 1 + 2)]


def test_a_model_that_is_gone_is_a_failure_and_no_error():
    backend = Local(error=BackendError("out of memory"))
    outcome, calls = local(backend, lambda upstream: asks(upstream, "x"))
    assert outcome == Failure(message="out of memory", can_retry=True)
    assert calls == ["failed"]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), None], ids=["raised", "miscounted"])
def test_a_fault_nobody_has_thought_of_is_a_failure_and_logged(error, caplog):
    backend = Local(error=error)
    if error is None:
        backend.answers = 0

    async def work(upstream):
        outcomes = [await asks(upstream, "x"), await asks(upstream, "y")]
        backend.error, backend.answers = None, 1
        return [*outcomes, await asks(upstream, "z")]

    (*failures, answer), calls = local(backend, work)
    assert all(isinstance(failure, Failure) and failure.can_retry for failure in failures)
    assert "a fault of its own" in failures[0].message
    assert calls == ["failed", "failed", "answered"]
    assert answer.text == "z!"
    assert "nobody has thought of" in caplog.text


def test_a_model_in_this_process_streams_its_answer_in_one_piece():
    (piece, completion), _ = local(Local(), lambda upstream: everything(upstream, TEXT))
    assert piece.text == completion.text == f"{TEXT.text}!"


def test_what_comes_while_a_local_model_works_is_asked_together():
    other = Sampling(max_tokens=7)

    async def work(upstream):
        first = asks(upstream, "a")
        await asyncio.sleep(0.05)
        rest = [asks(upstream, text) for text in "bcd"]
        rest.append(asks(upstream, "e", sampling=other))
        await asyncio.sleep(0)
        rest.pop(1).cancel()
        return [(await task).text for task in [first, *rest]]

    backend = Local(seconds=0.1)
    texts, calls = local(backend, work)
    assert texts == ["a!", "b!", "d!", "e!"]
    assert backend.batches == [["a"], ["b", "d"], ["e"]]
    assert calls.count("answered") == 4


def test_who_waits_too_long_for_a_busy_model_does_not_count_against_it():
    async def work(upstream):
        first = asks(upstream, "a")
        await asyncio.sleep(0.05)
        second = await asks(upstream, "b", limit_s=0.1)
        await first
        return second, upstream.breaker.state

    (outcome, state), calls = local(Local(seconds=0.4), work, breaker_failures=1)
    assert "more to do than it can at once" in outcome.message
    assert calls == ["crowded_out", "answered"]
    assert state == "closed"
