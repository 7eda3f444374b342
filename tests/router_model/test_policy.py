"""Decisions as pure functions."""

import math

import pytest

from pyramid_moa.router_model.policy import Scores, escalates, vote_point, vote_scores


def scores(p):
    return Scores(p_ensemble_fails=p, p_oracle_right=None)


def test_the_oracle_is_asked_above_the_threshold():
    assert escalates(scores(0.51), 0.5)
    assert not escalates(scores(0.5), 0.5)
    assert not escalates(scores(1.0), 1.0)


def test_where_nothing_can_be_said_the_oracle_is_asked():
    assert escalates(scores(math.nan), 0.5)


def test_all_agree_is_the_vote_rule():
    threshold = vote_point().threshold
    assert not escalates(vote_scores(1.0), threshold)
    assert escalates(vote_scores(0.999), threshold)
    assert escalates(vote_scores(0.0), threshold)
    assert vote_scores(0.5).p_oracle_right is None
    assert vote_scores(0.5).p_vote_fails is None
    assert vote_scores(0.5).choice is None


@pytest.mark.parametrize("members", range(1, 12))
def test_shares_do_not_fail_by_rounding(members):
    for behind in range(members + 1):
        theta = behind / members
        for votes in range(members + 1):
            asked = escalates(vote_scores(votes / members), vote_point(theta).threshold)
            assert asked == (votes < behind)
