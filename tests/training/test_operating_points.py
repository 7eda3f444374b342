"""Thresholds: what each comes to, and which one a target chooses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.router_model.policy import OperatingPoint, Scores, escalates
from pyramid_moa.training.operating_points import (
    NotAttainableError,
    default_points,
    replaced,
    threshold_table,
)


def figures(outcomes, threshold):
    """Accuracy, escalation rate and cost ratio of a threshold, by asking query by query."""
    asked = np.array(
        [
            escalates(Scores(p_ensemble_fails=p, p_oracle_right=None), threshold)
            for p in outcomes.p_ensemble_fails.tolist()
        ]
    )
    right = np.where(asked, outcomes.oracle_correct, outcomes.ensemble_correct)
    spent = outcomes.member_cost_usd.sum() + outcomes.oracle_cost_usd[asked].sum()
    return right.mean(), asked.mean(), spent / outcomes.oracle_cost_usd.sum()


def test_by_hand(five_queries):
    table = threshold_table(five_queries(), split="calibration")
    assert table.escalation_rate.tolist() == [0.0, 0.2, 0.6, 0.8, 1.0]  # two scores are tied
    assert table.accuracy.tolist() == [0.6, 0.8, 1.0, 1.0, 0.8]
    assert table.cost_ratio == pytest.approx([0.1, 0.2, 0.5, 0.7, 1.1])
    assert table.oracle_accuracy == 0.8
    assert table.vote_escalation_rate == 0.4
    assert table.vote_accuracy == 0.8
    assert table.thresholds[1] == pytest.approx(0.75)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 40), digits=st.integers(0, 2))
def test_each_row_is_what_the_policy_makes_of_its_threshold(simulated, changed, seed, n, digits):
    outcomes = simulated(n, seed=seed)
    p = np.round(outcomes.p_ensemble_fails, digits)  # with ties
    outcomes = changed(outcomes, p_ensemble_fails=p)
    table = threshold_table(outcomes, split="x")
    assert table.escalation_rate[0] == 0.0
    assert table.escalation_rate[-1] == 1.0
    assert np.all(np.diff(table.thresholds) < 0)
    assert len(table.thresholds) == len(np.unique(p)) + 1
    for row, threshold in enumerate(table.thresholds.tolist()):
        found = (table.accuracy[row], table.escalation_rate[row], table.cost_ratio[row])
        assert found == pytest.approx(figures(outcomes, threshold))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    threshold=st.one_of(st.floats(-0.1, 1.1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),
)
def test_the_figures_of_any_threshold(simulated, changed, seed, threshold):
    outcomes = simulated(25, seed=seed)
    outcomes = changed(outcomes, p_ensemble_fails=np.round(outcomes.p_ensemble_fails, 1))
    table = threshold_table(outcomes, split="x")
    point = table.at_threshold(threshold, name="mine", target="")
    assert point.threshold == threshold
    found = (point.accuracy, point.escalation_rate, point.cost_ratio)
    assert found == pytest.approx(figures(outcomes, threshold))


def test_the_cheapest_with_an_accuracy(five_queries):
    table = threshold_table(five_queries(), split="calibration")
    point = table.cheapest_with_accuracy(0.8, name="good", target="80 %")
    assert point == OperatingPoint(
        name="good",
        threshold=pytest.approx(0.75),
        target="80 %",
        split="calibration",
        questions=5,
        accuracy=0.8,
        escalation_rate=0.2,
        cost_ratio=pytest.approx(0.2),
    )
    assert table.cheapest_with_accuracy(0.9, name="", target="").escalation_rate == 0.6
    assert table.cheapest_with_accuracy(0.0, name="", target="").escalation_rate == 0.0


def test_an_accuracy_that_no_threshold_has(simulated):
    table = threshold_table(simulated(200), split="calibration")
    with pytest.raises(NotAttainableError, match=r"100 %: not attainable on the 200 questions of"):
        table.cheapest_with_accuracy(1.0, name="best", target="100 %")


def test_the_best_within_a_cost(five_queries):
    table = threshold_table(five_queries(), split="calibration")
    assert table.best_within_cost(0.5, name="", target="").accuracy == 1.0
    assert table.best_within_cost(0.49, name="", target="").accuracy == 0.8
    best = table.best_within_cost(9.0, name="", target="")
    assert (best.accuracy, best.escalation_rate) == (1.0, 0.6)  # not more than it takes
    with pytest.raises(NotAttainableError, match=r"members alone cost 0\.1000"):
        table.best_within_cost(0.05, name="", target="")


def test_an_oracle_that_costs_nothing(five_queries):
    table = threshold_table(free(five_queries), split="x")
    assert np.isnan(table.cost_ratio).all()
    assert table.curve()[0]["cost_ratio"] is None
    assert default_points(table)[0].cost_ratio is None
    with pytest.raises(NotAttainableError, match="price is 0"):
        table.best_within_cost(0.5, name="", target="")


def free(five_queries):
    from dataclasses import replace

    outcomes = five_queries()
    nothing = np.zeros(5)
    return replace(
        outcomes,
        oracle_cost_usd=nothing,
        final_cost_usd=outcomes.member_cost_usd.sum(axis=1),
    )


def test_at_an_escalation_rate_ties_are_not_broken(five_queries):
    table = threshold_table(five_queries(), split="x")
    assert table.at_escalation_rate(0.4, name="", target="").escalation_rate == 0.2
    assert table.at_escalation_rate(0.6, name="", target="").escalation_rate == 0.6
    assert table.at_escalation_rate(0.0, name="", target="").escalation_rate == 0.0


def test_default_points(simulated):
    table = threshold_table(simulated(300), split="calibration")
    points = {point.name: point for point in default_points(table)}
    assert next(iter(points)) == "parity"
    assert {"vote-cost", "vote-accuracy"} <= set(points)
    assert points["vote-cost"].escalation_rate <= table.vote_escalation_rate
    assert points["vote-accuracy"].accuracy >= table.vote_accuracy - 1e-9
    assert points["parity"].threshold == pytest.approx(1 - (table.oracle_accuracy * 300 + 1) / 302)


def test_a_point_takes_the_place_of_its_namesake():
    points = [OperatingPoint(name=name, threshold=0.5, target="") for name in "abc"]
    new = OperatingPoint(name="a", threshold=0.1, target="new")
    assert replaced(points, new) == [new, *points[1:]]
    more = OperatingPoint(name="d", threshold=0.1, target="new")
    assert replaced(points, more) == [*points, more]


def test_the_curve_has_both_ends(simulated):
    curve = threshold_table(simulated(300), split="x").curve(points=10)
    assert len(curve) == 10
    assert (curve[0]["escalation_rate"], curve[-1]["escalation_rate"]) == (0.0, 1.0)


def test_a_default_that_costs_more_than_the_oracle_gives_way(simulated, changed):
    outcomes = simulated(400, seed=3)
    # Members so dear that asking the oracle more than rarely is dearer than the oracle alone.
    dear = outcomes.oracle_cost_usd[:, None] * np.full((1, len(outcomes.members)), 0.2)
    p = np.where(outcomes.ensemble_correct, 0.4, 0.9)
    outcomes = changed(outcomes, member_cost_usd=dear, p_ensemble_fails=p)
    points = default_points(threshold_table(outcomes, split="calibration"))
    parity = next(point for point in points if point.name == "parity")
    assert parity.cost_ratio > 1.0
    assert points[0].name != "parity"
    assert points[0].cost_ratio < 1.0
