"""Which hidden state is read."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError, RunFolderError
from pyramid_moa.training.hidden_choice import choose_hidden_key
from synthetic import HIDDEN_KEY, HIDDEN_SIZE


@pytest.fixture(scope="module")
def run(labelled_run):
    """One with a second hidden state, before the first by name, that says nothing."""
    own = read_labelled_run(labelled_run)
    rng = np.random.default_rng(0)
    states = {
        name: {
            "layer-0/answer_mean": rng.normal(size=(len(own.queries), HIDDEN_SIZE)).astype("f2"),
            **by_key,
        }
        for name, by_key in own.hidden_states.items()
    }
    return replace(own, hidden_states=states)


def labelled(run):
    return list(range(len(run.queries)))


def test_the_telling_one_is_chosen(run):
    assert run.hidden_keys == ["layer-0/answer_mean", HIDDEN_KEY]
    assert choose_hidden_key(run, "auto", labelled(run)) == HIDDEN_KEY
    assert choose_hidden_key(run, "auto", labelled(run)) == HIDDEN_KEY  # no chance in it


def test_only_labels_that_may_be_read(run):
    """Of other queries nothing is read, be it labels or hidden states."""
    allowed = labelled(run)[::2]
    others = set(labelled(run)) - set(allowed)
    noise = np.random.default_rng(1).normal(size=(len(run.queries), HIDDEN_SIZE)).astype("f2")
    strange = np.isin(np.arange(len(run.queries)), list(others))[:, None]
    changed = replace(
        run,
        hidden_states={
            name: {key: np.where(strange, 50 * noise, states) for key, states in by_key.items()}
            for name, by_key in run.hidden_states.items()
        },
        labels=[
            replace(label, vote_correct=not label.vote_correct) if i in others else label
            for i, label in enumerate(run.labels)
        ],
    )
    assert choose_hidden_key(changed, "auto", allowed) == choose_hidden_key(run, "auto", allowed)


def test_few_failures_and_few_keys(run):
    assert choose_hidden_key(run, "auto", labelled(run)[:20]) == "layer-0/answer_mean"
    single = replace(
        run,
        hidden_states={
            name: {HIDDEN_KEY: states[HIDDEN_KEY]} for name, states in run.hidden_states.items()
        },
    )
    assert choose_hidden_key(single, "auto", labelled(run)) == HIDDEN_KEY
    none = replace(run, hidden_states={name: {} for name in run.manifest.members})
    assert choose_hidden_key(none, "auto", labelled(run)) is None


def test_by_name(run):
    assert choose_hidden_key(run, "none", []) is None
    assert choose_hidden_key(run, "layer-0/answer_mean", []) == "layer-0/answer_mean"
    with pytest.raises(ConfigError, match=r"every member \(layer-0/answer_mean, .*found 'last'"):
        choose_hidden_key(run, "last", [])


def test_states_that_are_not_finite(run):
    broken = {name: dict(by_key) for name, by_key in run.hidden_states.items()}
    states = np.array(broken["large"][HIDDEN_KEY])
    states[3, 2] = np.inf
    broken["large"][HIDDEN_KEY] = states
    with pytest.raises(RunFolderError, match=r"of member 'large': expected finite values"):
        choose_hidden_key(replace(run, hidden_states=broken), "auto", labelled(run))
