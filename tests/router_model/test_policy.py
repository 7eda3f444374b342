"""Decisions as pure functions."""

import math

import pytest

from pyramid_moa.router_model.policy import (
    OperatingPoint,
    Scores,
    escalates,
    goes_up,
    outvotes,
    vote_point,
    vote_scores,
)


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


def both(fails, oracle):
    return Scores(p_ensemble_fails=fails, p_oracle_right=oracle)


def point(threshold, **fields):
    return OperatingPoint(name="p", threshold=threshold, target="", **fields)


def test_the_value_of_computation_is_what_the_oracle_gains():
    """P(ensemble wrong, oracle right) less P(ensemble right, oracle wrong), however both depend."""
    for together in (0.0, 0.05, 0.1):  # P(both wrong)
        only_ensemble_wrong, only_oracle_wrong = 0.3 - together, 0.1 - together
        gain = only_ensemble_wrong - only_oracle_wrong
        scores = both(0.3, 0.9)
        assert goes_up(scores, point(gain - 1e-6, rule="gain"))
        assert not goes_up(scores, point(gain + 1e-6, rule="gain"))


def test_a_weak_oracle_is_not_worth_asking_where_the_ensemble_is_as_weak():
    assert goes_up(both(0.6, 0.95), point(0.3, rule="gain"))
    assert not goes_up(both(0.6, 0.5), point(0.3, rule="gain"))
    assert goes_up(both(0.6, 0.5), point(0.3))  # a threshold on p(fails) does not see that
    assert goes_up(scores(0.1), point(0.9, rule="gain"))  # nobody judges the oracle
    assert goes_up(both(math.nan, 0.5), point(0.0, rule="gain"))


def test_outvoting_wants_a_margin():
    assert outvotes(both(0.1, 0.5), 2.0)
    assert not outvotes(both(0.1, 0.5), 2.5)
    assert not outvotes(both(0.5, 0.5), 0.0)
    assert not outvotes(scores(0.0), 0.0)
    assert outvotes(both(0.0, 1e-9), 0.0)
