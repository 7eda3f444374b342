"""The OpenAI backend against a real vLLM server, with transformers as the measure."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from vllm_server import VllmServer

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.protocol import Completion, Failure, Message, Prompt, Sampling
from pyramid_moa.errors import BackendError

# The limit counts the start of the server, whichever test comes first.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

GREEDY = Sampling(max_tokens=32)
CHATS = [
    Prompt(
        messages=(
            Message(role="system", content="You are brief."),
            Message(role="user", content=question),
        )
    )
    for question in ("What is 2+2?", "How many legs have 7 spiders?", "Größe von 3 Äpfeln → ?", "")
]
TEXTS = [Prompt(text=text) for text in ("Hello", "Question: 12*12?\nAnswer:", "日本", "a\x00b")]


def spec_for(server: VllmServer, **fields: Any) -> ModelSpec:
    given = {"model": server.served_name, "base_url": server.base_url, "max_retries": 0, **fields}
    return ModelSpec(name="member", backend="openai", **given)


@pytest.fixture(scope="module")
def backend(vllm_server: VllmServer) -> Iterator[OpenAIBackend]:
    opened = OpenAIBackend(spec_for(vllm_server))
    opened.check()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(vllm_server: VllmServer) -> "Reference":
    return Reference(vllm_server)


class Reference:
    """Greedy answers and their log-probabilities by plain transformers, a token at a time."""

    def __init__(self, server: VllmServer) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(server.model_folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            server.model_folder, dtype=torch.float32
        ).eval()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return self.tokenizer(prompt.text)["input_ids"]
        return self.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in prompt.messages],
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]

    def greedy(self, prompt: Prompt, max_tokens: int) -> tuple[list[int], list[float]]:
        import torch

        ids, logprobs = self.prompt_ids(prompt), []
        start = len(ids)
        with torch.inference_mode():
            while len(ids) < start + max_tokens and ids[-1] != self.tokenizer.eos_token_id:
                logits = self.model(torch.tensor([ids])).logits[0, -1]
                best = int(logits.argmax())
                ids.append(best)
                logprobs.append(float(torch.log_softmax(logits.float(), -1)[best]))
        return ids[start:], logprobs

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def completions(outcomes: Sequence[Completion | Failure]) -> list[Completion]:
    assert all(isinstance(outcome, Completion) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Completion)]


def test_greedy_answers_are_those_of_transformers(
    backend: OpenAIBackend, reference: Reference
) -> None:
    prompts = [*CHATS, *TEXTS]
    answers = completions(backend.generate(prompts, GREEDY))
    worst = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, logprobs = reference.greedy(prompt, GREEDY.max_tokens)
        # vLLM holds back the last bytes of an answer that are no whole character.
        assert answer.text.rstrip("\ufffd") == reference.text(ids).rstrip("\ufffd")
        assert answer.prompt_tokens == len(reference.prompt_ids(prompt))
        assert answer.completion_tokens == len(ids) == len(answer.tokens)
        ended = ids[-1] == reference.tokenizer.eos_token_id
        assert answer.finish_reason == ("stop" if ended else "length")
        pairs = zip(answer.tokens, logprobs, strict=True)
        worst = max(worst, *(abs(token.logprob - logprob) for token, logprob in pairs))
    assert worst < 1e-3


def test_spans_show_each_tokens_text(backend: OpenAIBackend, reference: Reference) -> None:
    prompts = [Prompt(text=f"Question {number}:") for number in range(24)]
    compared = 0
    for prompt, answer in zip(prompts, completions(backend.generate(prompts, GREEDY)), strict=True):
        tokens = answer.tokens
        assert [t.start for t in tokens] == sorted(t.start for t in tokens)
        assert [t.end for t in tokens] == sorted(t.end for t in tokens)
        assert all(0 <= t.start <= t.end <= len(answer.text) for t in tokens)
        # From the first byte on that is in no character, nobody can say whose text is whose.
        sound = len(answer.text.partition("\ufffd")[0])
        ids, _ = reference.greedy(prompt, GREEDY.max_tokens)
        for token, number in zip(tokens, ids, strict=True):
            piece = reference.text([number])
            if token.end <= sound and piece != "\ufffd":
                assert answer.text[token.start : token.end] == piece
                compared += 1
        assert {c for t in tokens for c in range(t.start, t.end)} >= set(range(sound))
    assert compared > 100


def test_the_end_token_is_counted_and_has_no_text(
    backend: OpenAIBackend, vllm_server: VllmServer, reference: Reference
) -> None:
    # The random model ends some of these answers by itself; sampling makes that sure enough.
    sampling = Sampling(max_tokens=150, temperature=1.5, seed=5)
    answers = completions(backend.generate([Prompt(text=f"{n}") for n in range(24)], sampling))
    ended = [answer for answer in answers if answer.finish_reason == "stop"]
    assert ended
    for answer in ended:
        assert answer.completion_tokens == len(answer.tokens) < 150
        assert answer.tokens[-1].start == answer.tokens[-1].end == len(answer.text)
        assert "</s>" not in answer.text


def test_sampling_follows_the_seed(backend: OpenAIBackend) -> None:
    def sampled(seed: int) -> list[str]:
        sampling = Sampling(max_tokens=20, temperature=1.0, seed=seed)
        return [answer.text for answer in completions(backend.generate(TEXTS, sampling))]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_logprobs_are_those_of_temperature_one(
    backend: OpenAIBackend, reference: Reference
) -> None:
    # As good as greedy, yet scaled: a server that reported scaled values would say 0.
    cold = Sampling(max_tokens=8, temperature=1e-4, top_p=0.5)
    (answer,) = completions(backend.generate([TEXTS[0]], cold))
    _, logprobs = reference.greedy(TEXTS[0], 8)
    assert [token.logprob for token in answer.tokens] == pytest.approx(logprobs, abs=1e-3)


def test_stop_text_is_cut_off(backend: OpenAIBackend) -> None:
    (whole,) = completions(backend.generate([TEXTS[0]], GREEDY))
    mark = next(c for c in whole.text if c.isprintable() and c != "\ufffd")
    sampling = Sampling(max_tokens=32, stop=(mark,))
    (answer,) = completions(backend.generate([TEXTS[0]], sampling))
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text.partition(mark)[0]
    assert all(0 <= t.start <= t.end <= len(answer.text) for t in answer.tokens)
    assert len(answer.tokens) == answer.completion_tokens


def test_bad_prompts_are_failures_beside_answers(
    backend: OpenAIBackend, vllm_server: VllmServer
) -> None:
    long = "How long can a question be? " * vllm_server.context
    prompts = [TEXTS[0], Prompt(text=long), Prompt(messages=(Message(role="user", content=long),))]
    outcomes = backend.generate([*prompts, Prompt(text=""), TEXTS[0]], GREEDY)
    first, text, chat, empty, last = outcomes
    assert isinstance(first, Completion)
    assert isinstance(last, Completion)
    assert first.text == last.text
    for outcome in (text, chat, empty):
        assert isinstance(outcome, Failure)
        assert not outcome.can_retry
        assert "How long can" not in outcome.message
    for outcome in (text, chat):
        assert isinstance(outcome, Failure)
        assert "shorten the prompt or lower max_tokens" in outcome.message
        assert "256 tokens" in outcome.message


def test_unknown_model(vllm_server: VllmServer) -> None:
    other = OpenAIBackend(spec_for(vllm_server, model="tiny-randon"))
    with pytest.raises(BackendError, match=r"'tiny-randon'; it has tiny-random$"):
        other.check()
    (outcome,) = other.generate([TEXTS[0]], GREEDY)
    other.close()
    assert isinstance(outcome, Failure)
    assert outcome.can_retry
    assert "is there a model 'tiny-randon'" in outcome.message


def test_wrong_address(vllm_server: VllmServer) -> None:
    # Without /v1 there is no list of models, which other servers lack as well: the question tells.
    other = OpenAIBackend(spec_for(vllm_server, base_url=vllm_server.base_url.removesuffix("/v1")))
    other.check()
    (outcome,) = other.generate([CHATS[0]], GREEDY)
    other.close()
    assert isinstance(outcome, Failure)
    assert "does base_url end as it should (often /v1)?" in outcome.message


def test_many_at_once_are_answered_as_one_by_one(
    backend: OpenAIBackend, vllm_server: VllmServer
) -> None:
    prompts = [Prompt(text=f"Question {number}: {number} + 1 = ") for number in range(48)]
    sampling = Sampling(max_tokens=12)
    started = time.perf_counter()
    together = completions(backend.generate(prompts, sampling))
    together_s = time.perf_counter() - started
    single = OpenAIBackend(spec_for(vllm_server, max_concurrency=1))
    apart = completions(single.generate(prompts, sampling))
    single.close()
    assert [answer.text for answer in together] == [answer.text for answer in apart]
    for one, other in zip(together, apart, strict=True):
        assert [t.logprob for t in one.tokens] == pytest.approx(
            [t.logprob for t in other.tokens], abs=1e-3
        )
    # They were under way at the same time: one after another their times would add up to it.
    assert sum(answer.latency_s for answer in together) > 3 * together_s


def test_from_a_loop_and_cancelled(backend: OpenAIBackend) -> None:
    async def answers() -> list[Completion | Failure]:
        halves = await asyncio.gather(
            backend.agenerate(CHATS, GREEDY), backend.agenerate(TEXTS, GREEDY)
        )
        return [*halves[0], *halves[1]]

    async def impatient() -> None:
        async with asyncio.timeout(0.05):
            await backend.agenerate([Prompt(text="x")] * 40, Sampling(max_tokens=250))

    whole = completions(asyncio.run(answers()))
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    again = completions(backend.generate([*CHATS, *TEXTS], GREEDY))
    assert [answer.text for answer in whole] == [answer.text for answer in again]
    assert all(math.isfinite(token.logprob) for answer in again for token in answer.tokens)
