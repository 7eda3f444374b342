import asyncio

import numpy as np
import pytest

from pyramid_moa.backends import Completion, Failure, Message, Prompt, RecordedBackend, Sampling
from pyramid_moa.records import Generation, LogprobStatistics

FIRST = Prompt(text="first")
SECOND = Prompt(messages=(Message(role="user", content="second"),))
STATES = {"layer-1/answer_mean": np.ones(3, np.float16)}


def answer(query_id, **fields):
    return Generation(
        query_id=query_id,
        model="m",
        response="so 4",
        answer="4",
        prompt_tokens=7,
        completion_tokens=2,
        latency_s=0.5,
        **fields,
    )


def test_recorded_answers_come_back_as_they_are_in_the_order_of_the_prompts():
    rows = {FIRST: answer("a", finish_reason="length"), SECOND: answer("b", hidden_states=STATES)}
    backend = RecordedBackend("m", rows)
    second, first = backend.generate([SECOND, FIRST], Sampling())
    assert first.recorded is rows[FIRST]
    assert second.recorded is rows[SECOND]
    assert first.finish_reason == "length"
    assert second.finish_reason == "stop"
    assert isinstance(first, Completion)
    assert (first.text, first.prompt_tokens, first.completion_tokens) == ("so 4", 7, 2)
    assert first.latency_s == 0.5
    assert second.hidden_states == STATES
    assert asyncio.run(backend.agenerate([FIRST], Sampling())) == [first]
    backend.close()


def test_without_a_recording_there_is_a_failure():
    (outcome,) = RecordedBackend("m", {}).generate([FIRST], Sampling())
    assert outcome == Failure(message="no recorded answer of m", can_retry=False)


def test_a_recorded_failure_stays_one():
    row = Generation(query_id="a", model="m", error="too long", can_retry=True, latency_s=0.1)
    (outcome,) = RecordedBackend("m", {FIRST: row}).generate([FIRST], Sampling())
    assert outcome == Failure(message="too long", can_retry=False, latency_s=0.1)


@pytest.mark.parametrize(
    ("first", "second", "logprobs", "keys"),
    [
        ({}, {}, False, ()),
        ({"logprobs": LogprobStatistics(mean=-1.0)}, {}, True, ()),
        (
            {"logprobs": LogprobStatistics(mean=-1.0), "hidden_states": STATES},
            {"logprobs": LogprobStatistics(mean=-2.0), "hidden_states": STATES},
            True,
            ("layer-1/answer_mean",),
        ),
        ({"hidden_states": STATES}, {}, False, ()),
    ],
)
def test_it_gives_what_was_recorded(first, second, logprobs, keys):
    backend = RecordedBackend("m", {FIRST: answer("a", **first), SECOND: answer("b", **second)})
    assert backend.gives_logprobs is logprobs
    assert backend.hidden_keys == keys


def test_a_text_that_was_not_recorded_is_empty():
    row = Generation(query_id="a", model="m", answer="4")
    (outcome,) = RecordedBackend("m", {FIRST: row}).generate([FIRST], Sampling())
    assert outcome.text == ""
    assert outcome.recorded is row
