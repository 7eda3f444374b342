"""Runs that make trouble: a fallback that is documented, or an error, and never a silent NaN."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.records import LogprobStatistics
from pyramid_moa.router_model.features import FeatureSpec
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.fit import fit_network, scored
from synthetic import HIDDEN_KEY, quick_config

GROUPS = ("agreement", "confidence", "lengths")


@pytest.fixture(scope="module")
def run(labelled_run):
    return read_labelled_run(labelled_run)


def with_rows(run, name, change):
    rows = [change(row) for row in run.generations[name]]
    return replace(run, generations={**run.generations, name: rows})


def fitted_and_scored(run, count=None, hidden_key=None):
    examples = gather_examples(run, FeatureSpec(groups=GROUPS), hidden_key=hidden_key)
    learned = examples if count is None else examples.take(range(count))
    fitted = fit_network(learned, quick_config(groups=list(GROUPS)))
    said = scored(fitted.network, examples)
    for name, value in fitted.network.state_dict().items():
        assert value.isfinite().all(), name
    return fitted, said


def finite(said):
    return bool(said.probabilities.isfinite().all())


def test_a_member_that_never_answers(run):
    """It counts as one that was asked and gave nothing; the others decide."""
    silent = with_rows(run, "small", lambda row: replace(row, answer=None, correct=False))
    fitted, said = fitted_and_scored(silent)
    assert finite(said)
    assert finite(fitted.out_of_fold)
    place = run.manifest.members.index("small")
    others = [m for m in range(len(run.manifest.members)) if m != place]
    answered = torch.tensor(
        [
            any(run.generations[run.manifest.members[m]][i].answer is not None for m in others)
            for i in range(len(run.queries))
        ]
    )
    assert (said.choice[answered] != place).all()


def test_a_member_that_always_fails(run):
    """Every call of it ended in an error: nothing of it is known."""
    gone = with_rows(
        run,
        "small",
        lambda row: replace(
            row, answer=None, correct=False, response=None, error="timed out", logprobs=None
        ),
    )
    _, said = fitted_and_scored(gone)
    assert finite(said)


def test_log_probabilities_that_are_not_finite(run):
    """They are unknown, not numbers."""
    broken = LogprobStatistics(mean=float("nan"), minimum=float("-inf"), tail_mean=None)
    strange = with_rows(run, "large", lambda row: replace(row, logprobs=broken))
    _, said = fitted_and_scored(strange)
    assert finite(said)


def test_hidden_states_that_are_not_finite(run):
    states = {name: dict(by_key) for name, by_key in run.hidden_states.items()}
    vectors = np.array(states["middle"][HIDDEN_KEY])
    vectors[5, 1] = np.nan
    states["middle"][HIDDEN_KEY] = vectors
    with pytest.raises(RunFolderError, match=r"of member 'middle': expected finite values"):
        fitted_and_scored(replace(run, hidden_states=states), hidden_key=HIDDEN_KEY)


def test_twenty_questions(run):
    fitted, said = fitted_and_scored(run, count=20)
    assert finite(said)
    assert finite(fitted.out_of_fold)
    with pytest.raises(RunFolderError, match="at least 20 queries to train on, found 19"):
        fitted_and_scored(run, count=19)


@pytest.mark.parametrize("right", [True, False])
def test_one_class(run, right):
    same = run
    for name in run.manifest.members:
        same = with_rows(same, name, lambda row: replace(row, correct=right))
    word = "never" if right else "always"
    with pytest.raises(RunFolderError, match=f"the ensemble {word} fails on the 240 training"):
        fitted_and_scored(same)
