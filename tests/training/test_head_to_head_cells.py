"""Cells and their files."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.baselines.fixed_rules import VoteRule
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.query_only import QueryOnlyRule
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.head_to_head_cells import Cell, CellCache, compute_cell
from synthetic import quick_config


@pytest.fixture(scope="module")
def data(labelled_run):
    return rule_run(read_labelled_run(labelled_run))


@pytest.fixture(scope="module")
def cell(data):
    return compute_cell(VoteRule(), data, np.arange(0, 200), np.arange(200, 240), 0)


def test_every_call_is_paid_for(data, cell):
    test = np.arange(200, 240)
    members = data.cost[test, :-1].sum(axis=1)
    assert cell.cost[0] == pytest.approx(members)  # nobody is without an answer there
    assert cell.cost[-1] == pytest.approx(data.cost[test].sum(axis=1))
    agree = data.share[test] == 1
    assert cell.cost[2] == pytest.approx(members + ~agree * data.cost[test, -1])
    assert cell.escalated[2].tolist() == (~agree).tolist()
    right = np.where(agree, data.correct[test, data.vote], data.correct[test, data.oracle])
    assert cell.correct[2].tolist() == right.tolist()
    assert cell.train_cost[-1] == pytest.approx(data.cost[:200].sum(axis=1).mean())
    # An empty vote is never accepted.
    accepted = np.where(data.winner[:200] < 0, data.oracle, data.vote)
    assert cell.train_accuracy[0] == data.correct[np.arange(200), accepted].mean()


def test_a_cell_is_read_as_it_was_written(tmp_path, cell):
    cache = CellCache(tmp_path)
    assert cache.read(tmp_path / "a.npz") is None
    cache.write(tmp_path / "a.npz", cell)
    read = cache.read(tmp_path / "a.npz")
    for field in fields(Cell):
        first, second = getattr(cell, field.name), getattr(read, field.name)
        assert first.dtype == second.dtype
        assert (first == second).all()


def test_a_damaged_file_is_given_up(tmp_path, cell, caplog):
    cache = CellCache(tmp_path)
    for content in (b"", b"no archive", None):
        path = tmp_path / "a.npz"
        if content is None:
            cache.write(path, cell)
            content = path.read_bytes()[:-40]
        path.write_bytes(content)
        assert cache.read(path) is None
        assert "damaged" in caplog.text
        caplog.clear()


def test_nothing_is_unpickled(tmp_path, cell):
    arrays = {field.name: getattr(cell, field.name) for field in fields(Cell)}
    arrays["dial"] = np.array([{"an": "object"}], dtype=object)
    np.savez(tmp_path / "a.npz", **arrays)
    assert CellCache(tmp_path).read(tmp_path / "a.npz") is None


def test_the_name_tells_all_that_a_cell_depends_on(tmp_path, data):
    cache = CellCache(tmp_path)
    config = quick_config()
    other = replace(
        data.run, queries=[replace(q, question=f"{q.question}?") for q in data.run.queries]
    )
    names = [
        cache.path(rule, run, folds=folds, fold=fold, seed=seed)
        for rule, run, folds, fold, seed in (
            (QueryOnlyRule(), data, 5, 0, 0),
            (QueryOnlyRule(directions=8), data, 5, 0, 0),
            (VoteRule(), data, 5, 0, 0),
            (QueryOnlyRule(), rule_run(other), 5, 0, 0),
            (QueryOnlyRule(), data, 4, 0, 0),
            (QueryOnlyRule(), data, 5, 1, 0),
            (QueryOnlyRule(), data, 5, 0, 1),
            (OurRule(config=config), data, 5, 0, 0),
            (OurRule(config=replace(config, seed=3)), data, 5, 0, 0),
        )
    ]
    assert len(set(names)) == len(names)
    again = cache.path(QueryOnlyRule(), data, folds=5, fold=0, seed=0)
    assert again == names[0]
    # Where curves are written changes nothing of the router.
    tracked = replace(config, tracking=replace(config.tracking, loggers=[]))
    assert cache.path(OurRule(config=tracked), data, folds=5, fold=0, seed=0) == names[7]
