"""Features: the same names in the same order, NaN for what is not known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, LogprobStatistics
from pyramid_moa.router_model.features import (
    FEATURE_GROUPS,
    FeatureSpec,
    gather_evidence,
    groups_for,
)

NUMBERS = load_grader("gsm8k")
SPEC = FeatureSpec(members=("a", "b", "c"), groups=FEATURE_GROUPS)


def row(answer, *, name="a", response="2 + 3 = 5", logprob=-0.1, **fields):
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


def features(*rows, spec=SPEC, question="What are 2 and 3?"):
    return gather_evidence(spec, question, rows, NUMBERS.equal)


def test_names_are_in_the_order_of_the_values_whatever_was_answered():
    full = features(row("5"), row("5"), row("7"))
    empty = features(None, None, None)
    failed = features(*(Generation(query_id="q", model=n, error="too long") for n in "abc"))
    assert tuple(full.named) == tuple(empty.named) == tuple(failed.named) == SPEC.names
    assert SPEC.names[0] == "agreement/share"  # the network starts from it
    assert full.values.shape == (len(SPEC.names),)
    assert full.values.dtype == np.float32
    assert full.values[0] == np.float32(2 / 3)


def test_the_names_are_frozen():
    """Another name or order would break every checkpoint: train again, and change this test."""
    spec = FeatureSpec(members=("a", "b", "c"), groups=("agreement", "lengths"))
    assert spec.names == (
        "agreement/share",
        "agreement/margin",
        "agreement/entropy",
        "agreement/answers",
        "agreement/unanimous",
        "agreement/answered",
        "agreement/a/with_winner",
        "agreement/a/answered",
        "agreement/b/with_winner",
        "agreement/b/answered",
        "agreement/c/with_winner",
        "agreement/c/answered",
        "agreement/a+b",
        "agreement/a+c",
        "agreement/b+c",
        "lengths/question",
        "lengths/question_numbers",
        "lengths/a/answer",
        "lengths/a/cut_off",
        "lengths/b/answer",
        "lengths/b/cut_off",
        "lengths/c/answer",
        "lengths/c/cut_off",
    )


def test_the_order_in_which_groups_are_named_does_not_matter():
    turned = FeatureSpec(members=SPEC.members, groups=tuple(reversed(FEATURE_GROUPS)))
    assert turned.names == SPEC.names


def test_agreement_of_two_against_one():
    named = features(row("5"), row("7"), row("5.0")).named
    assert named["agreement/share"] == pytest.approx(2 / 3)
    assert named["agreement/margin"] == pytest.approx(1 / 3)
    assert named["agreement/entropy"] == pytest.approx(
        -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    )
    assert named["agreement/answers"] == pytest.approx(2 / 3)
    assert named["agreement/unanimous"] == 0.0
    assert named["agreement/answered"] == 1.0
    assert [named[f"agreement/{n}/with_winner"] for n in "abc"] == [1.0, 0.0, 1.0]
    assert [named[f"agreement/{p}"] for p in ("a+b", "a+c", "b+c")] == [0.0, 1.0, 0.0]


def test_the_vote_goes_by_the_graders_equality_and_ties_to_the_member_listed_first():
    assert features(row("1,000"), row("1000.0"), row("7")).vote.share == pytest.approx(2 / 3)
    assert features(row("1"), row("2"), row("3")).vote.answer == "1"


def test_a_member_without_an_answer_is_not_part_of_the_agreement():
    named = features(row("5"), None, row("5")).named
    assert named["agreement/share"] == pytest.approx(2 / 3)
    assert named["agreement/answered"] == pytest.approx(2 / 3)
    assert named["agreement/b/answered"] == named["agreement/b/with_winner"] == 0.0
    for name in ("confidence/b/mean", "lengths/b/answer", "lengths/b/cut_off"):
        assert math.isnan(named[name]), name
    assert named["confidence/a/mean"] == -0.1


def test_nobody_answered():
    evidence = features(None, None, None)
    assert evidence.vote.answer is None
    assert evidence.named["agreement/share"] == evidence.named["agreement/margin"] == 0.0
    assert evidence.named["agreement/entropy"] == pytest.approx(math.log(3))
    known = {name for name, value in evidence.named.items() if not math.isnan(value)}
    assert {name.split("/")[0] for name in known} == {"agreement", "lengths"}


def test_what_a_backend_does_not_tell_is_unknown():
    named = features(*(row("5", logprob=None, finish_reason=None) for _ in "abc")).named
    unknown = {name for name, value in named.items() if math.isnan(value)}
    assert {name for name in named if name.startswith("confidence/")} <= unknown
    assert {f"lengths/{name}/cut_off" for name in "abc"} <= unknown


def test_a_cut_off_answer_is_seen():
    named = features(row("5", finish_reason="length"), row("5"), row("5")).named
    assert [named[f"lengths/{name}/cut_off"] for name in "abc"] == [1.0, 0.0, 0.0]
    assert named["lengths/a/answer"] == math.log1p(10)


def test_the_surest_voice_of_each_side():
    named = features(row("5", logprob=-0.5), row("7", logprob=-0.2), row("5", logprob=-0.1)).named
    assert named["confidence/winner/mean"] == -0.1
    assert named["confidence/others/mean"] == -0.2
    assert math.isnan(features(row("5"), row("5"), row("5")).named["confidence/others/mean"])


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, math.nan])
def test_a_confidence_that_is_no_number_is_unknown(value):
    rows = [row("5", confidence=value, logprob=value), row("5", confidence=0.7), None]
    values = features(*rows)
    assert math.isnan(values.named["stated/a"])
    assert math.isnan(values.named["confidence/a/mean"])
    assert values.named["stated/b"] == 0.7
    assert not np.isinf(values.values).any()


def test_members_who_have_nothing_to_do_with_each_other_can_trade_places():
    """What is said of all members together does not depend on the order of those who differ."""
    rows = {"a": row("5", name="a"), "b": row("7", name="b"), "c": row("5", name="c")}
    shared = {}
    for order in (("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")):
        spec = FeatureSpec(members=order, groups=FEATURE_GROUPS)
        named = features(*(rows[name] for name in order), spec=spec).named
        shared[order] = {n: v for n, v in named.items() if "+" not in n}
    first, *others = shared.values()
    for other in others:
        assert other.keys() == first.keys()
        assert all(v == other[n] or (v != v and other[n] != other[n]) for n, v in first.items())


def test_many_members_have_no_pairs():
    members = tuple(f"m{k}" for k in range(7))
    names = FeatureSpec(members=members, groups=("agreement",)).names
    assert not any("+" in name for name in names)
    two = FeatureSpec(members=("a", "b"), groups=("agreement",)).names
    assert not any("+" in name for name in two)  # with two it is the share over again


@pytest.mark.parametrize(
    ("members", "groups"),
    [((), ("agreement",)), (("a",), ("lengths",)), (("a",), ("agreement", "colours"))],
)
def test_wrong_specs_are_refused(members, groups):
    with pytest.raises(ConfigError, match="expected members and groups"):
        FeatureSpec(members=members, groups=groups)


def test_arithmetic_is_for_numbers_only():
    assert groups_for(FEATURE_GROUPS, NUMBERS) == FEATURE_GROUPS
    assert "arithmetic" not in groups_for(FEATURE_GROUPS, load_grader("text"))


def test_arithmetic_by_side():
    named = features(
        row("5", response="2 + 3 = 5"),
        row("6", response="2 + 3 = 6"),
        row("5", response="2 + 3 = 5 and 1 + 1 = 3"),
    ).named
    assert named["arithmetic/winner/wrong_equations"] == pytest.approx(0.25)
    assert named["arithmetic/others/wrong_equations"] == 1.0
    assert named["arithmetic/winner/integer"] == 1.0


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
    evidence = features(*generations, question=question)
    assert tuple(evidence.named) == SPEC.names
    assert not np.isinf(evidence.values).any()
    again = features(*generations, question=question)
    assert evidence.values.tobytes() == again.values.tobytes()
