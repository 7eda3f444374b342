"""Features: the same names in the same order whoever answers, NaN for what is not known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, LogprobStatistics
from pyramid_moa.router_model.features import (
    DEFAULT_GROUPS,
    FEATURE_GROUPS,
    NO_ANSWER,
    NOT_ASKED,
    FeatureSpec,
    gather_evidence,
    groups_for,
)

NUMBERS = load_grader("gsm8k")
# What a verifier says is tested beside it.
GROUPS = tuple(group for group in FEATURE_GROUPS if group != "verifier")
SPEC = FeatureSpec(groups=GROUPS)
QUESTION = "What are 2 and 3?"


def row(answer, *, name="a", response="So 2 + 3 = 5", logprob=-0.1, **fields):
    values = {
        "query_id": "q",
        "model": name,
        "response": response,
        "answer": answer,
        "finish_reason": "stop",
        "completion_tokens": 10,
        "logprobs": None if logprob is None else LogprobStatistics(mean=logprob, minimum=-2.0),
    }
    return Generation(**(values | fields))


def failed(name="a"):
    return Generation(query_id="q", model=name, error="too long")


def gathered(*rows, spec=SPEC, question=QUESTION):
    return gather_evidence(spec, question, rows, NUMBERS.equal)


def of_answer(evidence, place=0, spec=SPEC):
    """Features of one answer by name."""
    return dict(zip(spec.answer_names, evidence.answers[place].tolist(), strict=True))


@pytest.mark.parametrize("members", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", ["answered", "not asked", "failed"])
def test_shapes_go_by_the_members_and_names_do_not(members, kind):
    one = {"answered": row("5"), "not asked": None, "failed": failed()}[kind]
    evidence = gathered(*[one] * members)
    assert evidence.answers.shape == (members, len(SPEC.answer_names))
    assert evidence.relations.shape == (members, members, len(SPEC.relation_names))
    assert evidence.question.shape == (len(SPEC.question_names),)
    assert evidence.clusters.shape == (members,)
    assert SPEC.names == (*SPEC.answer_names, *SPEC.relation_names, *SPEC.question_names)
    for values in (evidence.answers, evidence.relations, evidence.question):
        assert values.dtype == np.float32
    assert evidence.clusters.dtype == np.int64


def test_the_names_are_frozen():
    """Another name or order would break every checkpoint: train again, and change this test."""
    spec = FeatureSpec(groups=("agreement", "lengths", "stated", "semantics", "closeness"))
    assert spec.names == (
        "stated/confidence",
        "lengths/characters",
        "lengths/tokens",
        "lengths/numbers",
        "lengths/lines",
        "lengths/sentences",
        "lengths/cut_off",
        "semantics/same_words",
        "semantics/same_numbers",
        "closeness/closeness",
    )
    assert len(SPEC.names) == len(set(SPEC.names)) == 5 + 1 + 6 + 21 + 15 + 3 + 16


def test_an_answer_is_read_alike_at_every_place_and_beside_everybody():
    own = row("7", response="So 2 and 3 make 7, or 2 * 3 = 7.\nBut not 5.", logprob=-0.4)
    alone = gathered(own).answers[0]
    for rows, place in (((own, row("5")), 0), ((None, own), 1), ((row("1"), failed(), own), 2)):
        assert gathered(*rows).answers[place].tobytes() == alone.tobytes()
    renamed = row("7", name="z", response=own.response, logprob=-0.4)
    assert gathered(renamed).answers[0].tobytes() == alone.tobytes()


def test_the_order_in_which_groups_are_named_does_not_matter():
    turned = FeatureSpec(groups=tuple(reversed(GROUPS)))
    assert turned.names == SPEC.names
    rows = (row("5"), row("7"))
    for kind in ("answers", "relations", "question"):
        one, other = gathered(*rows), gathered(*rows, spec=turned)
        assert getattr(one, kind).tobytes() == getattr(other, kind).tobytes()


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_is_left_out_changes_no_other(group):
    if group == "agreement":
        return
    spec = FeatureSpec(groups=tuple(g for g in GROUPS if g != group))
    assert not any(name.startswith(f"{group}/") for name in spec.names)
    rows = (row("5"), row("7", response="2 * 3 = 7"), None)
    full, part = gathered(*rows), gathered(*rows, spec=spec)
    for kind in ("answer", "relation", "question"):
        names = getattr(SPEC, f"{kind}_names")
        kept = [names.index(name) for name in getattr(spec, f"{kind}_names")]
        attribute = {"answer": "answers", "relation": "relations", "question": "question"}[kind]
        np.testing.assert_array_equal(getattr(part, attribute), getattr(full, attribute)[..., kept])


def test_agreement_alone_is_who_answers_alike():
    evidence = gathered(row("5"), row("7"), spec=FeatureSpec(groups=("agreement",)))
    assert evidence.answers.shape == (2, 0)
    assert evidence.relations.shape == (2, 2, 0)
    assert evidence.question.shape == (0,)
    assert evidence.clusters.tolist() == [0, 1]


def test_clusters_are_of_the_first_member_with_an_equal_answer():
    evidence = gathered(row("5"), row("7"), None, row("5.0"), failed(), row(None), row("7"))
    assert evidence.clusters.tolist() == [0, 1, NOT_ASKED, 0, NO_ANSWER, NO_ANSWER, 1]
    assert evidence.vote.clusters == (0, 1, None, 0, None, None, 1)


def test_the_vote_goes_by_the_graders_equality_and_ties_to_the_member_listed_first():
    assert gathered(row("1,000"), row("1000.0"), row("7")).vote.share == pytest.approx(2 / 3)
    assert gathered(row("1"), row("2"), row("3")).vote.answer == "1"


@pytest.mark.parametrize("absent", [None, failed()])
def test_of_a_member_that_failed_or_was_not_asked_nothing_is_known(absent):
    evidence = gathered(row("5"), absent, row("5"))
    assert np.isnan(evidence.answers[1]).all()
    assert np.isnan(evidence.relations[1]).all()
    assert np.isnan(evidence.relations[:, 1]).all()
    assert not np.isnan(evidence.relations[0, 2]).any()
    assert np.isfinite(evidence.question).all()


def test_nobody_answered():
    evidence = gathered(None, failed(), None)
    assert evidence.vote.answer is None
    assert evidence.clusters.tolist() == [NOT_ASKED, NO_ANSWER, NOT_ASKED]
    assert np.isnan(evidence.answers).all()


def test_what_a_backend_does_not_tell_is_unknown():
    named = of_answer(gathered(row("5", logprob=None, finish_reason=None, completion_tokens=None)))
    unknown = {name for name, value in named.items() if math.isnan(value)}
    assert unknown == {
        *(name for name in named if name.startswith(("confidence/", "stated/"))),
        "lengths/tokens",
        "lengths/cut_off",
    }


def test_without_a_text_its_form_is_unknown_and_the_answers_is_known():
    named = of_answer(gathered(row("5", response=None)))
    assert math.isnan(named["lengths/characters"])
    assert math.isnan(named["form/digit_share"])
    assert math.isnan(named["form/answer_at_end"])
    assert math.isnan(named["arithmetic/equations"])
    assert named["form/answer_length"] == pytest.approx(math.log(2))
    assert named["lengths/tokens"] == pytest.approx(math.log1p(10))
    assert named["arithmetic/integer"] == 1.0


def test_confidence_is_of_the_log_probabilities():
    statistics = LogprobStatistics(
        mean=-0.5, minimum=-3.0, tail_mean=-0.25, answer_mean=-0.125, answer_minimum=-1.0
    )
    named = of_answer(gathered(row("5", logprobs=statistics, confidence=0.75)))
    assert {name: value for name, value in named.items() if name.startswith("confidence/")} == {
        "confidence/mean": -0.5,
        "confidence/minimum": -3.0,
        "confidence/tail_mean": -0.25,
        "confidence/answer_mean": -0.125,
        "confidence/answer_minimum": -1.0,
    }
    assert named["stated/confidence"] == 0.75


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, math.nan])
def test_a_confidence_that_is_no_number_is_unknown(value):
    evidence = gathered(row("5", confidence=value, logprob=value), row("5", confidence=0.75), None)
    named = of_answer(evidence)
    assert math.isnan(named["stated/confidence"])
    assert math.isnan(named["confidence/mean"])
    assert of_answer(evidence, 1)["stated/confidence"] == 0.75
    assert not np.isinf(evidence.answers).any()


def test_lengths():
    text = "First 1,200. Then 3. \nThe rest: 4"
    named = of_answer(gathered(row("4", response=text, finish_reason="length")))
    assert named["lengths/characters"] == pytest.approx(math.log1p(len(text)))
    assert named["lengths/tokens"] == pytest.approx(math.log1p(10))
    assert named["lengths/numbers"] == pytest.approx(math.log1p(3))
    assert named["lengths/lines"] == pytest.approx(math.log1p(1))
    assert named["lengths/sentences"] == pytest.approx(math.log1p(2))
    assert named["lengths/cut_off"] == 1.0
    assert of_answer(gathered(row("4")))["lengths/cut_off"] == 0.0


def test_form_of_a_text_and_its_answer():
    text = "But 2 + 3 = 5, so not \\frac? It is 0.3333 of what"  # 49 characters
    named = of_answer(gathered(row("-[1/2]", response=text), question="Is it 2 or what"))
    expected = {
        "digit_share": 8 / len(text),
        "operator_share": 2 / len(text),
        "equals_signs": math.log(2),
        "hedges": math.log(4),  # but, so, not
        "question_marks": math.log(2),
        "backslashes": math.log(2),
        "long_decimals": math.log(2),
        "distinct_words": 1.0,
        "words_of_question": 3 / 4,  # is, it, what; not "or"
        "answer_missing": 0.0,
        "answer_length": math.log1p(6),
        "answer_digits": math.log1p(2),
        "answer_letters": 0.0,
        "answer_marks": math.log1p(4),
        "answer_negative": 1.0,
        "answer_fraction": 1.0,
        "answer_brackets": 1.0,
        "answer_quotes": 0.0,
        "answer_in_question": 0.0,
        "answer_repeated": 0.0,
        "answer_at_end": 0.0,
    }
    for name, value in expected.items():
        assert named[f"form/{name}"] == pytest.approx(value), name
    assert {name for name in named if name.startswith("form/")} == {f"form/{n}" for n in expected}


def test_where_the_answer_stands():
    text = "5 and 5" + " " * 200 + "is all"
    named = of_answer(gathered(row("5", response=text), question="5 or 6?"))
    assert named["form/answer_in_question"] == 1.0
    assert named["form/answer_repeated"] == pytest.approx(math.log1p(2))
    assert named["form/answer_at_end"] == 0.0
    assert of_answer(gathered(row("5", response=text + " 5")))["form/answer_at_end"] == 1.0


def test_an_answer_that_is_missing():
    named = of_answer(gathered(row(None, response="I do not know")))
    assert named["form/answer_missing"] == 1.0
    assert named["form/answer_length"] == 0.0
    assert named["form/hedges"] == pytest.approx(math.log(2))
    assert math.isnan(named["form/answer_repeated"])
    assert math.isnan(named["arithmetic/integer"])


@pytest.mark.parametrize("groups", [("lengths",), ("agreement", "colours"), ()])
def test_wrong_specs_are_refused(groups):
    with pytest.raises(ConfigError, match=r"groups among agreement, .* with agreement"):
        FeatureSpec(groups=groups)


def test_numeric_groups_are_for_numbers_only():
    assert groups_for(FEATURE_GROUPS, NUMBERS) == FEATURE_GROUPS
    left = groups_for(FEATURE_GROUPS, load_grader("text"))
    assert set(FEATURE_GROUPS) - set(left) == {"arithmetic", "closeness"}
    names = FeatureSpec(groups=left).names
    assert not any(name.startswith(("arithmetic/", "closeness/")) for name in names)
    assert "semantics/same_numbers" in names
    assert set(FEATURE_GROUPS) - set(DEFAULT_GROUPS) == {"stated", "verifier"}


def test_arithmetic_of_each_answer():
    evidence = gathered(
        row("5", response="2 + 3 = 5"),
        row("6", response="2 + 3 = 6"),
        row("5", response="2 + 3 = 5 and 1 + 1 = 3"),
    )
    shares = [of_answer(evidence, k)["arithmetic/wrong_equations"] for k in range(3)]
    assert shares == [0.0, 1.0, 0.5]


answers = st.none() | st.sampled_from(["1", "2", "3.5", "-7", "1e9", "", "eleven", "9" * 400])
texts = st.text(max_size=80) | st.none()
numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.none() | st.tuples(answers, texts, numbers, st.integers(0, 10**9)),
        min_size=3,
        max_size=3,
    ),
    st.text(max_size=60),
)
def test_any_answers_give_finite_or_unknown_features(rows, question):
    generations = [
        None
        if item is None
        else row(item[0], response=item[1], logprob=item[2], completion_tokens=item[3])
        for item in rows
    ]
    evidence = gathered(*generations, question=question)
    again = gathered(*generations, question=question)
    for kind in ("answers", "relations", "question"):
        assert not np.isinf(getattr(evidence, kind)).any()
        assert getattr(evidence, kind).tobytes() == getattr(again, kind).tobytes()
    assert np.isfinite(evidence.question).all()
