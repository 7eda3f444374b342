"""Scores of every set of members."""

import numpy as np
import pytest
import torch

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.router_model.features import FeatureSpec
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.fit import fit_network, held_out_parts, scored
from pyramid_moa.training.set_scores import score_sets
from synthetic import quick_config


@pytest.fixture(scope="module")
def examples(labelled_run):
    run = read_labelled_run(labelled_run)
    return gather_examples(run, FeatureSpec(groups=("agreement", "lengths")), hidden_key=None)


@pytest.fixture(scope="module")
def fitted(examples):
    return fit_network(examples, quick_config(groups=["agreement", "lengths"]))


def test_everybody_is_scored_as_evaluation_scores(examples, fitted):
    sets = score_sets(fitted.network, examples)
    assert len(sets) == (1 << examples.members) - 1
    everybody, said = sets[-1], scored(fitted.network, examples)
    slope, offset = fitted.network.calibration[0].tolist()
    answered = everybody.choice >= 0
    odds = np.log(everybody.right[answered] / (1 - everybody.right[answered]))
    fails = 1 / (1 + np.exp(slope * odds - offset))
    assert fails == pytest.approx(said.probabilities[answered, 0].numpy(), abs=1e-4)
    assert (everybody.choice[answered] == said.choice.numpy()[answered]).all()


def test_one_member_speaks_for_itself(examples, fitted):
    sets = score_sets(fitted.network, examples)
    for member in range(examples.members):
        alone = sets[(1 << member) - 1]
        gave = (examples.clusters[:, member] >= 0).numpy()
        assert (alone.choice == np.where(gave, member, -1)).all()
        assert (alone.runner_up == 0).all()
        assert alone.right + alone.nobody == pytest.approx(np.ones(len(examples)), abs=1e-5)
        assert np.isfinite(alone.columns).all()


def test_own_queries_are_scored_by_those_that_left_them_out(examples, fitted):
    held_out = held_out_parts(examples.questions, seeds=fitted.network.shape.seeds, seed=0)
    own = score_sets(fitted.network, examples, held_out)
    everybody = own[-1]
    slope, offset = fitted.network.calibration[0].tolist()
    answered = everybody.choice >= 0
    odds = np.log(everybody.right[answered] / (1 - everybody.right[answered]))
    fails = 1 / (1 + np.exp(slope * odds - offset))
    out_of_fold = fitted.out_of_fold.probabilities[answered, 0].numpy()
    assert fails == pytest.approx(out_of_fold, abs=1e-4)
    inside = score_sets(fitted.network, examples, torch.ones_like(held_out))
    assert np.abs(inside[-1].right - everybody.right).max() > 1e-3


def test_taking_some(examples, fitted):
    first = score_sets(fitted.network, examples)[0]
    index = np.array([3, 1])
    assert (first.take(index).columns == first.columns[index]).all()
