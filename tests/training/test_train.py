"""From a run folder to a checkpoint."""

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.mapped_rows import MappedRows
from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.records import question_hash
from pyramid_moa.router_model import hidden_rows
from pyramid_moa.router_model.features import DEFAULT_GROUPS, FeatureSpec
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.config import NetworkConfig, StepsConfig, TrackingConfig
from pyramid_moa.training.module import RouterModule
from pyramid_moa.training.replay import score_run
from pyramid_moa.training.train import train
from synthetic import (
    COSTS,
    HIDDEN_KEY,
    MEMBERS,
    MID_ORACLE,
    ORACLE,
    quick_config,
    write_recorded_table,
)


def made(run, out, **changes):
    return train(run, out, quick_config(**changes))


def weights(checkpoint):
    return (checkpoint / "router.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_files(trained, imported_run, tmp_path):
    made(imported_run, tmp_path / "again")
    for name in ("router.safetensors", "router.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name


def test_another_seed_gives_other_weights(trained, imported_run, tmp_path):
    made(imported_run, tmp_path / "other", seed=1)
    assert weights(tmp_path / "other") != weights(trained)


def test_training_leaves_the_callers_random_numbers_alone(imported_run, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made(imported_run, tmp_path / "checkpoint")
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def most_rows(monkeypatch):
    """The most rows of hidden states that were asked for at once, where pieces have 32 rows."""
    monkeypatch.setattr(hidden_rows, "_ROWS", 32)
    read, asked = MappedRows._at, [0]

    def at(self, positions):
        asked[0] = max(asked[0], len(positions))
        return read(self, positions)

    monkeypatch.setattr(MappedRows, "_at", at)
    return asked


def test_hidden_states_are_read_a_piece_at_a_time(labelled_run, tmp_path, most_rows):
    card = made(labelled_run, tmp_path / "checkpoint").card
    assert card.hidden_key == HIDDEN_KEY
    assert card.validation["failure_auroc"] > 0.75
    assert most_rows == [32]


@pytest.mark.parametrize("kind", ["imported", "labelled"])
def test_it_finds_the_failures_that_agreement_misses(request, kind):
    names = {"imported": "trained", "labelled": "trained_on_hidden"}
    run = read_labelled_run(request.getfixturevalue(f"{kind}_run"))
    router = Router.load(request.getfixturevalue(names[kind]))
    positions = run.of_split("test")
    failed = [not run.labels[i].vote_correct for i in positions]
    shares = [run.labels[i].vote_share for i in positions]
    p = [score.p_ensemble_fails for score in score_run(run, router, positions)]
    agreement = roc_auc_score(failed, [-share for share in shares])
    assert roc_auc_score(failed, p) > max(0.75, agreement)
    figures = router.card.validation
    assert figures["failure_auroc"] > max(0.75, figures["agreement_auroc"])
    assert abs(np.mean(p) - np.mean(failed)) < 0.15


def test_hidden_states_are_used_where_they_carry_the_signal(
    trained_on_hidden, labelled_run, tmp_path
):
    card = Router.load(trained_on_hidden).card
    assert card.hidden_key == HIDDEN_KEY
    assert [member.hidden_size for member in card.members] == [8, 8, 8]
    blind = made(labelled_run, tmp_path / "blind", hidden_states="none").card
    assert blind.hidden_key is None
    assert [member.hidden_size for member in blind.members] == [None] * 3
    assert card.validation["failure_auroc"] > blind.validation["failure_auroc"] + 0.02
    named = made(labelled_run, tmp_path / "named", hidden_states=HIDDEN_KEY)
    assert weights(tmp_path / "named") == weights(trained_on_hidden)
    assert named.card.hidden_key == HIDDEN_KEY


@pytest.mark.parametrize("key", ["layer-1/last_prompt", "anything"])
def test_hidden_states_that_are_not_there(labelled_run, tmp_path, key):
    with pytest.raises(ConfigError, match=f"the run has of every member .{HIDDEN_KEY}.*{key}"):
        made(labelled_run, tmp_path / "checkpoint", hidden_states=key)
    assert not list(tmp_path.iterdir())


def test_hidden_states_of_a_run_without_any(imported_run, tmp_path):
    with pytest.raises(ConfigError, match="it has none"):
        made(imported_run, tmp_path / "checkpoint", hidden_states=HIDDEN_KEY)


def test_what_the_card_says(trained, imported_run):
    run = read_labelled_run(imported_run)
    card = Router.load(trained).card
    assert card.member_names == list(MEMBERS)
    assert card.oracle == ORACLE
    assert card.grader == "gsm8k"
    assert card.reference == "gold"
    assert card.feature_groups == list(DEFAULT_GROUPS)
    assert card.feature_names == list(FeatureSpec(groups=DEFAULT_GROUPS).names)
    assert not card.needs_logprobs
    counts = {s: len(run.of_split(s)) for s in ("train", "validation", "calibration", "test")}
    assert card.trained_on["queries"] == {
        "fitted": counts["train"] + counts["validation"],
        "calibration": counts["calibration"],
    }
    seen = {question_hash(q.question)[:16] for q in run.queries if q.split != "test"}
    assert set(card.seen_questions) == seen
    curve = card.validation_curve
    assert curve[0]["escalation_rate"] == 0.0
    assert curve[-1]["escalation_rate"] == 1.0
    assert all(a["threshold"] > b["threshold"] for a, b in itertools.pairwise(curve))


def test_log_probabilities_are_needed_of_the_members_that_had_them(trained_on_hidden):
    card = Router.load(trained_on_hidden).card
    assert [member.logprobs for member in card.members] == [True] * 3


def test_operating_points_are_chosen_on_calibration_queries_alone(imported_run, tmp_path):
    """Other labels of the test split change nothing; other calibration labels do."""
    import pyarrow.parquet as pq

    from pyramid_moa.data_prep.run_folder import RunFolder

    points = {}
    for split in ("none", "test", "calibration"):
        run = copied(imported_run, tmp_path / split)
        folder = RunFolder(run)
        labels = [
            replace(
                label,
                vote_correct=not label.vote_correct,
                oracle_correct=not label.oracle_correct,
            )
            if query.split == split
            else label
            for query, label in zip(folder.read_queries(), folder.read_labels(), strict=True)
        ]
        folder.write_labels(labels)
        assert pq.read_metadata(run / "labels.parquet").num_rows == 300
        points[split] = made(run, tmp_path / f"{split}-ck").card.operating_points
    assert points["test"] == points["none"] != points["calibration"]
    assert all(point.split == "calibration" for point in points["none"])
    assert weights(tmp_path / "none-ck") == weights(tmp_path / "calibration-ck")


def copied(run, to):
    import shutil

    shutil.copytree(run, to)
    return to


@pytest.fixture
def run_of_one_split(recorded_table, tmp_path):
    def make(split, table=recorded_table):
        out = tmp_path / f"run-{split}"
        import_recorded([table], members=MEMBERS, oracle=ORACLE, out=out, prices=COSTS, split=split)
        return out

    return make


def test_a_run_that_is_all_train(run_of_one_split, tmp_path):
    card = made(run_of_one_split("train"), tmp_path / "checkpoint").card
    assert card.trained_on["queries"] == {"fitted": 300, "calibration": 0}
    assert card.operating_points[0].questions == 300
    assert "out of fold" in card.operating_points[0].split


def test_a_mid_oracle_is_asked_step_by_step(trained_on_three_tiers):
    router = Router.load(trained_on_three_tiers)
    assert router.card.member_names == [*MEMBERS, MID_ORACLE]
    assert router.card.oracle == ORACLE
    assert router.card.hidden_key is None  # a mid oracle has no states that are read
    assert router.card.operating_points[0].policy == "sequential"
    assert router.steps.members == (*MEMBERS, MID_ORACLE)
    calls = router.card.typical_calls
    assert set(calls) == {*MEMBERS, MID_ORACLE, ORACLE}
    assert calls[MEMBERS[2]].cost_usd < calls[MID_ORACLE].cost_usd < calls[ORACLE].cost_usd


def test_points_that_go_step_by_step(trained):
    card = Router.load(trained).card
    parallel = card.operating_points[0]
    assert parallel.policy == "parallel"
    steps = {point.name: point for point in card.operating_points if point.policy == "sequential"}
    assert list(steps) == ["sequential", "sequential-accurate"]
    assert steps["sequential"].accuracy >= parallel.accuracy
    assert steps["sequential"].cost_ratio < parallel.cost_ratio
    assert steps["sequential-accurate"].accuracy >= steps["sequential"].accuracy
    assert {point.questions for point in steps.values()} == {parallel.questions}


def test_what_cannot_be_had_step_by_step_is_said(imported_run, tmp_path):
    run = shutil.copytree(imported_run, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["costs"][-1]["price"] = {"input": 0.0, "output": 0.0}
    (run / "manifest.json").write_text(json.dumps(manifest))
    for part in (run / "generations").rglob("*.parquet"):
        table = pq.read_table(part)
        if "cost_usd" in table.column_names and table["model"][0].as_py() == ORACLE:
            column = table.schema.get_field_index("cost_usd")
            free = pa.array([0.0] * len(table))
            pq.write_table(table.set_column(column, "cost_usd", free), part)
    said = []
    router = train(run, tmp_path / "ck", quick_config(), say=said.append)
    assert router.steps is None
    assert "no sequential policy: the oracle costs nothing" in said
    assert all(point.policy == "parallel" for point in router.card.operating_points)


def test_time_has_to_be_measured_to_be_weighed(imported_run, tmp_path):
    config = quick_config(steps=StepsConfig(usd_per_second=0.01))
    with pytest.raises(ConfigError, match="expected a run with measured latencies"):
        train(imported_run, tmp_path / "ck", config)


def test_a_run_without_training_queries(run_of_one_split, tmp_path):
    run = run_of_one_split("mine")
    with pytest.raises(RunFolderError, match="split 'train', found only mine"):
        made(run, tmp_path / "checkpoint")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-mine"]


def test_too_few_queries(run_of_one_split, tmp_path):
    run = run_of_one_split("train", write_recorded_table(tmp_path / "few.parquet", count=15))
    with pytest.raises(RunFolderError, match="at least 20 queries to train on, found 15"):
        made(run, tmp_path / "checkpoint")
    assert not list(tmp_path.glob("checkpoint*"))


@pytest.mark.parametrize(("correct", "word"), [(True, "never"), (False, "always")])
def test_a_single_class(recorded_table, tmp_path, correct, word):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(recorded_table)
    golds = [gold if correct else "0" for gold in rows["gold"].to_pylist()]
    place = rows.schema.get_field_index("answer")
    pq.write_table(rows.set_column(place, "answer", pa.array(golds)), tmp_path / "same.parquet")
    import_recorded(
        [tmp_path / "same.parquet"],
        members=MEMBERS,
        oracle=ORACLE,
        out=tmp_path / "run",
        prices=COSTS,
    )
    with pytest.raises(RunFolderError, match=f"the ensemble {word} fails on the"):
        made(tmp_path / "run", tmp_path / "checkpoint")
    assert not list(tmp_path.glob("checkpoint*"))


def test_no_gold_is_said(tmp_path):
    table = write_recorded_table(tmp_path / "table.parquet", gold=False)
    run = tmp_path / "run"
    import_recorded([table], members=MEMBERS, oracle=ORACLE, out=run)
    card = made(run, tmp_path / "checkpoint").card
    assert card.reference == "oracle"
    assert "stand-in" in card.price_note


def test_out_is_looked_at_before_anything_is_trained(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="found other files"):
        train(tmp_path / "no run", tmp_path)


class Stopped(Exception):
    """The process dies."""


def interrupt(monkeypatch, *, after):
    """Let a training die in the middle of an epoch."""
    step = RouterModule.training_step
    steps = iter(range(10**6))

    def dying(self, batch, index):
        if next(steps) == after:
            raise Stopped
        return step(self, batch, index)

    monkeypatch.setattr(RouterModule, "training_step", dying)


@pytest.mark.parametrize("after", [7, 19])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    trained, imported_run, tmp_path, monkeypatch, after
):
    out = tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        interrupt(patch, after=after)
        with pytest.raises(Stopped):
            made(imported_run, out)
    last = tmp_path / "checkpoint.training" / "last.ckpt"
    assert last.is_file()
    assert not out.exists()
    counted = []
    step = RouterModule.training_step
    monkeypatch.setattr(
        RouterModule,
        "training_step",
        lambda self, batch, index: counted.append(1) or step(self, batch, index),
    )
    made(imported_run, out)
    assert weights(out) == weights(trained)
    assert not last.exists()
    resumed = len(counted)
    counted.clear()
    made(imported_run, tmp_path / "unbroken")
    assert 0 < resumed < len(counted)  # it did go on, and did not start afresh


@pytest.mark.parametrize("change", ["config", "data", "init"])
def test_an_interrupted_training_of_something_else_is_not_gone_on_with(
    trained, imported_run, tmp_path, monkeypatch, change
):
    out = tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        interrupt(patch, after=15)
        with pytest.raises(Stopped):
            made(imported_run, out, seed=3)
    run, seed, init = imported_run, 3, None
    if change == "config":
        seed = 4
    elif change == "data":
        table = write_recorded_table(tmp_path / "other.parquet", count=250)
        run = tmp_path / "other"
        import_recorded([table], members=MEMBERS, oracle=ORACLE, out=run, prices=COSTS)
    else:
        init = trained
    train(run, out, quick_config(seed=seed), init=init)
    train(run, tmp_path / "fresh", quick_config(seed=seed), init=init)
    assert weights(out) == weights(tmp_path / "fresh")


def test_starting_from_a_checkpoint(trained, imported_run, tmp_path):
    started = train(imported_run, tmp_path / "started", quick_config(seed=9), init=trained)
    before = Router.load(trained).network.state_dict()
    after = started.network.state_dict()
    # What it knows of its inputs is kept; what it has learned goes on from there.
    assert torch.equal(before["answer_mean"], after["answer_mean"])
    assert not torch.equal(before["read.weight"], after["read.weight"])
    assert started.card.validation["failure_auroc"] > 0.75
    seen = set(Router.load(trained).card.seen_questions)
    assert seen <= set(started.card.seen_questions)
    # The questions are enough to say themselves what they look like.
    assert started.known is not None
    small = quick_config(network=NetworkConfig(code=8, units=3, seeds=4, components=4))
    with pytest.raises(CheckpointError, match="has another shape"):
        train(imported_run, tmp_path / "no", small, init=trained)


def test_starting_from_a_checkpoint_of_other_members(recorded_table, trained, tmp_path):
    run = tmp_path / "two"
    import_recorded(
        [recorded_table], members=(MEMBERS[2], MEMBERS[0]), oracle=ORACLE, out=run, prices=COSTS
    )
    started = train(run, tmp_path / "checkpoint", quick_config(), init=trained)
    assert started.card.member_names == [MEMBERS[2], MEMBERS[0]]
    assert started.network.shape.members == 2
    before, after = Router.load(trained).network, started.network
    assert torch.equal(before.answer_mean, after.answer_mean)
    assert before.skills.shape == (3,)
    assert after.skills[1] > after.skills[0]  # its own members': small, then large
    assert started.card.validation["failure_auroc"] > 0.7


def test_starting_with_a_handful_of_labels_keeps_what_is_started_from(trained, tmp_path):
    """Of 12 questions nothing is learned but who the members are."""
    table = write_recorded_table(tmp_path / "few.parquet", count=12)
    run, said = tmp_path / "few", []
    import_recorded(
        [table], members=MEMBERS[:2], oracle=ORACLE, out=run, prices=COSTS, split="train"
    )
    kept = train(run, tmp_path / "kept", quick_config(), init=trained, say=said.append)
    before = Router.load(trained)
    assert torch.equal(kept.network.read.weight, before.network.read.weight)
    parallel = [point for point in before.card.operating_points if point.policy == "parallel"]
    assert kept.card.operating_points == parallel  # steps are of other members
    assert kept.steps is None
    assert kept.card.member_names == list(MEMBERS[:2])
    assert any("found 12" in line and "are kept as they are" in line for line in said)
    assert any("questions of other kinds are told from those of the earlier" in s for s in said)
    assert Router.load(tmp_path / "kept").card == kept.card
    # So is what they were asked about: "Hello!" is still none of it.
    known = Router.load(tmp_path / "kept").known
    assert known.told() == before.known.told()
    assert known.distance("Hello!") == before.known.distance("Hello!")
    with pytest.raises(RunFolderError, match="at least 20 queries"):
        train(run, tmp_path / "no", quick_config())


def test_starting_from_a_router_whose_answers_another_grader_compared(
    trained, imported_run, tmp_path
):
    """What has to fit are the features."""
    before = Router.load(trained)
    before.card = replace(before.card, grader="somebody:equal")
    before.save(tmp_path / "other")
    started = train(imported_run, tmp_path / "out", quick_config(), init=tmp_path / "other")
    assert started.card.grader == "gsm8k"


def test_starting_a_router_without_hidden_states_from_one_with_them(
    trained_on_hidden, labelled_run, tmp_path
):
    config = quick_config(hidden_states="none")
    started = train(labelled_run, tmp_path / "blind", config, init=trained_on_hidden)
    assert started.card.hidden_key is None
    assert started.card.validation["failure_auroc"] > 0.75


def test_starting_from_a_checkpoint_of_other_features(trained, imported_run, tmp_path):
    config = quick_config(groups=["agreement", "lengths"])
    with pytest.raises(CheckpointError, match=r"features: it has \d+ .*; leave out --init"):
        train(imported_run, tmp_path / "checkpoint", config, init=trained)
    assert not list(tmp_path.glob("checkpoint*"))


def test_curves_are_written_as_csv(imported_run, tmp_path):
    made(imported_run, tmp_path / "checkpoint")
    (file,) = (tmp_path / "checkpoint.training").rglob("metrics.csv")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(row["val_loss"]) for row in rows if row["val_loss"]]
    assert len(losses) > 2
    assert min(losses) < losses[0]
    assert any(row["train_loss"] for row in rows)


def test_curves_are_written_whatever_else_is_named(imported_run, tmp_path):
    made(imported_run, tmp_path / "checkpoint", tracking=TrackingConfig(loggers=[]))
    assert list((tmp_path / "checkpoint.training").rglob("metrics.csv"))


def test_curves_for_weights_and_biases_stay_here(imported_run, tmp_path):
    pytest.importorskip("wandb", reason="extra train absent")
    made(imported_run, tmp_path / "checkpoint", tracking=TrackingConfig(loggers=["wandb"]))
    (run,) = (tmp_path / "checkpoint.training" / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))


def test_what_is_said(imported_run, tmp_path):
    lines = []
    train(imported_run, tmp_path / "checkpoint", quick_config(), say=lines.append)
    assert lines[0].startswith("trained on ")
    assert "agreement" in lines[0]
    assert any(line.startswith("operating point vote-cost") for line in lines)
    assert lines[-1] == f"checkpoint: {tmp_path / 'checkpoint'}"
    stamp = json.loads((tmp_path / "checkpoint.training" / "training.json").read_text())
    assert stamp["config"]["seed"] == 0


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(RunFolderError, match="expected a run folder"):
        train(tmp_path / "nowhere", tmp_path / "checkpoint")
    assert not list(Path(tmp_path).iterdir())


def test_a_damaged_interrupted_training_is_given_up(imported_run, tmp_path, caplog):
    made(imported_run, tmp_path / "whole")
    work = tmp_path / "again.training"
    shutil.copytree(tmp_path / "whole.training", work)
    (work / "last.ckpt").write_bytes(b"no checkpoint")
    made(imported_run, tmp_path / "again")
    assert "training starts afresh" in caplog.text
    weights = [tmp_path / name / "router.safetensors" for name in ("whole", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_training_leaves_torch_as_it_was(imported_run, tmp_path):
    before = torch.random.get_rng_state()
    made(imported_run, tmp_path / "checkpoint")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)
