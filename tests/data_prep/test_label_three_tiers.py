"""``label`` with a mid oracle between members and oracle, on real models and on recorded ones."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from label_case import HIDDEN_KEYS, assert_same_run, write_pyramid, write_questions
from pyramid_moa.backends import Price
from pyramid_moa.cli import main
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BudgetError, RunFolderError
from synthetic import MEMBERS, MID_ORACLE, ORACLE, write_recorded_table

QUESTIONS = 20
MODELS = ["a", "b", "mid", "o"]


@pytest.fixture
def small_chunks(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(label_module, "PART_ROWS", 8)


@pytest.fixture
def pyramid(tmp_path, tiny_models):
    """Two members, a mid oracle and an oracle: a tenth of the price from tier to tier."""
    whole = load_pyramid(write_pyramid(tmp_path / "pyramid.yaml", tiny_models))
    mid = replace(whole.oracle, name="mid", price=Price(input=1, output=2))
    return replace(whole, oracles=[mid, whole.oracle])


@pytest.fixture
def dataset(tmp_path):
    return load_queries(str(write_questions(tmp_path / "questions.jsonl", QUESTIONS)))


def test_every_tier_answers_once(tmp_path, pyramid, dataset, small_chunks):
    lines = []
    manifest = label(dataset, pyramid, tmp_path / "run", say=lines.append)
    assert lines[0].startswith(f"{QUESTIONS} queries x 4 models: ")
    assert manifest.tiers == [["a", "b"], ["mid"], ["o"]]
    assert [cost.name for cost in manifest.costs] == manifest.models == MODELS
    assert manifest.counts["generations"] == 4 * QUESTIONS
    assert manifest.counts["failed_by_model"] == dict.fromkeys(MODELS, 0)
    run = read_labelled_run(tmp_path / "run")
    assert list(run.generations) == MODELS
    for name in MODELS:
        assert [row.model for row in run.generations[name]] == [name] * QUESTIONS
    # The same model at a tenth of the price.
    for mid, oracle in zip(run.generations["mid"], run.generations["o"], strict=True):
        assert mid.response == oracle.response
        assert 10 * mid.cost_usd == pytest.approx(oracle.cost_usd)
    # A mid oracle's hidden states are not kept, no more than the oracle's.
    assert list(run.hidden_states) == ["a", "b"]
    assert run.hidden_keys == HIDDEN_KEYS
    states = sorted(path.name[:3] for path in (tmp_path / "run" / "hidden_states").iterdir())
    assert set(states) == {"m00", "m01"}


def test_the_labels_are_those_of_members_and_the_last_oracle(tmp_path):
    """The embedded models, which answer some of it rightly: the better member as mid oracle."""
    whole = load_pyramid("embedded")
    mid = replace(whole.members[0], name="mid")
    pyramid = replace(whole, members=whole.members[1:], oracles=[mid, whole.oracle])
    label(load_queries("word-problems?train=12&test=12&seed=5"), pyramid, tmp_path / "run")
    run = read_labelled_run(tmp_path / "run")
    assert run.manifest.tiers == [["member-b", "member-c"], ["mid"], ["oracle"]]
    answers = {name: [row.answer for row in own] for name, own in run.generations.items()}
    members = [answers["member-b"], answers["member-c"]]
    expected = label_queries(run.queries, members, answers["oracle"], run.grader, reference="gold")
    assert run.labels == expected
    assert {label.vote_share for label in run.labels} <= {0.0, 0.5, 1.0}
    assert 0 < sum(bool(row.correct) for row in run.generations["mid"]) < 24
    assert list(run.hidden_states) == ["member-b", "member-c"]
    first = run.answers_before_oracle(0)
    assert list(first) == ["member-b", "member-c", "mid"]
    assert first["member-b"].hidden_states is not None
    assert first["mid"].hidden_states is None


def spent(run, models):
    folder = RunFolder(run)
    return sum(row.cost_usd for model in models for row in folder.read_generations(model))


def test_a_budget_that_ends_in_the_mid_oracle(tmp_path, pyramid, dataset, small_chunks):
    label(dataset, pyramid, tmp_path / "whole")
    members, mid = (spent(tmp_path / "whole", models) for models in ((0, 1), (2,)))
    out = tmp_path / "run"
    with pytest.raises(BudgetError, match="stopped at --max-usd"):
        label(dataset, pyramid, out, max_usd=members + mid / 2)
    assert spent(out, (0, 1)) == pytest.approx(members)
    assert spent(out, (2, 3)) <= mid / 2
    assert not list((out / "generations").glob("m03-*"))
    label(dataset, pyramid, out, resume=True)
    assert_same_run(out, tmp_path / "whole")


def test_a_run_without_the_mid_oracle_is_another_one(tmp_path, pyramid, dataset, small_chunks):
    out = tmp_path / "run"
    without = replace(pyramid, oracles=[pyramid.oracle])
    label(dataset, without, out)
    with pytest.raises(RunFolderError, match=r'mid_oracles\[0\]: null is not "mid"'):
        label(dataset, pyramid, out, resume=True)
    assert label(dataset, without, out, resume=True).mid_oracles == []


def test_recorded_models_of_three_tiers(tmp_path):
    """The command on a table, as when members and mid oracle have answered long ago."""
    table = write_recorded_table(tmp_path / "sums.parquet", count=30, mid_oracle=True)
    rows = [row for row in pq.read_table(table).to_pylist() if row["model"] == ORACLE]
    lines = ["question,answer", *(f"{row['question']},{row['gold']}" for row in rows)]
    (tmp_path / "questions.csv").write_text("\n".join(lines) + "\n")
    entries = {
        name: f'  - {{name: {name}, backend: recorded, model: "sums.parquet::{name}"}}\n'
        for name in (*MEMBERS, MID_ORACLE, ORACLE)
    }
    members = "".join(entries[name] for name in MEMBERS)
    yaml = f"members:\n{members}oracles:\n{entries[MID_ORACLE]}{entries[ORACLE]}"
    (tmp_path / "pyramid.yaml").write_text(yaml)
    arguments = ["label", "--dataset", str(tmp_path / "questions.csv"), "--pyramid"]
    assert main([*arguments, str(tmp_path / "pyramid.yaml"), "--out", str(tmp_path / "run")]) == 0
    run = read_labelled_run(tmp_path / "run")
    assert run.manifest.tiers == [list(MEMBERS), [MID_ORACLE], [ORACLE]]
    recorded = {(row["model"], row["question"]): row for row in pq.read_table(table).to_pylist()}
    for name in run.manifest.models:
        for query, row in zip(run.queries, run.generations[name], strict=True):
            assert row.answer == recorded[name, query.question]["answer"]
    for query, row in zip(run.queries, run.labels, strict=True):
        assert row.oracle_answer == recorded[ORACLE, query.question]["answer"]
