"""A run in columns."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.training.baselines.rule_run import rule_run


@pytest.fixture(scope="module")
def run(labelled_run):
    return read_labelled_run(labelled_run)


def changed(run, model, number, **values):
    rows = list(run.generations[model])
    rows[number] = replace(rows[number], **values)
    return replace(run, generations={**run.generations, model: rows})


def test_the_columns(run):
    data = rule_run(run)
    assert (data.n, data.members, data.oracle, data.vote) == (240, 3, 3, 4)
    assert data.cost.shape == (240, 4)
    assert data.correct.shape == (240, 5)
    # All members fail at 7 and 8, the oracle at 8 and 9; where it does the vote's answer stands.
    assert data.winner[7] == data.winner[8] == -1
    assert data.cost[7, :3].tolist() == [0, 0, 0]
    assert data.cost[8].sum() == 0
    assert data.correct[9, data.oracle] == data.correct[9, data.vote]
    winner = np.maximum(data.winner, 0)
    assert (data.correct[np.arange(240), winner] == data.correct[:, data.vote])[9:].all()


def test_a_mid_oracle_is_in_no_column(run, three_tier_run):
    data, three = rule_run(run), rule_run(read_labelled_run(three_tier_run))
    assert (three.members, three.oracle, three.vote) == (3, 3, 4)
    for name in ("cost", "correct", "clusters", "winner", "share", "confidence"):
        np.testing.assert_array_equal(getattr(three, name), getattr(data, name))
    # What is remembered of a run must not be taken for another's.
    assert three.content_hash() != data.content_hash()


def test_costs_have_to_be_known(run):
    with pytest.raises(RunFolderError, match="none for some of middle; import again with --prices"):
        rule_run(changed(run, "middle", 20, cost_usd=None))
    free = [replace(row, cost_usd=0.0) for row in run.generations["oracle"]]
    with pytest.raises(RunFolderError, match="all answers of oracle are free"):
        rule_run(replace(run, generations={**run.generations, "oracle": free}))


def test_the_content_hash_sees_what_a_rule_can_read(run):
    first = rule_run(run).content_hash()
    assert rule_run(run).content_hash() == first
    assert rule_run(changed(run, "small", 3, latency_s=9.0)).content_hash() == first
    assert rule_run(changed(run, "small", 3, response="other")).content_hash() != first
    assert rule_run(changed(run, "small", 3, confidence=0.5)).content_hash() != first
    key = run.hidden_keys[0]
    states = {**run.hidden_states["small"], key: run.hidden_states["large"][key]}
    hidden = {**run.hidden_states, "small": states}
    assert rule_run(replace(run, hidden_states=hidden)).content_hash() != first


def test_forgetting(run):
    data = rule_run(run)
    assert data.remember("thing", lambda: [1]) is data.remember("thing", lambda: [2])
    data.forget()
    assert data.remember("thing", lambda: [2]) == [2]
    assert data.content_hash() == rule_run(run).content_hash()
