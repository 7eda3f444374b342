import pytest

from pyramid_moa.data_prep.labels import label_queries, mark_correct
from pyramid_moa.data_prep.run_tables import Label
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, Query

MATHS = load_grader("math-verify")
NUMBERS = load_grader("gsm8k")


def rows(*answers):
    return [
        Generation(query_id=f"q{n}", model="m", answer=answer) for n, answer in enumerate(answers)
    ]


def queries(*golds):
    return [Query(query_id=f"q{n}", question="?", gold=gold) for n, gold in enumerate(golds)]


def test_a_query_is_labelled_by_vote_and_oracle():
    found = label_queries(
        queries("4", "4", "4", "4"),
        [["4", "5", None, "5"], ["4", "4", None, "4"], ["5", "5", None, None]],
        ["4", "4", "4", None],
        NUMBERS,
        reference="gold",
    )
    assert found == [
        Label(query_id="q0", vote_answer="4", vote_share=2 / 3, vote_correct=True,
              oracle_answer="4", oracle_correct=True, reference="gold"),
        Label(query_id="q1", vote_answer="5", vote_share=2 / 3, vote_correct=False,
              oracle_answer="4", oracle_correct=True, reference="gold"),
        Label(query_id="q2", vote_answer=None, vote_share=0.0, vote_correct=False,
              oracle_answer="4", oracle_correct=True, reference="gold"),
        # A tie goes to the member listed first.
        Label(query_id="q3", vote_answer="5", vote_share=1 / 3, vote_correct=False,
              oracle_answer=None, oracle_correct=False, reference="gold"),
    ]  # fmt: skip


def test_votes_go_by_the_graders_equality_not_by_the_string():
    (found,) = label_queries(
        queries(r"\frac{3}{4}"),
        [["3/4"], ["1"], ["0.75"], [r"\frac34"]],
        ["2"],
        MATHS,
        reference="gold",
    )
    assert found.vote_answer == "3/4"
    assert found.vote_share == 0.75
    assert found.vote_correct
    assert not found.oracle_correct


def test_without_gold_the_oracle_is_the_reference():
    found = label_queries(
        queries(None, None, None),
        [["4", "5", None]],
        ["4.0", "4", None],
        NUMBERS,
        reference="oracle",
    )
    assert [label.vote_correct for label in found] == [True, False, False]
    # Right by definition where it answered; where it did not, nobody is.
    assert [label.oracle_correct for label in found] == [True, True, False]
    assert {label.reference for label in found} == {"oracle"}


def test_correct_is_filled_in_where_it_was_not_known():
    known = Generation(query_id="q", model="m", answer="5", correct=True)
    found = mark_correct([*rows("4", "5", None, "4"), known], ["4", "4", "4", None, "4"], NUMBERS)
    assert [row.correct for row in found] == [True, False, False, False, True]


def test_references_must_fit():
    with pytest.raises(ValueError, match="shorter"):
        mark_correct(rows("4", "5"), ["4"], NUMBERS)
