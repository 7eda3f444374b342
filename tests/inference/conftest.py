"""Pyramids of fake models."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from pyramid_moa.backends import Completion, Failure, ModelSpec, Price
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.data_prep.pyramid import Pyramid

# With --import-mode=importlib the helpers beside the tests are found nowhere else.
sys.path.append(str(Path(__file__).parent))


class FakeBackend:
    """Answers as it is told: a text, a Failure, or an error to raise; counts and remembers."""

    def __init__(self, name, reply, *, seconds=0.0, logprobs=False, hidden_keys=()):
        self.name = name
        self.reply = reply
        self.seconds = seconds
        self.gives_logprobs = logprobs
        self.hidden_keys = hidden_keys
        self.closed = 0
        self.asked = []
        self.spans = []
        self.cancelled = False
        self.threads = set()

    def generate(self, prompts, sampling):
        self.threads.add(threading.get_ident())
        start = time.perf_counter()
        time.sleep(self.seconds)
        self.spans.append((start, time.perf_counter()))
        return self._outcomes(prompts)

    async def agenerate(self, prompts, sampling):
        start = time.perf_counter()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.spans.append((start, time.perf_counter()))
        return self._outcomes(prompts)

    def close(self):
        self.closed += 1

    def _outcomes(self, prompts):
        texts = [prompt.text or prompt.messages[-1].content for prompt in prompts]
        self.asked.extend(texts)
        return [self._outcome(text) for text in texts]

    def _outcome(self, text):
        reply = self.reply(text) if callable(self.reply) else self.reply
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Failure):
            return reply
        return Completion(
            text=reply,
            finish_reason="stop",
            prompt_tokens=100,
            completion_tokens=50,
            latency_s=self.seconds,
        )


def _pyramid(*members, backend="transformers", **fields):
    def spec(name, price):
        return ModelSpec(
            name=name,
            model=name,
            backend=backend,
            base_url="http://127.0.0.1:1/v1" if backend == "openai" else None,
            price=Price(input=price, output=2 * price),
            active_parameters=1e9 * price,
        )

    return Pyramid(
        members=[spec(name, 1.0) for name in members],
        oracles=[spec("oracle", 10.0)],
        prompt=PromptTemplate(chat=False),
        **fields,
    )


@pytest.fixture(scope="session")
def fake_backend():
    """``fake_backend(name, reply, seconds=, logprobs=, hidden_keys=)``."""
    return FakeBackend


@pytest.fixture(scope="session")
def make_pyramid():
    """``make_pyramid("a", "b", backend=...)``: members at 1 USD, the oracle at 10."""
    return _pyramid


@pytest.fixture(scope="session")
def fake_gate():
    """``fake_gate({"a": reply, ..., "oracle": reply})``: a gate with the vote rule."""
    from pyramid_moa.inference.gate import Gate

    def make(replies, *, backend="transformers", seconds=0.0, **options):
        members = [name for name in replies if name != "oracle"]
        backends = {
            name: FakeBackend(name, reply, seconds=seconds) for name, reply in replies.items()
        }
        return Gate(_pyramid(*members, backend=backend), backends, **options), backends

    return make
