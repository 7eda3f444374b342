"""What the transformers backend answers, with plain forward passes as the measure."""

import asyncio
import json

import numpy as np
import pytest
import torch
from tiny_backend import GREEDY, HIDDEN, PROMPTS, chat, open_folder

from pyramid_moa.backends import Completion, Failure, Prompt, Sampling
from tiny_model import CONTEXT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def answers(backend):
    return backend.generate(PROMPTS, GREEDY)


def prompt_ids(backend, prompt):
    tokenizer = backend._tokenizer
    if prompt.messages is None:
        return tokenizer(prompt.text)["input_ids"]
    text = "".join(f"{m.role}: {m.content}\n" for m in prompt.messages) + "assistant:"
    return tokenizer(text)["input_ids"]


@torch.inference_mode()
def reference(backend, prompt, *, max_tokens=12):
    """Greedy answer by plain forward passes over the whole text, without cache or padding."""
    model = backend._model
    prompt = prompt_ids(backend, prompt)
    ids, logprobs = list(prompt), []
    for _ in range(max_tokens):
        passed = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        scores = passed.logits[0, -1].log_softmax(-1)
        ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
        if ids[-1] in backend._eos:
            break
    # What the last pass has seen: everything but the final token.
    states = {}
    for layer in HIDDEN.layers:
        seen = passed.hidden_states[layer][0].numpy()
        own = seen[len(prompt) :]
        states[f"layer{layer}/last_prompt"] = seen[len(prompt) - 1]
        states[f"layer{layer}/last_position"] = seen[-1]
        states[f"layer{layer}/answer_mean"] = own.mean(0) if len(own) else seen[-1]
    return ids[len(prompt) :], logprobs, states


def test_batched_left_padded_answers_are_those_of_plain_forward_passes(backend, answers):
    lengths = set()
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids, logprobs, states = reference(backend, prompt)
        lengths.add(len(ids))
        assert isinstance(answer, Completion)
        assert answer.text == backend._tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.prompt_tokens == len(prompt_ids(backend, prompt))
        assert answer.completion_tokens == len(ids)
        assert answer.finish_reason == ("stop" if ids[-1] in backend._eos else "length")
        assert [token.logprob for token in answer.tokens] == pytest.approx(logprobs, abs=1e-4)
        assert tuple(answer.hidden_states) == backend.hidden_keys == HIDDEN.keys
        for key, expected in states.items():
            found = answer.hidden_states[key]
            assert found.dtype == np.float16
            assert found.shape == (64,)
            np.testing.assert_allclose(found.astype(np.float32), expected, atol=5e-3, rtol=2e-3)
    assert 12 in lengths, "some rows must run to the end"
    assert any(1 < length < 12 for length in lengths), "some rows must end before their batch"


def test_batched_equals_one_by_one(backend, answers):
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        (single,) = backend.generate([prompt], GREEDY)
        assert single.text == answer.text
        assert single.finish_reason == answer.finish_reason
        assert len(single.tokens) == len(answer.tokens)
        for one, other in zip(single.tokens, answer.tokens, strict=True):
            assert (one.start, one.end) == (other.start, other.end)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        for key in HIDDEN.keys:
            np.testing.assert_allclose(
                single.hidden_states[key].astype(np.float32),
                answer.hidden_states[key].astype(np.float32),
                atol=5e-3,
                rtol=2e-3,
            )


def test_the_only_token_of_an_answer_has_the_last_prompt_position_for_its_states(backend):
    (answer,) = backend.generate([chat("apples")], Sampling(max_tokens=1))
    for layer in HIDDEN.layers:
        at = answer.hidden_states[f"layer{layer}/last_prompt"]
        np.testing.assert_array_equal(answer.hidden_states[f"layer{layer}/answer_mean"], at)
        np.testing.assert_array_equal(answer.hidden_states[f"layer{layer}/last_position"], at)


def test_the_same_answers_without_hidden_states(tiny_models, answers):
    backend = open_folder(tiny_models.member_a)
    assert backend.hidden_keys == ()
    found = backend.generate(PROMPTS, GREEDY)
    assert [answer.text for answer in found] == [answer.text for answer in answers]
    assert all(answer.hidden_states == {} for answer in found)


def test_async_is_the_same(backend, answers):
    found = asyncio.run(backend.agenerate(PROMPTS[:3], GREEDY))
    assert [answer.text for answer in found] == [answer.text for answer in answers[:3]]


def test_no_prompts_no_answers(backend):
    assert backend.generate([], GREEDY) == []


def test_a_stop_text_and_what_follows_is_cut_off(backend, answers):
    letters = "".join(a.text for a in answers if a.finish_reason == "length")
    stop = next(c for c in letters[20:] if c.isascii() and c.isprintable())
    found = backend.generate(PROMPTS, Sampling(max_tokens=12, stop=(stop, "never said")))
    cut = 0
    for plain, stopped in zip(answers, found, strict=True):
        at = plain.text.find(stop)
        if at < 0:
            assert stopped.text == plain.text
            assert stopped.finish_reason == plain.finish_reason
            assert stopped.completion_tokens == plain.completion_tokens
            continue
        cut += 1
        assert stopped.text == plain.text[:at]
        assert stopped.finish_reason == "stop"
        # The tokens are those up to the one that completes the stop text, and no more.
        reached = next(
            n for n, token in enumerate(plain.tokens, start=1) if token.end >= at + len(stop)
        )
        assert stopped.completion_tokens == reached == len(stopped.tokens)
        assert [token.logprob for token in stopped.tokens] == pytest.approx(
            [token.logprob for token in plain.tokens[:reached]], abs=1e-4
        )
        assert all(0 <= t.start <= t.end <= at for t in stopped.tokens)
    assert 0 < cut < len(answers)


def test_hidden_states_of_a_stopped_row_end_with_it(backend, answers):
    plain, stop = next(
        (answer, answer.text[token.start : token.end])
        for answer in answers
        if answer.completion_tokens == 12
        for token in answer.tokens[4:9]
        if token.end > token.start and answer.text[token.start : token.end].isascii()
    )
    prompt = PROMPTS[answers.index(plain)]
    reached = plain.text.find(stop) + len(stop)
    count = next(n for n, token in enumerate(plain.tokens, start=1) if token.end >= reached)
    # Beside a row that goes on, so that the stopped one is padded.
    found = backend.generate([prompt, *PROMPTS], Sampling(max_tokens=12, stop=(stop,)))[0]
    (short,) = backend.generate([prompt], Sampling(max_tokens=count))
    for key in HIDDEN.keys:
        np.testing.assert_allclose(
            found.hidden_states[key].astype(np.float32),
            short.hidden_states[key].astype(np.float32),
            atol=5e-3,
            rtol=2e-3,
        )


def test_a_stop_text_that_only_the_prompt_helps_to_complete_does_not_stop(backend):
    (plain,) = backend.generate([Prompt(text="there are 7 apples")], GREEDY)
    first = plain.text[plain.tokens[0].start : plain.tokens[0].end]
    assert first
    (found,) = backend.generate(
        [Prompt(text="there are 7 apples")], Sampling(max_tokens=12, stop=("apples" + first,))
    )
    assert found == plain or found.text == plain.text
    assert found.completion_tokens == plain.completion_tokens


def test_a_padding_token_that_is_the_end_token_changes_nothing(copy, answers):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    backend = open_folder(copy, hidden_states=HIDDEN)
    assert backend._tokenizer.pad_token_id == backend._eos[0]
    found = backend.generate(PROMPTS, GREEDY)
    assert [answer.text for answer in found] == [answer.text for answer in answers]
    assert [len(answer.tokens) for answer in found] == [len(answer.tokens) for answer in answers]
    plain = next(a for a in answers if a.completion_tokens == 12)
    stop = plain.text[1:3]
    stopped = backend.generate(PROMPTS, Sampling(max_tokens=12, stop=(stop,)))[answers.index(plain)]
    assert stopped.text == plain.text[: plain.text.find(stop)]
    assert stopped.completion_tokens == next(
        n for n, t in enumerate(plain.tokens, 1) if t.end >= plain.text.find(stop) + len(stop)
    )


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone(backend):
    sampling = Sampling(max_tokens=12, temperature=1.0, top_p=0.95, seed=3)
    before = torch.random.get_rng_state()
    first = backend.generate(PROMPTS, sampling)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(12345)
    second = backend.generate(PROMPTS, sampling)
    assert [a.text for a in first] == [a.text for a in second]
    other = backend.generate(PROMPTS, Sampling(max_tokens=12, temperature=1.0, seed=4))
    assert [a.text for a in first] != [a.text for a in other]


@torch.inference_mode()
def test_log_probabilities_of_sampled_tokens_are_those_at_temperature_one(backend):
    prompt = PROMPTS[0]
    (found,) = backend.generate([prompt], Sampling(max_tokens=1, temperature=5.0, top_p=0.9))
    logits = backend._model(torch.tensor([prompt_ids(backend, prompt)])).logits[0, -1]
    gaps = (logits.log_softmax(-1) - found.tokens[0].logprob).abs()
    token = int(gaps.argmin())
    assert float(gaps[token]) < 1e-4
    assert backend._tokenizer.decode([token], skip_special_tokens=True) == found.text


def test_a_models_own_defaults_of_generation_do_not_come_in(copy, answers):
    path = copy / "generation_config.json"
    config = json.loads(path.read_text())
    config |= {"repetition_penalty": 5.0, "min_new_tokens": 12, "max_length": 15}
    config |= {"do_sample": True, "temperature": 3.0, "top_k": 2, "top_p": 0.3}
    path.write_text(json.dumps(config))
    backend = open_folder(copy)
    found = backend.generate(PROMPTS, GREEDY)
    assert [answer.text for answer in found] == [answer.text for answer in answers]
    sampling = Sampling(max_tokens=12, temperature=1.0)
    path.unlink()
    plain = open_folder(copy)
    plain._eos = backend._eos
    assert [a.text for a in plain.generate(PROMPTS, sampling)] == [
        a.text for a in backend.generate(PROMPTS, sampling)
    ]


def test_prompts_that_cannot_be_answered_spoil_no_other(backend, answers):
    bad = [
        chat("x" * 100_000),
        Prompt(text="x" * 100_000),
        Prompt(text="x " * (CONTEXT * 2)),
        Prompt(text=""),
        chat("half a character \ud800"),
    ]
    mixed = [bad[0], PROMPTS[0], bad[1], bad[2], PROMPTS[6], bad[3], bad[4], PROMPTS[1]]
    found = backend.generate(mixed, GREEDY)
    assert [isinstance(outcome, Failure) for outcome in found] == [
        True, False, True, True, False, True, True, False
    ]  # fmt: skip
    assert [found[index].text for index in (1, 4, 7)] == [
        answers[index].text for index in (0, 6, 1)
    ]
    assert not any(found[index].can_retry for index in (0, 2, 3, 5, 6))
    assert "too long" in found[0].message
    assert "far more tokens" in found[0].message
    assert "too long" in found[3].message
    assert f"context of {CONTEXT}" in found[3].message
    assert "empty prompt" in found[5].message
    assert "tokenised" in found[6].message
    assert all("\n" not in found[index].message for index in (0, 2, 3, 5, 6))
    assert len(found[0].message) < 300


def test_a_prompt_may_fill_the_context_to_the_last_token(backend):
    room = CONTEXT - GREEDY.max_tokens
    fits = Prompt(text="x" * room)
    assert len(prompt_ids(backend, fits)) == room
    full, over = backend.generate([fits, Prompt(text="x" * (room + 1))], GREEDY)
    assert isinstance(full, Completion)
    assert isinstance(over, Failure)


def test_only_bad_prompts(backend):
    assert all(isinstance(o, Failure) for o in backend.generate([Prompt(text="")] * 2, GREEDY))
