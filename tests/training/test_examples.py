"""What the network is fitted on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.features import DEFAULT_GROUPS, NO_ANSWER, FeatureSpec
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.fit import vote_fails
from synthetic import HIDDEN_KEY, HIDDEN_SIZE, MEMBERS

SPEC = FeatureSpec(groups=DEFAULT_GROUPS)


@pytest.fixture(scope="module")
def run(labelled_run):
    return read_labelled_run(labelled_run)


def test_features_are_those_of_the_router(run, trained_on_hidden):
    router = Router.load(trained_on_hidden)
    examples = gather_examples(run, SPEC, hidden_key=HIDDEN_KEY)
    assert len(examples) == len(run.queries)
    for index in (0, 3, 7, 8, 100):
        answers = run.member_answers(index)
        evidence = router.evidence(run.queries[index].question, answers)
        for kind in ("answers", "relations", "clusters", "question"):
            ours, theirs = getattr(examples, kind)[index], getattr(evidence, kind)
            assert ours.numpy().tobytes() == theirs.tobytes(), kind
        for states, vector in zip(examples.hidden, router.hidden_states(answers), strict=True):
            assert np.array_equal(states[index], vector)
        rights = [bool(run.generations[name][index].correct) for name in MEMBERS]
        assert examples.right[index].tolist() == rights
        assert examples.oracle_right[index] == run.labels[index].oracle_correct
    assert not examples.hidden[0][7].any()  # it failed there
    assert examples.clusters[7].tolist() == [NO_ANSWER] * 3
    assert examples.members == 3
    failed = [not label.vote_correct for label in run.labels]
    assert vote_fails(examples).tolist() == failed


def test_a_mid_oracle_is_a_member_that_is_not_asked_first(run, three_tier_run):
    examples = gather_examples(run, SPEC, hidden_key=None)
    three = gather_examples(read_labelled_run(three_tier_run), SPEC, hidden_key=None)
    assert (three.members, three.asked_first) == (4, 3)
    assert (examples.members, examples.asked_first) == (3, 3)
    without = three.of_members([0, 1, 2])
    for ours, theirs in zip(without.tensors, examples.tensors, strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    with pytest.raises(RunFolderError, match="member 'mid-oracle' has no hidden states"):
        gather_examples(read_labelled_run(three_tier_run), SPEC, hidden_key=HIDDEN_KEY)


def test_taking_some(run):
    examples = gather_examples(run, SPEC, hidden_key=HIDDEN_KEY)
    some = examples.take([5, 2])
    assert len(some) == 2
    for ours, whole in zip(some.tensors, examples.tensors, strict=True):
        assert torch.equal(ours.nan_to_num(), whole[[5, 2]].nan_to_num())
    assert some.hidden[2].shape == (2, HIDDEN_SIZE)
    np.testing.assert_array_equal(some.hidden[2][:], examples.hidden[2][np.array([5, 2])])
    again = some.take([1, 1, 0])
    np.testing.assert_array_equal(again.hidden[2][1:], examples.hidden[2][np.array([2, 5])])


def test_without_hidden_states(run):
    assert gather_examples(run, SPEC, hidden_key=None).hidden == ()


def test_hidden_states_that_are_missing_or_no_numbers(run):
    with pytest.raises(
        RunFolderError, match=f"no hidden states 'x' in this run; it has {HIDDEN_KEY}"
    ):
        gather_examples(run, SPEC, hidden_key="x")
    states = {name: dict(values) for name, values in run.hidden_states.items()}
    states["small"][HIDDEN_KEY] = states["small"][HIDDEN_KEY][:]
    states["small"][HIDDEN_KEY][4, 2] = np.inf
    with pytest.raises(RunFolderError, match="member 'small': expected finite values"):
        gather_examples(replace(run, hidden_states=states), SPEC, hidden_key=HIDDEN_KEY)
