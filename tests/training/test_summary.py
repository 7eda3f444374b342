"""The short table for a terminal."""

import pytest

from pyramid_moa.training.metrics import compute_metrics
from pyramid_moa.training.summary import summary


def lines(outcomes):
    return summary(compute_metrics(outcomes, resamples=0)).splitlines()


def test_the_rows_by_hand(five_queries):
    text = lines(five_queries())
    assert text[0].split() == ["accuracy", "escalated", "cost", "ratio", "FLOPs", "ratio"]
    rows = {line[:24].strip(): line[24:].split() for line in text[1:]}
    assert rows["ensemble alone"][:5] == ["60.0", "%", "0.0", "%", "0.100"]
    assert rows["vote rule (all agree)"][:4] == ["80.0", "%", "40.0", "%"]
    assert rows["router, half"][:5] == ["100.0", "%", "60.0", "%", "0.500"]
    assert rows["big"][:5] == ["80.0", "%", "100.0", "%", "1.000"]
    assert rows["hindsight"][:4] == ["100.0", "%", "40.0", "%"]
    assert "5 questions; failure AUROC" in text[-1]


def test_columns_stand_under_each_other(simulated):
    table = [line for line in lines(simulated(50)) if "%" in line]
    ends = {line.rstrip()[-5:] for line in table}
    assert len({len(line) for line in table if "questions" not in line and "ECE" not in line}) == 1
    assert all(len(end) == 5 for end in ends)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"reference": "oracle"}, "no gold: every figure is against the oracle's answers"),
        ({"tokens_estimated": True}, "token counts are estimates"),
        ({"price_note": "stand-in prices"}, "prices: stand-in prices"),
        ({"failed_generations": 3}, "3 generations failed"),
    ],
)
def test_what_must_be_known_is_said(simulated, changed, changes, note):
    assert any(note in line for line in lines(changed(simulated(30), **changes)))
    assert not any(note in line for line in lines(simulated(30)))


def test_the_vote_rule_is_not_shown_twice(simulated, changed):
    outcomes = simulated(40)
    rule = changed(outcomes, operating_point="vote")
    assert not any(line.startswith("router") for line in lines(rule))


def test_figures_that_are_undefined_are_a_dash(simulated, changed):
    import numpy as np

    outcomes = simulated(20)
    nothing = np.zeros(20)
    free = changed(
        outcomes,
        oracle_cost_usd=nothing,
        final_cost_usd=outcomes.member_cost_usd.sum(axis=1),
    )
    assert any(line.split()[-2] == "-" for line in lines(free) if line.startswith("hindsight"))
