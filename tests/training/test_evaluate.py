"""Run and checkpoint in; decisions, figures and a report out."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError, DataError, RunFolderError
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.evaluate import evaluate
from pyramid_moa.training.known_questions_fit import fit_known_questions
from pyramid_moa.training.replay import score_run

# As the design names them.
DECISION_COLUMNS = {
    "query_id",
    "ensemble_answer",
    "p_ensemble_fails",
    "p_oracle_right",
    "models_called",
    "escalated",
    "final_answer",
    "correct",
    "cost",
}
METRICS = {
    "n": None,
    "members": {"large", "middle", "small"},
    "ensemble": {"accuracy", "cost"},
    "oracle": {"accuracy", "cost"},
    "hindsight": {"accuracy", "cost_ratio"},
    "failure_auroc": None,
    "vote_failure_auroc": None,
    "agreement_auroc": None,
    "ece": None,
    "brier": None,
    "curve": None,
    "cost_ratio_at_parity": None,
}


@pytest.fixture(scope="module")
def report(imported_run, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "report"
    said = []
    metrics = evaluate(imported_run, out, router=trained, say=said.append)
    assert said == []  # none of these questions was seen in training
    return out, metrics


def test_the_files(report):
    out, metrics = report
    assert json.loads((out / "metrics.json").read_text()) == metrics
    names = {path.name for path in out.iterdir()}
    assert {"decisions.parquet", "metrics.json", "report.html"} <= names
    assert {path.suffix for path in out.iterdir()} >= {".png", ".svg"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "<script src" not in page


def test_the_decisions(report, imported_run):
    run = read_labelled_run(imported_run)
    table = pq.read_table(report[0] / "decisions.parquet")
    assert set(table.column_names) >= DECISION_COLUMNS
    positions = run.of_split("test")
    assert table["query_id"].to_pylist() == [run.queries[i].query_id for i in positions]


def test_the_figures(report, imported_run, trained):
    _, metrics = report
    run = read_labelled_run(imported_run)
    positions = run.of_split("test")
    for key, parts in METRICS.items():
        assert key in metrics
        if parts:
            assert parts <= set(metrics[key]), key
    labels = [run.labels[i] for i in positions]
    assert metrics["n"] == len(positions)
    choices = [score.choice for score in score_run(run, Router.load(trained), positions)]
    members = [run.manifest.members[choice] for choice in choices]
    right = [run.generations[name][i].correct for name, i in zip(members, positions, strict=True)]
    assert metrics["ensemble"]["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["oracle"]["accuracy"] == pytest.approx(
        sum(label.oracle_correct for label in labels) / len(labels)
    )
    agreement = roc_auc_score(
        [not label.vote_correct for label in labels], [-label.vote_share for label in labels]
    )
    assert metrics["agreement_auroc"] == pytest.approx(agreement)
    assert metrics["vote_failure_auroc"] > agreement
    low, high = metrics["intervals"]["failure_auroc"]
    assert low <= metrics["failure_auroc"] <= high
    point = {"threshold", "escalation_rate", "accuracy", "cost_ratio"}
    assert all(point <= set(row) for row in metrics["curve"])


def test_another_operating_point(imported_run, trained, tmp_path):
    metrics = evaluate(
        imported_run, tmp_path / "report", router=trained, point="vote-accuracy", split="all"
    )
    card = Router.load(trained).card
    assert metrics["operating_point"]["name"] == "vote-accuracy"
    assert metrics["operating_point"]["threshold"] == pytest.approx(
        card.operating_point("vote-accuracy").threshold
    )
    assert metrics["n"] == 300


def test_questions_that_were_seen_in_training_are_said(imported_run, trained, tmp_path):
    said = []
    evaluate(imported_run, tmp_path / "report", router=trained, split="train", say=said.append)
    count = len(read_labelled_run(imported_run).of_split("train"))
    assert said == [f"the router has seen {count} of these questions in training"]
    assert said[0] in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_questions_unlike_those_of_training_are_said(imported_run, trained, tmp_path):
    router = Router.load(trained)
    assert router.known.questions == router.card.known_questions["questions"] > 99
    said = []
    evaluate(imported_run, tmp_path / "report", router=trained, say=said.append)
    assert not said
    router.known = fit_known_questions([f"What is {k}?" for k in range(300)])
    router.save(tmp_path / "other")
    metrics = evaluate(
        imported_run, tmp_path / "report", router=tmp_path / "other", say=said.append
    )
    remark = f"{metrics['n']} of {metrics['n']} questions are unlike those that the router was"
    assert len(said) == 1
    assert said[0].startswith(remark)
    assert remark in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_the_vote_rule(labelled_run, tmp_path):
    metrics = evaluate(labelled_run, tmp_path / "report")
    assert metrics["operating_point"]["name"] == "vote"
    rule = metrics["vote_rule"]
    assert metrics["operating_point"]["escalation_rate"] == rule["escalation_rate"]
    rows = pq.read_table(tmp_path / "report" / "decisions.parquet").to_pydict()
    assert rows["p_oracle_right"] == [None] * metrics["n"]


def test_what_is_refused(imported_run, labelled_run, trained, trained_on_hidden, tmp_path):
    out = tmp_path / "report"
    with pytest.raises(ConfigError, match="expected a router"):
        evaluate(imported_run, out, point="vote-cost")
    with pytest.raises(CheckpointError, match="no operating point 'best'"):
        evaluate(imported_run, out, router=trained, point="best")
    with pytest.raises(CheckpointError, match="does not fit this run"):
        evaluate(imported_run, out, router=trained_on_hidden)
    with pytest.raises(RunFolderError, match="split 'mine'"):
        evaluate(imported_run, out, split="mine")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="folder of something else"):
        evaluate(imported_run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
