import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.training.failure_scores import (
    auroc,
    average_precision,
    brier_score,
    calibration_error,
    equal_mass_bins,
    rank,
    ratio,
)

ROWS = st.lists(
    st.tuples(st.integers(0, 6).map(lambda x: x / 6), st.booleans(), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


def columns(rows):
    scores, failed, weights = (np.array(column) for column in zip(*rows, strict=True))
    return scores.astype(np.float64), failed.astype(np.bool_), weights.astype(np.float64)[None]


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_auroc_and_average_precision_are_sklearns_on_the_repeated_rows(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, failed, weights = columns(rows)
    times = weights[0].astype(int)
    drawn_scores, drawn_failed = np.repeat(scores, times), np.repeat(failed, times)
    ours = auroc(rank(scores), failed, weights)[0]
    precision = average_precision(rank(scores), failed, weights)[0]
    if drawn_failed.all() or not drawn_failed.any():
        assert np.isnan(ours)
        assert np.isnan(precision)
        return
    assert ours == pytest.approx(metrics.roc_auc_score(drawn_failed, drawn_scores))
    expected = metrics.average_precision_score(drawn_failed, drawn_scores)
    assert precision == pytest.approx(expected)


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_calibration_error_ignores_the_order_of_rows(rows, random):
    scores, failed, weights = columns(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    one = calibration_error(scores, failed, np.ones_like(weights))
    other = calibration_error(scores[order], failed[order], np.ones_like(weights))
    assert one == pytest.approx(other)
    assert 0 <= one[0] <= 1


def test_bins_hold_equal_numbers_and_keep_ties_together():
    assert np.bincount(equal_mass_bins(np.linspace(0, 1, 150))).tolist() == [10] * 15
    assert equal_mass_bins(np.array([0.9, 0.1, 0.5])).tolist() == [2, 0, 1]
    tied = equal_mass_bins(np.array([0.5] * 30 + [0.7] * 30))
    assert set(tied[:30]) == {tied[0]}
    assert set(tied[30:]) == {tied[30]}
    assert tied[0] != tied[30]


def test_calibration_error_and_brier_by_hand():
    # Two bins: mean .2 against 1/2, mean .8 against 1.
    p, failed = np.array([0.1, 0.3, 0.7, 0.9]), np.array([False, True, True, True])
    even = np.ones((1, 4))
    assert calibration_error(p, failed, even, bins=2)[0] == pytest.approx((0.3 + 0.2) / 2)
    assert brier_score(p, failed, even)[0] == pytest.approx((0.01 + 0.49 + 0.09 + 0.01) / 4)
    doubled = np.array([[2.0, 0.0, 1.0, 1.0]])
    assert brier_score(p, failed, doubled)[0] == pytest.approx((0.02 + 0.09 + 0.01) / 4)


def test_probabilities_that_are_true_are_calibrated():
    rng = np.random.default_rng(1)
    p = rng.random(50_000)
    failed = rng.random(50_000) < p
    assert calibration_error(p, failed, np.ones((1, 50_000)))[0] < 0.01


def test_ranking_keeps_ties_in_the_order_of_the_rows():
    ranking = rank(np.array([0.2, 0.5, 0.2, 0.9]))
    assert ranking.order.tolist() == [3, 1, 0, 2]
    assert ranking.ends.tolist() == [0, 1, 3]
    assert ranking.scores.tolist() == [0.9, 0.5, 0.2]


def test_ratio_by_zero_is_nan():
    assert np.isnan(ratio(np.array([1.0]), np.array([0.0]))[0])
