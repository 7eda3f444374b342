"""Curves of few labels: what is learned from, what is measured, what is written."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.records import question_hash
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.baselines.starts import CheckpointStart, Pool
from pyramid_moa.training.benchmark import benchmark
from pyramid_moa.training.label_curves import label_points
from pyramid_moa.training.train import train
from synthetic import MEMBERS, ORACLE, quick_config


@pytest.fixture(scope="module")
def learned(labelled_run, tmp_path_factory):
    """A router of other questions that reads no hidden states."""
    out = tmp_path_factory.mktemp("learned") / "router"
    return train(labelled_run, out, quick_config(hidden_states="none")), out


@pytest.fixture(scope="module")
def data(imported_run):
    return rule_run(read_labelled_run(imported_run))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_with_label_curves(learned, imported_run, tmp_path):
    benchmark(
        [imported_run],
        tmp_path,
        config=quick_config(),
        labels=[0, 40],
        init=learned[1],
        folds=2,
        seeds=1,
        rules=["vote"],
        resamples=50,
    )
    rows = rows_of(tmp_path / "label_curves.csv")
    curves = [(row["curve"], row["labels"]) for row in rows if row["scope"] == "all"]
    assert curves == [
        ("vote", "all"),
        ("router", "40"),
        ("router", "all"),
        ("router-started", "0"),
        ("router-started", "40"),
        ("router-started", "all"),
    ]
    figures = dict(zip(curves, rows, strict=False))
    for row in figures.values():
        assert 0.5 < float(row["failure_auroc"]) <= 1
        assert float(row["failure_auroc_low"]) < float(row["failure_auroc_high"])
        assert (row["log_loss"] == "") == (row["curve"] == "vote")
    assert float(figures["router", "all"]["auroc_less_own_training"]) == 0
    # Nobody slips in the sums that were started from: some of what tells has still to be learned.
    started = [float(figures["router-started", n]["failure_auroc"]) for n in ("0", "all")]
    assert 0.7 < started[0] < started[1]
    for name in ("label_curves.svg", "label_curves.png"):
        assert (tmp_path / name).stat().st_size > 1000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "How many labels it takes" in page
    for row in figures.values():
        low, high = float(row["failure_auroc_low"]), float(row["failure_auroc_high"])
        assert f"{float(row['failure_auroc']):.3f} ({low:.3f} to {high:.3f})" in page


def test_a_checkpoint_that_has_seen_the_questions_has_no_curve(trained, imported_run, tmp_path):
    said = []
    benchmark(
        [imported_run],
        tmp_path,
        config=quick_config(),
        labels=[40],
        init=trained,
        folds=2,
        seeds=1,
        rules=["vote"],
        resamples=0,
        say=said.append,
    )
    assert any("without router-started" in line and "was trained on" in line for line in said)
    assert {row["curve"] for row in rows_of(tmp_path / "label_curves.csv")} == {"vote", "router"}


def test_points_that_can_be_learned(learned):
    start = CheckpointStart(learned[0])
    points = label_points(quick_config(), [start], [50, 0, 19, 50])
    assert [(point.curve, point.labels) for point in points] == [
        ("vote", None),
        ("router", 50),
        ("router", None),
        ("router-started", 0),
        ("router-started", 19),
        ("router-started", 50),
        ("router-started", None),
    ]
    with pytest.raises(ConfigError, match=r"0 or more, found \[-1\]"):
        label_points(quick_config(), [], [-1])


def test_only_the_given_number_of_labels_is_read(learned, data):
    """Whatever the other labels say, nothing changes."""
    train, test = np.arange(0, 200), np.arange(200, data.n)
    rule = OurRule(config=quick_config(), starts=[CheckpointStart(learned[0])], labels=30)
    hidden = {data.hashes[position] for position in test}.__contains__
    first = rule.fit(data, train, 0, hidden).decide(data, test).failure.values
    before = learned[0].network.read.weight
    zero = replace(rule, labels=0).fit(data, train, 0, hidden)
    scores = zero.decide(data, test).failure.values
    assert np.isfinite(scores).all()
    assert not np.array_equal(scores, first)
    assert zero.train.called.shape[1] == len(train)
    # Labels of a run in which all but the chosen ones are turned round.
    from pyramid_moa.training.baselines.ours import _first_labelled

    chosen = train[_first_labelled(data, train, 30, 0)]
    assert len(chosen) == 30
    more = train[_first_labelled(data, train, 60, 0)]
    assert set(chosen) < set(more)
    run = data.run
    turned = {
        name: [
            row if i in set(chosen.tolist()) else replace(row, correct=not row.correct)
            for i, row in enumerate(rows)
        ]
        for name, rows in run.generations.items()
    }
    labels = [
        label
        if i in set(chosen.tolist())
        else replace(label, vote_correct=not label.vote_correct, oracle_correct=False)
        for i, label in enumerate(run.labels)
    ]
    other = rule_run(replace(run, generations=turned, labels=labels))
    again = rule.fit(other, train, 0, hidden).decide(other, test).failure.values
    assert np.array_equal(again, first)
    assert learned[0].network.read.weight is before


def test_a_pool_without_some_of_its_models(imported_run):
    run = read_labelled_run(imported_run)
    pool = Pool(run, content_hash="abc")
    config = quick_config()
    everybody, other = pool.examples(config), pool.without([MEMBERS[1]])
    assert other.examples(config).members == 2
    assert other.content_hash != pool.content_hash
    assert pool.without([]).content_hash == pool.content_hash
    # Without its oracle the best of the others stands in its place.
    third = pool.without([ORACLE])
    assert third.examples(config).members == 2
    assert (third.examples(config).oracle_right == everybody.right[:, 0]).all()
    held_out = question_hash(run.queries[0].question).__eq__
    network = other.network(config, held_out)
    assert network.shape.members == 2
    assert other.network(config, held_out) is network


def test_strangers_whose_hidden_states_are_there_all_the_same(learned, labelled_run, imported_run):
    """What is started from reads none, so without a label the run's are left alone."""
    other = rule_run(read_labelled_run(labelled_run))
    run = read_labelled_run(imported_run)
    pool = Pool(run, content_hash="made up")
    rule = OurRule(config=quick_config(), starts=[pool], labels=0)
    assert other.run.hidden_keys
    train, test = np.arange(0, 200), np.arange(200, other.n)
    hidden = {other.hashes[position] for position in test}.__contains__
    scores = rule.fit(other, train, 0, hidden).decide(other, test).failure.values
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 10
