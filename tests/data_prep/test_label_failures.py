"""``label`` where a model fails: on a row, on a whole chunk, or altogether."""

import numpy as np
import pytest

from label_case import HIDDEN_KEYS, QUESTIONS, write_pyramid, write_questions
from pyramid_moa.backends import Failure
from pyramid_moa.cli import main
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import BackendError, DataError


def test_a_question_too_long_is_a_failed_row_counted_and_shown(tmp_path, tiny_models, capsys):
    questions = write_questions(tmp_path / "q.jsonl", 5, question="x" * 100_000)
    write_pyramid(tmp_path / "p.yaml", tiny_models)
    arguments = ["label", "--dataset", str(questions), "--pyramid", str(tmp_path / "p.yaml")]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    error = capsys.readouterr().err
    assert "15 generations, 3 failed" in error
    assert "the first failure: a on q0: prompt too long" in error
    run = read_labelled_run(tmp_path / "run")
    assert run.manifest.counts["failed"] == 3
    assert run.manifest.counts["failed_by_model"] == {"a": 1, "b": 1, "o": 1}
    failed = run.generations["a"][0]
    assert failed.correct is False
    assert not failed.can_retry
    assert failed.cost_usd == 0.0
    assert "prompt too long" in failed.error
    assert run.member_answers(0)["a"].hidden_states is None
    assert run.member_answers(1)["a"].hidden_states is not None
    assert not run.hidden_states["a"][HIDDEN_KEYS[0]][0].any()
    assert not run.labels[0].vote_correct
    assert not run.labels[0].oracle_correct
    # It won't fit tomorrow either: resume does not ask again, and --strict still refuses it.
    assert main([*arguments, "--out", str(tmp_path / "run"), "--resume"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "run"), "--resume", "--strict"]) == 2
    assert "--strict: a failed on 1 of 5 queries, first on q0" in capsys.readouterr().err


def test_strict_makes_a_failed_row_an_error_and_keeps_the_rest(tmp_path, pyramid, asked):
    questions = write_questions(tmp_path / "q.jsonl", 20, question="x" * 100_000)
    dataset = load_queries(str(questions))
    out = tmp_path / "run"
    with pytest.raises(
        DataError, match=r"--strict: a failed on 1 of 8 queries.*q0: prompt too long"
    ):
        label(dataset, pyramid, out, strict=True)
    assert len(asked.prompts) == 8
    assert asked.closed == ["a"]
    manifest = label(dataset, pyramid, out, resume=True)
    assert manifest.counts["failed"] == 3
    assert len(asked.prompts) == 60


def test_a_chunk_in_which_every_row_fails(tmp_path, pyramid, dataset, asked):
    first = {query.question for query in list(dataset.queries)[:8]}
    asked.fail = lambda name, text: (
        Failure(message="refused", can_retry=False) if name == "a" and text in first else None
    )
    label(dataset, pyramid, tmp_path / "run")
    run = read_labelled_run(tmp_path / "run")
    assert not (tmp_path / "run" / "hidden_states" / "m00-000000.safetensors").exists()
    states = run.hidden_states["a"][HIDDEN_KEYS[0]][:]
    assert states.shape == (QUESTIONS, 64)
    assert not states[:8].any()
    assert states[8:].any(axis=1).all()


def test_what_failed_for_now_is_asked_again_and_the_rest_is_not(
    tmp_path, pyramid, dataset, asked, finished
):
    busy, never = (list(dataset.queries)[index].question for index in (3, 12))

    def fail(name, text):
        if name == "b" and text == busy:
            return Failure(message="server busy", can_retry=True)
        if name == "o" and text == never:
            return Failure(message="refused", can_retry=False)
        return None

    asked.fail = fail
    out = tmp_path / "run"
    assert label(dataset, pyramid, out).counts["failed"] == 2
    stays = {
        path: path.stat()
        for path in (out / "generations").iterdir()
        if path.name != "m01-000000.parquet"
    }
    asked.prompts.clear()
    asked.fail = lambda name, text: None
    assert label(dataset, pyramid, out, resume=True).counts["failed_by_model"] == {
        "a": 0, "b": 0, "o": 1
    }  # fmt: skip
    assert asked.prompts == [("b", busy)]
    assert {path: path.stat() for path in stays} == stays
    run, whole = read_labelled_run(out), read_labelled_run(finished)
    assert run.generations["o"][12].error == "refused"
    assert [row.response for row in run.generations["b"]] == [
        row.response for row in whole.generations["b"]
    ]
    for key in HIDDEN_KEYS:
        np.testing.assert_allclose(
            run.hidden_states["b"][key][:].astype(np.float32),
            whole.hidden_states["b"][key][:].astype(np.float32),
            atol=5e-3,
            rtol=2e-3,
        )


def test_an_unknown_model_leaves_nothing_behind(tmp_path, tiny_models, dataset, capsys):
    path = write_pyramid(tmp_path / "p.yaml", tiny_models)
    path.write_text(path.read_text().replace(str(tiny_models.member_a), "/no/such/model"))
    questions = write_questions(tmp_path / "q.jsonl", 4)
    arguments = ["label", "--dataset", str(questions), "--pyramid", str(path)]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "model 'a': no such folder: /no/such/model" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_an_oracle_that_is_gone_keeps_what_the_members_said(tmp_path, pyramid, dataset, asked):
    real = asked.open

    def gone(spec, pyramid, *, hidden_states=None):
        if spec.name == "o":
            raise BackendError("no server there", can_retry=True)
        return real(spec, pyramid, hidden_states=hidden_states)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_module, "open_model", gone)
        with pytest.raises(BackendError, match="no server"):
            label(dataset, pyramid, tmp_path / "run")
    assert len(asked.prompts) == 2 * QUESTIONS
    label(dataset, pyramid, tmp_path / "run", resume=True)
    assert len(asked.prompts) == 3 * QUESTIONS


def test_the_model_is_closed_when_something_breaks(tmp_path, pyramid, dataset, asked):
    def broken(name, text):
        raise BackendError("out of memory")

    asked.fail = broken
    with pytest.raises(BackendError):
        label(dataset, pyramid, tmp_path / "run")
    assert asked.closed == ["a"]
