import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.backends import Completion, Failure, ModelSpec, Price, Token
from pyramid_moa.data_prep.graded import graded_generation, logprob_statistics
from pyramid_moa.grading import Extraction, load_grader
from pyramid_moa.records import Generation, LogprobStatistics, Query

GRADER = load_grader("gsm8k")
SPEC = ModelSpec(name="m", model="x", price=Price(input=1.0, output=2.0))
QUERY = Query(query_id="q1", question="How many apples?", gold="42")


def completion(text, **fields):
    return Completion(
        **{
            "text": text,
            "finish_reason": "stop",
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "latency_s": 0.25,
            **fields,
        }
    )


def tokens(*pieces):
    """Tokens one after the other, of length and log-probability."""
    found, at = [], 0
    for length, logprob in pieces:
        found.append(Token(start=at, end=at + length, logprob=logprob))
        at += length
    return tuple(found)


def test_an_answer_is_found_graded_and_priced():
    states = {"layer-1/answer_mean": np.ones(2, np.float16)}
    found = graded_generation(QUERY, SPEC, completion("so #### 42", hidden_states=states), GRADER)
    assert found == Generation(
        query_id="q1",
        model="m",
        response="so #### 42",
        answer="42",
        correct=True,
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=4,
        latency_s=0.25,
        cost_usd=18e-6,
    )
    assert found.hidden_states == states


@pytest.mark.parametrize(
    ("text", "gold", "answer", "correct"),
    [
        ("#### 42.0", "42", "42.0", True),
        ("#### 41", "42", "41", False),
        ("no idea", "42", None, False),
        ("#### 41", None, "41", None),
        ("no idea", None, None, None),
    ],
)
def test_right_wrong_or_not_to_be_said(text, gold, answer, correct):
    query = Query(query_id="q", question="?", gold=gold)
    found = graded_generation(query, SPEC, completion(text), GRADER)
    assert found.correct is correct
    assert (found.answer is None) == (answer is None)
    assert answer is None or GRADER.equal(found.answer, answer)


@pytest.mark.parametrize(("gold", "correct"), [("42", False), (None, None)])
def test_a_failure_costs_nothing_and_is_wrong(gold, correct):
    query = Query(query_id="q", question="?", gold=gold)
    found = graded_generation(
        query, SPEC, Failure(message="busy", can_retry=True, latency_s=2.0), GRADER
    )
    assert found == Generation(
        query_id="q", model="m", correct=correct, error="busy", can_retry=True, latency_s=2.0,
        cost_usd=0.0,
    )  # fmt: skip


def test_a_recorded_generation_is_handed_on_as_the_answer_to_this_query():
    row = Generation(query_id="of-a-table", model="m", answer="42", correct=False, cost_usd=3.0)
    found = graded_generation(QUERY, SPEC, completion("", recorded=row), GRADER)
    assert found == replace(row, query_id=QUERY.query_id, correct=True)
    nobody_knows = replace(QUERY, gold=None)
    found = graded_generation(nobody_knows, SPEC, completion("", recorded=row), GRADER)
    assert found == replace(row, query_id=QUERY.query_id)


def test_an_answer_that_can_not_be_used_is_paid_for():
    failed = Failure(
        message="null content", can_retry=False, prompt_tokens=1000, completion_tokens=500
    )
    row = graded_generation(QUERY, SPEC, failed, GRADER)
    assert row.error == "null content"
    assert row.cost_usd == pytest.approx((1000 + 2 * 500) / 1e6)


@pytest.mark.parametrize(("prompt", "answer"), [(None, None), (10, None), (None, 4)])
def test_where_a_server_does_not_count_the_estimate_is_marked(prompt, answer):
    found = graded_generation(
        QUERY,
        SPEC,
        completion("it is 42", prompt_tokens=prompt, completion_tokens=answer),
        GRADER,
    )
    assert found.tokens_estimated
    assert found.prompt_tokens == (prompt or 4)
    assert found.completion_tokens == (answer or 3)
    assert found.cost_usd == pytest.approx(
        (found.prompt_tokens + 2 * found.completion_tokens) / 1e6
    )


def test_statistics_of_response_tail_and_answer():
    # "so #### 42" with the answer in two tokens, then the end token.
    text = "so #### 42"
    spans = tokens((2, -1.0), (6, -2.0), (1, -0.5), (1, -0.25), (0, -3.0))
    found = graded_generation(QUERY, SPEC, completion(text, tokens=spans), GRADER).logprobs
    assert found == LogprobStatistics(
        mean=-6.75 / 5, minimum=-3.0, tail_mean=-6.75 / 5, answer_mean=-0.375, answer_minimum=-0.5
    )


def test_the_tail_is_eight_tokens():
    found = logprob_statistics(tokens(*[(1, -9.0)] * 5, *[(1, -1.0)] * 8), None)
    assert found.tail_mean == -1.0
    assert found.minimum == -9.0
    assert found.mean == pytest.approx(-53 / 13)
    assert found.answer_mean is None
    assert found.answer_minimum is None


def test_a_token_counts_for_the_answer_where_it_overlaps_it():
    spans = tokens((3, -1.0), (3, -2.0), (3, -4.0), (3, -8.0))
    found = logprob_statistics(spans, Extraction("x", 5, 7))
    assert found.answer_mean == -3.0
    assert found.answer_minimum == -4.0
    # Neighbours that only touch it do not count.
    assert logprob_statistics(spans, Extraction("x", 3, 6)).answer_mean == -2.0


def test_an_answer_without_tokens_of_its_own_has_no_statistics():
    found = logprob_statistics(tokens((3, -1.0)), Extraction("x", 10, 12))
    assert found.answer_mean is None
    assert found.mean == -1.0


def test_no_tokens_no_statistics():
    assert logprob_statistics((), Extraction("x", 0, 1)) is None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-50, 0)), min_size=1, max_size=30),
    st.integers(0, 40),
    st.integers(1, 10),
)
def test_statistics_stay_between_the_extremes(pieces, start, length):
    found = logprob_statistics(tokens(*pieces), Extraction("x", start, start + length))
    low, high = min(v for _, v in pieces), max(v for _, v in pieces)
    assert found.minimum == low
    for value in (found.mean, found.tail_mean, found.answer_mean, found.answer_minimum):
        assert value is None or low - 1e-9 <= value <= high + 1e-9
    assert (found.answer_mean is None) == (found.answer_minimum is None)
    assert found.answer_mean is None or not math.isnan(found.answer_mean)


class HalfPairs:
    """A grader whose answers no table can hold."""

    name, numeric = "half", False

    def extract(self, text):
        return Extraction(text[:1] + "\udfff", 0, 1)

    def equal(self, a, b):
        return a == b


def test_texts_can_be_stored_whatever_backend_and_grader_give():
    query = Query(query_id="q", question="?", gold="\ufffd\ufffd")
    given = completion("\ud800 x", finish_reason="s\ud800", completion_tokens=None)
    found = graded_generation(query, SPEC, given, HalfPairs())
    assert (found.response, found.answer, found.finish_reason) == (
        "\ufffd x", "\ufffd\ufffd", "s\ufffd",
    )  # fmt: skip
    assert found.correct
    failure = Failure(message="no \ud800", can_retry=False)
    assert graded_generation(query, SPEC, failure, GRADER).error == "no \ufffd"
