import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.training.deferral import (
    ALWAYS,
    area_under_hull,
    cost_ratio,
    hindsight_curve,
    random_curve,
    router_curve,
    thinned,
    upper_hull,
    vote_curve,
)


def test_router_curve_by_hand(five_queries):
    curve = router_curve(five_queries())
    assert curve.thresholds.tolist() == [0.9, 0.6, 0.2, 0.1, ALWAYS]
    assert curve.escalation_rate == pytest.approx([0, 0.2, 0.6, 0.8, 1])
    assert curve.accuracy == pytest.approx([0.6, 0.8, 1, 1, 0.8])
    assert curve.cost_ratio == pytest.approx([0.1, 0.2, 0.5, 0.7, 1.1])
    assert curve.cost_ratio_flops == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.2])


def test_vote_curve_by_hand(five_queries):
    curve = vote_curve(five_queries())
    assert curve.thresholds.tolist() == [0.5, 1.0]
    assert curve.escalation_rate == pytest.approx([0, 0.4])
    assert curve.accuracy == pytest.approx([0.6, 0.8])
    assert curve.cost_ratio == pytest.approx([0.1, 0.4])


def test_an_empty_vote_is_never_accepted(changed, five_queries):
    rows = changed(
        five_queries(),
        vote_answer=(None,) * 5,
        vote_share=np.zeros(5),
        vote_correct=np.zeros(5, dtype=np.bool_),
    )
    curve = vote_curve(rows)
    assert curve.thresholds.tolist() == [1.0]
    assert curve.escalation_rate.tolist() == [1.0]


def test_hindsight_curve_takes_the_cheap_gains_first_and_the_harm_last(five_queries):
    curve = hindsight_curve(five_queries())
    assert curve.accuracy == pytest.approx([0.6, 0.8, 1, 1, 1, 0.8])
    assert curve.cost_ratio == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.7, 1.1])
    assert curve.points([0])[0]["threshold"] is None


def test_random_is_the_line_between_the_ends(five_queries):
    curve = random_curve(five_queries())
    assert curve.accuracy == pytest.approx([0.6, 0.8])
    assert curve.cost_ratio == pytest.approx([0.1, 1.1])


@given(n=st.integers(2, 60), seed=st.integers(0, 10_000), theta=st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_every_point_is_what_escalating_above_its_threshold_gives(
    n, seed, theta, changed, simulated
):
    rows = simulated(n, seed=seed)
    rows = changed(rows, p_ensemble_fails=np.round(rows.p_ensemble_fails, 1))
    curve = router_curve(rows)
    assert (np.diff(curve.escalation_rate) > 0).all()
    assert (np.diff(curve.cost_ratio) > 0).all()
    assert curve.escalation_rate[0] == 0
    assert curve.escalation_rate[-1] == 1
    above = np.flatnonzero(curve.thresholds >= theta)
    index = above[-1] if len(above) else 0
    threshold = curve.thresholds[index]
    asked = rows.p_ensemble_fails > threshold
    correct = np.where(asked, rows.oracle_correct, rows.ensemble_correct)
    assert curve.accuracy[index] == pytest.approx(correct.mean())
    spent = rows.member_cost_usd.sum() + rows.oracle_cost_usd[asked].sum()
    assert curve.cost_ratio[index] == pytest.approx(spent / rows.oracle_cost_usd.sum())
    best = hindsight_curve(rows)
    allowed = np.interp(curve.escalation_rate, best.escalation_rate, best.accuracy)
    assert (curve.accuracy <= allowed + 1e-9).all()


def test_thinning_keeps_the_ends_and_what_it_is_told(simulated):
    curve = router_curve(simulated(3000))
    chosen = thinned(curve, limit=50, kept=[7, 2001])
    assert chosen == sorted(set(chosen))
    assert {0, 7, 2001, len(curve.accuracy) - 1} <= set(chosen)
    assert len(chosen) <= 52
    assert np.diff(curve.escalation_rate[chosen]).max() < 0.03
    assert thinned(curve, limit=5000) == list(range(len(curve.accuracy)))


def test_hull_drops_what_is_dearer_or_below():
    costs = np.array([0.5, 0.1, 0.3, 0.3, 0.9, 0.1])
    accuracies = np.array([1.0, 0.6, 0.7, 0.65, 0.9, 0.5])
    assert upper_hull(costs, accuracies).tolist() == [[0.1, 0.6], [0.5, 1.0]]
    # .4 at mean .8, then .4 flat at 1.
    assert area_under_hull(costs, accuracies) == pytest.approx((0.4 * 0.8 + 0.4) / 0.8)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_hull_is_rising_concave_and_above_all_points(points):
    costs, accuracies = np.array(points, dtype=np.float64).T
    hull = upper_hull(costs, accuracies)
    assert (np.diff(hull, axis=0) > 0).all()
    slopes = np.diff(hull[:, 1]) / np.diff(hull[:, 0])
    assert (np.diff(slopes) < 1e-12).all()
    assert (np.interp(costs, hull[:, 0], hull[:, 1]) >= accuracies - 1e-9).all()


def test_area_needs_known_and_different_costs(five_queries):
    assert area_under_hull(np.array([np.nan, 1.0]), np.array([0.1, 0.2])) is None
    assert area_under_hull(np.array([1.0, 1.0]), np.array([0.1, 0.2])) is None
    curve = router_curve(five_queries())
    assert area_under_hull(curve.cost_ratio, curve.accuracy) == pytest.approx(0.94)


def test_no_ratio_to_an_oracle_that_costs_nothing(changed, five_queries):
    assert np.isnan(cost_ratio(1.0, 0.0))
    assert cost_ratio(1.0, 4.0) == 0.25
    free = changed(five_queries(), oracle_cost_usd=np.zeros(5))
    assert router_curve(free).points()[0]["cost_ratio"] is None
    assert router_curve(free).points()[0]["cost_ratio_flops"] == pytest.approx(0.2)
