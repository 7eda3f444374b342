"""Whether a run shows that the ensemble should outvote its oracle."""

from dataclasses import replace

import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.router_model.policy import OperatingPoint, Scores
from pyramid_moa.training.outvoting import choose_outvote
from pyramid_moa.training.replay import replay

ALWAYS = OperatingPoint(name="always", threshold=-1.0, target="")


@pytest.fixture(scope="module")
def run(imported_run):
    return read_labelled_run(imported_run)


def scores_of(run, member, fails):
    """The ensemble answers as one member does."""
    return [
        Scores(p_ensemble_fails=fails(index), p_oracle_right=0.5, choice=member)
        for index in range(len(run.queries))
    ]


def with_oracle(run, correct):
    """The oracle answers nonsense, right by decree where ``correct`` says so."""
    name = run.manifest.oracle
    rows = [replace(row, answer="nonsense") for row in run.generations[name]]
    labels = [
        replace(label, oracle_correct=correct(i), oracle_answer="nonsense")
        for i, label in enumerate(run.labels)
    ]
    return replace(run, generations={**run.generations, name: rows}, labels=labels)


def test_a_bad_oracle_is_outvoted(run):
    bad = with_oracle(run, lambda index: index % 3 == 0)
    right = [bool(row.correct) for row in run.generations["large"]]
    scores = scores_of(bad, 0, lambda index: 0.05 if right[index] else 0.9)
    positions = range(len(bad.queries))
    margin = choose_outvote(bad, positions, scores, ALWAYS)
    assert margin is not None
    taken = replay(bad, positions, scores, ALWAYS).final_correct.mean()
    kept = replay(bad, positions, scores, replace(ALWAYS, outvote=margin)).final_correct.mean()
    assert kept > taken


def test_an_oracle_that_is_right_is_not(run):
    good = with_oracle(run, lambda index: True)
    assert choose_outvote(good, range(300), scores_of(good, 0, lambda index: 0.05), ALWAYS) is None


def test_what_chance_would_give_is_not_enough(run):
    """Of few differences one more here or there means nothing."""
    even = with_oracle(run, lambda index: not run.generations["large"][index].correct)
    right = [i for i in range(300) if run.generations["large"][i].correct]
    wrong = [i for i in range(300) if not run.generations["large"][i].correct]
    some = [*right[:4], *wrong[:3]]
    scores = [scores_of(even, 0, lambda index: 0.05)[i] for i in some]
    assert choose_outvote(even, some, scores, ALWAYS) is None
    scores = [scores_of(even, 0, lambda index: 0.05)[i] for i in right[:40]]
    assert choose_outvote(even, right[:40], scores, ALWAYS) is not None


def test_only_what_is_asked_counts(run):
    bad = with_oracle(run, lambda index: False)
    never = OperatingPoint(name="never", threshold=1.0, target="")
    assert choose_outvote(bad, range(300), scores_of(bad, 0, lambda index: 0.05), never) is None
