"""Means over runs and paired intervals."""

import numpy as np
import pytest

from pyramid_moa.training.head_to_head_figures import RELATIVE_COSTS
from pyramid_moa.training.head_to_head_pooling import Measured, Pool, question_weights

FLAT = np.zeros((2, len(RELATIVE_COSTS)))


def measured(run, rule, values, relative=FLAT):
    return Measured(run=run, rule=rule, figures={"f": np.array(values)}, relative=relative)


def test_a_question_is_drawn_for_all_its_runs_at_once():
    runs = {"one": ["a", "b", "c", "a"], "two": ["c", "b"], "three": ["z"]}
    weights = question_weights(runs, seed=0, resamples=50)
    assert all(own.shape == (51, len(runs[name])) for name, own in weights.items())
    assert all((own[0] == 1).all() for own in weights.values())
    one, two, three = weights.values()
    assert (one[:, 1] == two[:, 1]).all()
    assert (one[:, 2] == two[:, 0]).all()
    assert (one[:, 0] == one[:, 3]).all()
    # Four different questions, four drawn.
    assert (one[:, :3].sum(axis=1) + three[:, 0] == 4).all()
    assert one[1:].std() > 0
    again = question_weights(runs, seed=0, resamples=50)
    assert all((again[name] == own).all() for name, own in weights.items())


def test_pooled_difference_is_the_mean_of_the_runs_differences():
    low_to_high = np.linspace(-0.5, 0.5, 101)
    pool = Pool(
        measured=[
            measured("one", "vote", [0.8, *(0.8 + low_to_high)]),
            measured("two", "vote", [0.5, *(0.5 + low_to_high)]),
            measured("one", "router", [0.9, *(0.9 + low_to_high)]),
            measured("two", "router", [0.7, *(0.7 + low_to_high)]),
        ]
    )
    assert pool.rules == ["vote", "router"]
    assert pool.figure("router", "f").value == pytest.approx(0.8)
    difference = pool.difference("router", "f")
    assert difference.value == pytest.approx(0.15)
    assert difference.runs == 2
    # What both rules share cancels: the interval has no width, that of the figure has.
    assert difference.interval == pytest.approx([0.15, 0.15])
    low, high = pool.figure("router", "f").interval
    assert high - low == pytest.approx(0.95, abs=0.01)


def test_a_run_without_the_figure_is_left_out_and_counted():
    nothing = [np.nan, np.nan, np.nan]
    pool = Pool(
        measured=[
            measured("one", "vote", [0.8, 0.8, 0.8]),
            measured("two", "vote", [0.5, 0.5, 0.5]),
            measured("one", "router", nothing),
            measured("two", "router", [0.7, np.nan, 0.7]),
        ]
    )
    assert pool.difference("router", "f").value == pytest.approx(0.2)
    assert pool.difference("router", "f").runs == 1
    assert pool.figure("vote", "f").runs == 2
    lacking = Pool(measured=[measured("one", "vote", nothing)]).figure("vote", "f")
    assert (lacking.value, lacking.interval, lacking.runs) == (None, None, 0)


def test_means_of_two_rules_are_over_the_same_runs():
    pool = Pool(
        measured=[
            measured("one", "vote", [np.nan] * 3),
            measured("two", "vote", [0.5] * 3),
            measured("one", "r", [0.1] * 3),
            measured("two", "r", [0.7] * 3),
        ]
    )
    assert pool.figure("r", "f").value == pytest.approx(0.7)
    assert pool.figure("r", "f").runs == 1
    # A figure that the vote has nowhere is a mean over all.
    other = Pool(measured=[measured("one", "vote", [np.nan] * 3), measured("one", "r", [0.1] * 3)])
    assert other.figure("r", "f").value == pytest.approx(0.1)


def test_where_the_mean_curve_reaches_abc():
    early = np.tile(RELATIVE_COSTS - 0.7, (3, 1))
    late = np.tile(RELATIVE_COSTS - 0.9, (3, 1))
    late[:, RELATIVE_COSTS < 0.5] = np.nan
    pool = Pool(measured=[measured("one", "r", [0.0], early), measured("two", "r", [0.0], late)])
    found = pool.cost_at_abc_accuracy("r")
    assert found.value == pytest.approx(0.8)
    assert found.runs == 2
    never = Pool(measured=[measured("one", "r", [0.0], early - 9)])
    assert never.cost_at_abc_accuracy("r").value is None
