import numpy as np
import pytest

from pyramid_moa.errors import DataError


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"questions": ("one",)}, "questions: expected 5 rows, found 1"),
        ({"member_answers": (("1",),) * 5}, "member_answers: expected 2 answers"),
        ({"escalated": np.ones(5)}, r"escalated: expected bool \[5\], found float64"),
        ({"member_flops": np.ones(5)}, r"member_flops: expected float64 \[5, 2\]"),
        ({"vote_share": [1.0] * 5}, "vote_share: expected an array, found list"),
        ({"oracle_cost_usd": np.full(5, -1.0)}, "oracle_cost_usd: expected numbers from 0"),
        ({"final_cost_usd": np.full(5, np.inf)}, "final_cost_usd: expected numbers from 0"),
        ({"p_ensemble_fails": np.full(5, np.nan)}, "p_ensemble_fails: expected .* 0 to 1"),
        ({"p_vote_fails": np.full(5, np.nan)}, "p_vote_fails: expected .* 0 to 1"),
        ({"p_vote_fails": np.full(4, 0.5)}, r"p_vote_fails: expected float64 \[5\]"),
        ({"p_oracle_right": np.full(5, 1.5)}, "p_oracle_right: expected .* 0 to 1"),
        ({"query_ids": ("q",) * 5}, "distinct ids"),
        ({"oracle": "a"}, "distinct names"),
        ({"models_called": (("stranger",),) * 5}, "unknown models stranger"),
        ({"models_called": (("a", "b"),) * 5}, "escalated: expected true exactly where"),
        ({"threshold": float("nan")}, "threshold: expected a number"),
        ({"reference": "vote"}, "reference: expected gold or oracle"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns, words, changed, five_queries):
    with pytest.raises(DataError, match=words):
        changed(five_queries(), **columns)


def test_all_problems_are_named_at_once(changed, five_queries):
    with pytest.raises(DataError, match=r"golds: .*; vote_correct: "):
        changed(five_queries(), golds=(), vote_correct=np.ones(3, dtype=np.bool_))


def test_nothing_is_refused(changed, five_queries):
    with pytest.raises(DataError, match=r"at least one query.*at least one member"):
        changed(five_queries(), query_ids=(), members=())


def test_vote_needs_an_answer_and_its_share(changed, five_queries):
    rows = five_queries()
    assert rows.vote_accepted.tolist() == [True, False, False, True, True]
    assert rows.accepted_by_vote(0.5).all()
    silent = changed(rows, vote_answer=(None, "2", "7", "7", "7"))
    assert silent.accepted_by_vote(0.5).tolist() == [False, True, True, True, True]


def test_a_share_that_was_rounded_otherwise_still_reaches_its_theta(simulated):
    rows = simulated(50, members=3)
    two_thirds = 0.6666666667
    assert (rows.accepted_by_vote(two_thirds) == (rows.vote_share > 0.5)).all()


def test_only_models_that_were_called_count(changed, five_queries):
    rows = changed(
        five_queries(),
        models_called=(("a", "b", "big"), ("a", "big"), ("a", "b", "big"), ("a",), ("a", "b")),
    )
    assert rows.members_called[:, 1].tolist() == [True, False, True, False, True]
    assert rows.final_flops.tolist() == [120, 110, 120, 10, 20]
