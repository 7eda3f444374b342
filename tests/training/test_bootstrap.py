import numpy as np
import pytest

from pyramid_moa.training.bootstrap import bootstrap, percentile_interval, resample_weights


def test_resamples_draw_n_of_n_and_repeat_with_the_seed():
    first = np.concatenate(list(resample_weights(50, seed=3, resamples=20)))
    again = np.concatenate(list(resample_weights(50, seed=3, resamples=20)))
    other = np.concatenate(list(resample_weights(50, seed=4, resamples=20)))
    assert first.shape == (20, 50)
    assert (first.sum(axis=1) == 50).all()
    assert (first == again).all()
    assert (first != other).any()


def test_large_samples_come_in_parts():
    parts = list(resample_weights(300_000, seed=0, resamples=7))
    assert [len(part) for part in parts] == [3, 3, 1]


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=2000)
    drawn = bootstrap(lambda w: {"mean": w @ values / 2000}, 2000, seed=0, resamples=2000)
    low, high = percentile_interval(drawn["mean"])
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_differences_are_paired():
    values = np.random.default_rng(0).normal(size=200)
    drawn = bootstrap(
        lambda w: {"one": w @ values, "other": w @ (values + 1.0)}, 200, seed=0, resamples=100
    )
    assert np.ptp(drawn["other"] - drawn["one"]) == pytest.approx(0, abs=1e-9)
    assert np.ptp(drawn["one"]) > 1


def test_no_interval_without_values():
    assert percentile_interval(np.array([np.nan, np.nan, 1.0])) is None
    assert percentile_interval(np.array([])) is None
    assert percentile_interval(np.array([np.nan, 1.0, 3.0]), level=1.0) == [1.0, 3.0]
    assert bootstrap(lambda w: {"n": w.sum(axis=1)}, 5, resamples=0) == {}
