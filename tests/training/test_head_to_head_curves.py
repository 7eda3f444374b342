"""Curves and their figures, worked out by hand."""

import numpy as np
import pytest
from sklearn.isotonic import isotonic_regression

from pyramid_moa.training.head_to_head_curves import (
    area_between,
    average_improvement,
    cost_to_reach,
    gap_recovered,
    interpolated,
    mixture_for_accuracy,
    mixtures,
    smoothed,
)

# Settings 0, 1, 3 are corners of the hull; 2 lies below it and 4 is dearer and worse.
COST = np.array([1.0, 2.0, 2.5, 4.0, 5.0])
ACCURACY = np.array([0.5, 0.8, 0.8, 0.9, 0.85])


def row(*values):
    return np.array([values], dtype=float)


def test_a_budget_gets_a_lottery_between_corners_of_the_training_hull():
    weights = mixtures(COST, ACCURACY, np.array([0.0, 1.0, 1.25, 3.0, 4.0, 9.0]))
    expected = [
        [1, 0, 0, 0, 0],  # nothing is as cheap: the cheapest
        [1, 0, 0, 0, 0],
        [0.75, 0.25, 0, 0, 0],
        [0, 0.5, 0, 0.5, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],  # more money buys nothing
    ]
    assert weights == pytest.approx(np.array(expected))
    assert weights @ COST == pytest.approx([1, 1, 1.25, 3, 4, 4])


def test_an_accuracy_gets_the_cheapest_lottery_that_has_it():
    assert mixture_for_accuracy(COST, ACCURACY, 0.85) == pytest.approx([0, 0.5, 0, 0.5, 0])
    assert mixture_for_accuracy(COST, ACCURACY, 0.99) == pytest.approx([0, 0, 0, 1, 0])
    assert mixture_for_accuracy(COST, ACCURACY, 0.1) == pytest.approx([1, 0, 0, 0, 0])


def test_a_rule_of_one_setting_has_no_choice():
    weights = mixtures(np.array([2.0]), np.array([0.7]), np.array([0.0, 2.0, 3.0]))
    assert weights.tolist() == [[1.0]] * 3


def test_smoothing_is_isotonic_regression():
    assert smoothed(row(1, 3, 2, 4)) == pytest.approx(row(1, 2.5, 2.5, 4))
    values = np.random.default_rng(0).normal(size=(5, 30))
    expected = [isotonic_regression(own) for own in values]
    assert smoothed(values) == pytest.approx(np.array(expected))


def test_the_cost_at_which_an_accuracy_is_reached():
    cost, accuracy = row(0.2, 0.6, 1.0), row(0.5, 0.7, 0.9)

    def reached(target):
        return cost_to_reach(cost, accuracy, np.array([target]))[0]

    assert reached(0.6) == pytest.approx(0.4)
    assert reached(0.9) == pytest.approx(1.0)
    assert reached(0.3) == pytest.approx(0.2)
    assert np.isnan(reached(0.91))
    # A lucky point does not count for itself: 0.9 and 0.7 are one step of 0.8.
    assert np.isnan(cost_to_reach(cost, row(0.5, 0.9, 0.7), np.array([0.85]))[0])


def test_reading_a_curve():
    read = interpolated(row(0.2, 0.6, 1.0), row(0.5, 0.7, 0.9), row(0.1, 0.4, 2.0))
    assert np.isnan(read[0, 0])
    assert read[0, 1:] == pytest.approx([0.6, 0.9])


def test_area_is_the_mean_accuracy_over_budgets():
    area = area_between(row(0.2, 1.2), row(0.5, 0.9), np.array([0.2]), np.array([1.2]))
    assert area == pytest.approx([0.7])
    # Half of the budgets lie beyond the last point.
    area = area_between(row(0.0, 1.0), row(0.5, 0.9), np.array([0.0]), np.array([2.0]))
    assert area == pytest.approx([0.8])
    # It begins a quarter of the way late.
    late = area_between(row(0.5, 1.0), row(0.5, 0.9), np.array([0.25]), np.array([1.25]))
    assert late == pytest.approx([0.25 * 0.5 + 0.5 * 0.7 + 0.25 * 0.9])


def test_aiq():
    # Nothing up to 0.5; a straight rise from 0.6 to 0.8 up to 1.0; flat up to 2.0.
    expected = (0.5 * 0.7 + 1.0 * 0.8) / 2.0
    aiq = average_improvement(row(0.5, 0.7, 1.0, 1.5), row(0.6, 0.61, 0.8, 0.7), 2.0)
    assert aiq == pytest.approx([expected])


class TestGap:
    WEAK, STRONG = np.array([0.5]), np.array([0.9])

    def recovered(self, share, accuracy):
        return gap_recovered(share, accuracy, self.WEAK, self.STRONG)

    def test_at_random_half_is_recovered(self):
        apgr, calls = self.recovered(row(0, 0.25, 1), row(0.5, 0.6, 0.9))
        assert apgr == pytest.approx([0.5])
        assert [calls[x][0] for x in (0.2, 0.5, 0.8)] == pytest.approx([0.2, 0.5, 0.8])

    def test_by_hand(self):
        apgr, calls = self.recovered(row(0.5), row(0.9))
        # 0.7 over the first half, 0.9 over the second.
        assert apgr == pytest.approx([(0.8 - 0.5) / 0.4])
        assert calls[0.5] == pytest.approx([0.25])

    def test_settings_in_any_order(self):
        ordered, _ = self.recovered(row(0.2, 0.7), row(0.6, 0.8))
        other, _ = self.recovered(row(0.7, 0.2), row(0.8, 0.6))
        assert ordered == pytest.approx(other)

    def test_without_a_gap_there_is_nothing_to_recover(self):
        apgr, calls = gap_recovered(row(0.5), row(0.9), np.array([0.9]), np.array([0.9]))
        assert np.isnan(apgr).all()
        assert np.isnan(calls[0.2]).all()
