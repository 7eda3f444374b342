"""Bounds on accuracies, and the test of costs."""

import time

import numpy as np
import pytest
from scipy.stats import binom

from pyramid_moa.training.risk_bounds import (
    accuracy_p_value,
    least_accuracy,
    mean_below_p_value,
)


def test_the_binomial_test_by_adding_up():
    n, accuracy = 25, 0.8
    chances = binom.pmf(np.arange(n + 1), n, accuracy)
    expected = np.cumsum(chances[::-1])[::-1]
    assert accuracy_p_value(np.arange(n + 1), n, accuracy) == pytest.approx(expected)
    assert accuracy_p_value(np.array([0.0]), n, 0.0) == 1.0
    assert accuracy_p_value(np.array([3.0]), n, 1.0) == 1.0


def test_the_least_accuracy_is_where_the_test_turns():
    for right, n in ((1, 7), (45, 50), (50, 50)):
        least = least_accuracy(right, n, 0.95)
        assert accuracy_p_value(np.array([right]), n, least - 1e-6) <= 0.05
        assert accuracy_p_value(np.array([right]), n, least + 1e-6) > 0.05
    assert least_accuracy(0, 10, 0.95) == 0.0


def costs(n, draws, rng):
    """Skewed, of mean 1, never above 8."""
    return np.minimum(rng.gamma(0.5, 2.0, size=(draws, n)), 8.0) / 0.9886


def test_a_mean_that_is_no_smaller_is_seldom_proven_so():
    rng = np.random.default_rng(0)
    values = costs(200, 2000, rng)
    excess = values - values.mean()  # of mean 0, to a hundredth of its deviation
    p = mean_below_p_value(excess, 8.1 - values.mean())
    assert np.mean(p <= 0.05) <= 0.05
    assert np.mean(p <= 0.5) <= 0.5
    assert np.mean(excess.mean(axis=1) < 0) > 0.4  # what was measured says so every other time


def test_a_smaller_mean_is_proven_however_far_off_the_most_is():
    rng = np.random.default_rng(1)
    excess = costs(2000, 100, rng) - 1.2
    assert np.mean(mean_below_p_value(excess, 6.9) <= 0.05) > 0.95
    assert np.mean(mean_below_p_value(excess, 50.0) <= 0.05) > 0.8


def test_the_order_of_the_questions_is_no_matter():
    rng = np.random.default_rng(2)
    excess = costs(100, 3, rng) - 1.3
    again = mean_below_p_value(rng.permuted(excess, axis=1), 7.0)
    assert again == pytest.approx(mean_below_p_value(excess, 7.0))


def test_two_hundred_settings_take_no_time():
    excess = np.random.default_rng(3).random((200, 5000)) - 0.6
    started = time.process_time()
    assert mean_below_p_value(excess, 1.0).shape == (200,)
    assert time.process_time() - started < 2.0
