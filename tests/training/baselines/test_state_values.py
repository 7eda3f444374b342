"""What sets of members are worth."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.baselines.state_values import fit_state_values, question_design
from pyramid_moa.training.baselines.subset_votes import members_of, subset_vote


@pytest.fixture(scope="module")
def data(labelled_run):
    return rule_run(read_labelled_run(labelled_run))


def values_of(data, lambdas):
    train = np.arange(data.n)
    design = question_design(data, train, directions=4, seed=0)
    return fit_state_values(data, train, design, lambdas=np.array(lambdas), penalty=10.0), train


def test_votes_of_subsets(data):
    assert members_of(0b101) == [0, 2]
    for member in range(3):
        alone = subset_vote(data, 1 << member)
        assert (alone.answer == member).all()
    assert (subset_vote(data, 0b111).answer == data.vote).all()
    pair = subset_vote(data, 0b110)
    # Two that differ tie; the one listed first wins, unless it alone gave no answer.
    first = data.clusters[:, 1] >= 0
    assert (pair.answer[first] == 1).all()


def test_qualities_are_about_the_observed_shares(data):
    values, everything = values_of(data, [0.1])
    for subset in range(1, 8):
        step = values.step(data, subset, everything)
        right = data.correct[everything, subset_vote(data, subset).answer]
        assert step.stop.mean() == pytest.approx(right.mean(), abs=0.03)
        assert step.oracle.mean() == pytest.approx(data.correct[:, data.oracle].mean(), abs=0.03)
        # Whether the vote is right is told apart better than by its mean.
        assert np.mean((step.stop - right) ** 2) < right.var() + 1e-9


def test_steps(data):
    values, everything = values_of(data, [0.0, 200.0])
    start = values.step(data, 0, everything)
    assert np.isneginf(start.stop).all()  # nobody has answered
    assert start.members == [0, 1, 2]
    assert start.values.shape == (5, 2, data.n)
    # With money no object the best step is worth more than any member; else the cheapest is taken.
    assert (start.values[:, 0].max(axis=0) >= start.values[:, 1].max(axis=0)).all()
    cheapest = int(data.cost[:, :3].mean(axis=0).argmin())
    assert (start.values[:, 1].argmax(axis=0) == 2 + cheapest).all()
    last = values.step(data, 0b111, everything)
    assert last.members == []
    assert (last.values[:, 1].argmax(axis=0) == 0).all()  # the oracle is too dear


def test_a_dearer_oracle_is_worth_less(data):
    """The unit of lambda is the price of an oracle call, so members become cheap beside it."""
    dear = replace(data, cost=data.cost * [1, 1, 1, 10], _remembered={})
    first, second = (values_of(own, [0.5])[0].prices[0] for own in (data, dear))
    assert first[-1] == second[-1] == 0.5
    assert second[:3] == pytest.approx(first[:3] / 10)
