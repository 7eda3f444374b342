"""The benchmark on the embedded pyramid: every rule takes part, and signals are left out."""

import pytest
from ablation import WHOLE

from embedded import labelled, without_signals
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from synthetic import quick_config


def test_answers_have_log_probabilities_and_hidden_states(tmp_path):
    run = labelled(tmp_path / "run", questions=8, seed=3)
    assert labelled(run, questions=8, seed=3) == run  # as it is
    read = read_labelled_run(run)
    assert len(read.queries) == 8
    assert read.hidden_keys
    rows = read.generations[read.manifest.members[0]]
    assert all(row.logprobs is not None and row.logprobs.mean < 0 for row in rows)
    with pytest.raises(RunFolderError, match="another one"):
        labelled(run, questions=9, seed=3)


def test_what_is_left_out():
    rules = {rule.name: rule.config for rule in without_signals(quick_config())}
    assert list(rules) == [WHOLE, "confidence", "hidden states", "both"]
    assert {name for name, own in rules.items() if "confidence" in own.groups} == {
        WHOLE,
        "hidden states",
    }
    assert {name for name, own in rules.items() if own.hidden_states == "none"} == {
        "hidden states",
        "both",
    }
    assert len({len(own.groups) for own in rules.values()}) == 2
