"""What ``label`` leaves in a run folder, what it says of it, and what it refuses."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from label_case import HIDDEN_KEYS, QUESTIONS, spent, write_questions
from pyramid_moa.backends import Completion, open_backend
from pyramid_moa.cli import main
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.errors import ConfigError, DataError, RunFolderError


def test_a_run_is_whole(finished, pyramid, dataset):
    run = read_labelled_run(finished)
    assert [query.query_id for query in run.queries] == [f"q{n}" for n in range(QUESTIONS)]
    assert {query.split for query in run.queries} <= {"train", "validation", "calibration", "test"}
    assert run.manifest.complete
    assert run.manifest.reference == "gold"
    assert run.manifest.price_note == "prices made up"
    rows = [row for own in run.generations.values() for row in own]
    assert run.manifest.counts == {
        "queries": QUESTIONS,
        "generations": 3 * QUESTIONS,
        "failed": 0,
        "failed_by_model": {"a": 0, "b": 0, "o": 0},
        "retryable": 0,
        "cost_usd": pytest.approx(sum(row.cost_usd for row in rows)),
    }
    assert not run.manifest.tokens_estimated
    for spec in pyramid.models:
        for row in run.generations[spec.name]:
            assert row.model == spec.name
            assert row.error is None
            assert 0 < row.completion_tokens <= 6
            assert row.logprobs.mean <= 0
            assert row.latency_s > 0
            assert row.cost_usd == pytest.approx(
                (row.prompt_tokens * spec.price.input + row.completion_tokens * spec.price.output)
                / 1e6
            )
            assert (row.answer is None) == (row.logprobs.answer_mean is None)
    answered = [row.answer is not None for own in run.generations.values() for row in own]
    assert any(answered), "some of the noise must hold numbers"
    assert not all(answered)
    # Members' hidden states are kept, the oracle's are not.
    assert list(run.hidden_states) == ["a", "b"]
    for name in ("a", "b"):
        assert sorted(run.hidden_states[name]) == HIDDEN_KEYS
        assert all(
            values.shape == (QUESTIONS, 64) and np.abs(values[:]).max() > 0
            for values in run.hidden_states[name].values()
        )
    assert run.hidden_keys == HIDDEN_KEYS


def test_what_is_stored_is_what_the_model_says(finished, pyramid):
    """Rows and vectors stay together through batches, chunks and files."""
    run = read_labelled_run(finished)
    backend = open_backend(pyramid.members[1], hidden_states=pyramid.hidden_states)
    for index in (0, 7, 8, 19):
        prompt = pyramid.prompt.render(run.queries[index].question)
        (answer,) = backend.generate([prompt], pyramid.sampling)
        stored = run.member_answers(index)["b"]
        assert stored.response == answer.text
        for key in HIDDEN_KEYS:
            np.testing.assert_allclose(
                stored.hidden_states[key].astype(np.float32),
                answer.hidden_states[key].astype(np.float32),
                atol=5e-3,
                rtol=2e-3,
            )


def test_the_command_says_what_it_will_cost_and_how_it_went(folder, pyramid, dataset, asked):
    lines = []
    label(dataset, pyramid, folder / "said", say=lines.append)
    assert lines[0].startswith(f"{QUESTIONS} queries x 3 models: about ")
    numbers = [float(number) for number in re.findall(r"[\d.]+", lines[0])]
    prompt_tokens, answer_tokens, usd = numbers[2:]
    assert answer_tokens == 6 * QUESTIONS
    assert usd == pytest.approx((12 * 1.5 * prompt_tokens + 24 * answer_tokens) / 1e6, abs=1e-4)
    assert lines[0].endswith(" USD (prices made up)")
    assert lines[-1].startswith(f"{3 * QUESTIONS} generations, 0 failed, ")
    cost = float(lines[-1].split("failed, ")[1].split(" USD")[0])
    assert cost == pytest.approx(spent(folder / "said"), abs=1e-4)
    assert asked.opened == asked.closed == ["a", "b", "o"]


def test_a_run_that_is_there_is_not_overwritten(finished, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    arguments = ["label", "--dataset", str(folder / "questions.jsonl"), "--pyramid"]
    assert main([*arguments, str(folder / "pyramid.yaml"), "--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "there is a run already; --resume goes on with it" in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_all_in_one_split(tmp_path, pyramid, dataset, asked):
    label(dataset, pyramid, tmp_path / "run", split="mine")
    run = read_labelled_run(tmp_path / "run")
    assert {query.split for query in run.queries} == {"mine"}
    assert run.of_split("mine") == list(range(QUESTIONS))
    with pytest.raises(RunFolderError, match="'test', found only mine"):
        run.of_split("test")


def rewrite(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(n, row)) + "\n" for n, row in enumerate(rows)))
    return load_queries(str(path))


@pytest.mark.parametrize("partly", [False, True])
def test_without_gold_for_all_the_oracle_is_the_reference(tmp_path, pyramid, asked, partly):
    def drop(number, row):
        return row if partly and number % 2 else {**row, "answer": None}

    dataset = rewrite(write_questions(tmp_path / "q.jsonl", 20), drop)
    lines = []
    label(dataset, pyramid, tmp_path / "run", say=lines.append)
    assert "not every question has gold" in lines[0]
    run = read_labelled_run(tmp_path / "run")
    assert run.manifest.reference == "oracle"
    assert all(query.gold is None for query in run.queries)
    assert {label.reference for label in run.labels} == {"oracle"}
    for oracle, row in zip(run.generations["o"], run.labels, strict=True):
        assert row.oracle_answer == oracle.answer
        assert row.oracle_correct == (oracle.answer is not None) == oracle.correct
    assert all(row.correct is not None for own in run.generations.values() for row in own)


def test_where_a_server_does_not_count_the_run_says_so(tmp_path, pyramid, dataset, asked):
    asked.fail = lambda name, text: Completion(
        text="it is 4", finish_reason="stop", prompt_tokens=None, completion_tokens=None,
        latency_s=0.0,
    )  # fmt: skip
    lines = []
    manifest = label(dataset, pyramid, tmp_path / "run", say=lines.append)
    assert manifest.tokens_estimated
    assert "estimates" in lines[-1]
    run = read_labelled_run(tmp_path / "run")
    assert all(row.tokens_estimated and row.cost_usd > 0 for row in run.generations["a"])


@pytest.mark.parametrize("field", ["question", "answer", "id"])
def test_half_a_character_that_no_table_can_hold(tmp_path, pyramid, asked, field):
    questions = write_questions(tmp_path / "q.jsonl", 2, **{field: "half \ud800 a character"})
    with pytest.raises(DataError, match="half of a surrogate pair") as caught:
        label(load_queries(str(questions)), pyramid, tmp_path / "run")
    assert str(caught.value).isascii()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_where_no_folder_can_be(tmp_path, pyramid, dataset, asked, out):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match=r"expected a (new or empty )?folder"):
        label(dataset, pyramid, tmp_path / out)
    assert asked.opened == []


def test_the_embedded_models_answer_word_problems(tmp_path):
    whole = load_pyramid("embedded")
    pyramid = replace(whole, members=whole.members[:2])
    dataset = load_queries("word-problems?train=12&test=12&seed=5")
    label(dataset, pyramid, tmp_path / "run")
    run = read_labelled_run(tmp_path / "run")
    assert run.manifest.counts["failed"] == 0
    assert sum(row.correct for row in run.generations["oracle"]) >= 18
    for spec in pyramid.members:
        assert any(row.correct for row in run.generations[spec.name])
        assert all(row.logprobs is not None for row in run.generations[spec.name])
        (states,) = run.hidden_states[spec.name].values()
        assert len(states) == 24
        assert states[:].any(axis=1).all()


def test_a_folder_with_other_files_is_left_alone(pyramid, dataset, tmp_path):
    (tmp_path / "queries.parquet").write_bytes(b"mine")
    with pytest.raises(RunFolderError, match=r"expected a new or empty folder.*queries\.parquet"):
        label(dataset, pyramid, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["queries.parquet"]
    assert (tmp_path / "queries.parquet").read_bytes() == b"mine"


def test_an_empty_split_is_refused(pyramid, dataset, tmp_path):
    with pytest.raises(ConfigError, match="--split: expected a name"):
        label(dataset, pyramid, tmp_path / "run", split=" ")
    assert not (tmp_path / "run").exists()
