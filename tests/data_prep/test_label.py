import json
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from label_case import HIDDEN_KEYS, assert_same_run, write_pyramid, write_questions
from pyramid_moa.backends import Completion, Failure, open_backend
from pyramid_moa.cli import main
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.journal import append_to_journal
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.manifest import read_manifest
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BackendError, BudgetError, ConfigError, DataError, RunFolderError

QUESTIONS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def pyramid(folder, tiny_models):
    torch.set_num_threads(1)
    return load_pyramid(write_pyramid(folder / "pyramid.yaml", tiny_models))


@pytest.fixture(scope="module")
def dataset(folder):
    return load_queries(str(write_questions(folder / "questions.jsonl", QUESTIONS)))


@pytest.fixture(scope="module")
def finished(folder, pyramid, dataset):
    """A run of the command itself."""
    out = folder / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_module, "PART_ROWS", 8)
        arguments = ["label", "--dataset", str(folder / "questions.jsonl"), "--pyramid"]
        assert main([*arguments, str(folder / "pyramid.yaml"), "--out", str(out)]) == 0
    return out


class Asked:
    """Counts what is asked of the real models, and lets some of it go wrong."""

    def __init__(self):
        self.prompts = []
        self.opened = []
        self.closed = []
        self.fail = lambda name, text: None
        self.usage = True

    def open(self, spec, pyramid, *, hidden_states=None):
        self.opened.append(spec.name)
        return _Watched(self, open_backend(spec, hidden_states=hidden_states))


class _Watched:
    def __init__(self, asked, backend):
        self._asked = asked
        self._backend = backend
        self.name = backend.name

    def stream(self, prompts, sampling):
        """Eight at a time, and the last of them first."""
        asked, todo, first = self._asked, iter(prompts), 0
        while drawn := list(islice(todo, 8)):
            asked.prompts += [(self.name, prompt.messages[0].content) for prompt in drawn]
            outcomes = self._backend.generate(drawn, sampling)
            for index in reversed(range(len(drawn))):
                wrong = asked.fail(self.name, drawn[index].messages[0].content)
                yield first + index, wrong or outcomes[index]
            first += len(drawn)

    def close(self):
        self._asked.closed.append(self.name)
        self._backend.close()


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(label_module, "PART_ROWS", 8)
    asked = Asked()
    monkeypatch.setattr(label_module, "open_model", asked.open)
    return asked


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


def test_resuming_a_finished_run_generates_nothing(finished, pyramid, dataset, asked):
    before = read_labelled_run(finished)
    parts = {path: path.stat() for path in (finished / "generations").iterdir()}
    manifest = label(dataset, pyramid, finished, resume=True)
    assert asked.opened == []
    assert {path: path.stat() for path in (finished / "generations").iterdir()} == parts
    assert manifest.complete
    assert read_labelled_run(finished).labels == before.labels


def test_a_run_with_a_lost_part_generates_that_part_alone(
    folder, pyramid, dataset, asked, finished
):
    out = folder / "lost"
    label(dataset, pyramid, out)
    (out / "generations" / "m01-000001.parquet").unlink()
    asked.prompts.clear()
    label(dataset, pyramid, out, resume=True)
    assert [name for name, _ in asked.prompts] == ["b"] * 8
    assert_same_run(out, finished)


def test_resume_starts_where_nothing_is(folder, pyramid, dataset, asked, finished):
    label(dataset, pyramid, folder / "fresh", resume=True)
    assert_same_run(folder / "fresh", finished)


@pytest.mark.parametrize(
    ("yaml", "count", "named"),
    [
        ({"max_tokens": 5}, QUESTIONS, ["pyramid.sampling.max_tokens: 6 is not 5"]),
        (
            {"extra": 'prompt: {template: "Q: {question}"}'},
            QUESTIONS,
            ['pyramid.prompt.template: "{question}" is not "Q: {question}"'],
        ),
        ({"extra": "grader: exact"}, QUESTIONS, ['grader: "gsm8k" is not "exact"']),
        ({}, QUESTIONS - 1, ["dataset_hash"]),
    ],
)
def test_another_run_is_not_gone_on_with(
    finished, tmp_path, tiny_models, asked, yaml, count, named
):
    other = load_pyramid(write_pyramid(tmp_path / "p.yaml", tiny_models, **yaml))
    questions = load_queries(str(write_questions(tmp_path / "questions.jsonl", count)))
    with pytest.raises(RunFolderError, match="the run there is another one") as caught:
        label(questions, other, finished, resume=True)
    for line in named:
        assert line in str(caught.value)
    assert asked.opened == []
    assert read_manifest(finished).complete


def test_other_splits_are_another_run(finished, pyramid, dataset, asked):
    with pytest.raises(RunFolderError, match='splits: "hash" is not "mine"'):
        label(dataset, pyramid, finished, resume=True, split="mine")


def test_generations_without_a_manifest_are_nobodys(finished, tmp_path, pyramid, dataset, asked):
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    (out / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"expected a new or empty folder.*found generations"):
        label(dataset, pyramid, out, resume=True)


def test_all_in_one_split(tmp_path, pyramid, dataset, asked):
    label(dataset, pyramid, tmp_path / "run", split="mine")
    run = read_labelled_run(tmp_path / "run")
    assert {query.split for query in run.queries} == {"mine"}
    assert run.of_split("mine") == list(range(QUESTIONS))
    with pytest.raises(RunFolderError, match="'test', found only mine"):
        run.of_split("test")


def spent(out):
    folder = RunFolder(out)
    return sum(row.cost_usd for model in range(3) for row in folder.read_generations(model))


def test_the_budget_stops_before_it_is_spent_and_resume_goes_on(
    tmp_path, pyramid, dataset, asked, finished
):
    out = tmp_path / "run"
    total = spent(finished)
    with pytest.raises(
        BudgetError, match=r"stopped at --max-usd.*--resume with a larger"
    ) as caught:
        label(dataset, pyramid, out, max_usd=total / 2)
    assert "\n" not in str(caught.value)
    assert 0 < spent(out) <= total / 2
    assert not read_manifest(out).complete
    with pytest.raises(RunFolderError, match="not finished; pyramid-moa label --resume"):
        read_labelled_run(out)
    before = len(asked.prompts)
    with pytest.raises(BudgetError):
        label(dataset, pyramid, out, max_usd=total / 2, resume=True)
    assert len(asked.prompts) == before
    label(dataset, pyramid, out, max_usd=total * 2, resume=True)
    assert len(asked.prompts) == len(set(asked.prompts)) == 3 * QUESTIONS
    assert_same_run(out, finished)


def test_the_budget_learns_how_models_count(tmp_path, tiny_models, dataset, asked):
    """The tiny tokenizer makes several tokens of a word: estimates of prompts fall far short."""
    yaml = write_pyramid(tmp_path / "p.yaml", tiny_models, max_tokens=1)
    yaml.write_text(yaml.read_text().replace("price: {input: 1, output: 2}", "price: {input: 1}"))
    pyramid = load_pyramid(yaml)
    label(dataset, pyramid, tmp_path / "whole")
    rows = RunFolder(tmp_path / "whole").read_generations(0)
    first, second = sum(r.cost_usd for r in rows[:8]), sum(r.cost_usd for r in rows[8:16])
    with pytest.raises(BudgetError):
        label(dataset, pyramid, tmp_path / "run", max_usd=first + 0.9 * second)
    assert spent(tmp_path / "run") == pytest.approx(first)


def test_a_budget_too_small_for_anything_leaves_nothing(tmp_path, pyramid, dataset, asked):
    with pytest.raises(BudgetError):
        label(dataset, pyramid, tmp_path / "run", max_usd=0.0)
    assert asked.prompts == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("amount", [-1.0, float("nan")])
def test_what_is_no_budget(tmp_path, pyramid, dataset, amount):
    with pytest.raises(ConfigError, match="--max-usd: expected 0 US dollars or more"):
        label(dataset, pyramid, tmp_path / "run", max_usd=amount)
    assert list(tmp_path.iterdir()) == []


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


def test_the_budget_counts_only_what_is_asked_again(tmp_path, pyramid, dataset, asked):
    busy = next(iter(dataset.queries)).question
    asked.fail = lambda name, text: (
        Failure(message="busy", can_retry=True) if (name, text) == ("o", busy) else None
    )
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    asked.fail = lambda name, text: None
    # Enough for one more answer of the oracle, not for the whole part.
    label(dataset, pyramid, out, resume=True, max_usd=spent(out) + 0.001)
    assert read_manifest(out).counts["failed"] == 0


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


def test_a_run_that_was_killed_before_its_queries_were_written_goes_on(
    pyramid, dataset, tmp_path, finished
):
    out = tmp_path / "run"
    out.mkdir()
    manifest = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"complete": False, "counts": {}}
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert label(dataset, pyramid, out, resume=True).complete
    assert len(RunFolder(out).read_queries()) == QUESTIONS


def test_another_model_in_a_folder_of_the_same_name_is_another_run(tiny_models, tmp_path):
    import shutil

    names = []
    for parent in ("one", "two"):
        folder = tmp_path / parent
        shutil.copytree(tiny_models.member_a, folder / "model")
        text = write_pyramid(folder / "pyramid.yaml", tiny_models).read_text(encoding="utf-8")
        text = text.replace(str(tiny_models.member_a), "model")
        (folder / "pyramid.yaml").write_text(text, encoding="utf-8")
        names.append(folder / "pyramid.yaml")
    first, second = (load_pyramid(name) for name in names)
    assert first.identity() == second.identity()
    weights = tmp_path / "two" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert load_pyramid(names[1]).identity() != first.identity()


def test_leftovers_of_a_kill_in_the_first_moment_do_not_block_the_folder(
    pyramid, dataset, tmp_path, finished, asked
):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".partial-1234-manifest.json").write_text("{")
    label(dataset, pyramid, out)
    assert_same_run(out, finished)
    assert not list(out.glob(".partial-*"))


def test_a_finished_run_that_is_gone_on_with_is_unfinished_until_its_labels_are_written(
    pyramid, dataset, tmp_path, asked
):
    busy = next(iter(dataset.queries)).question
    asked.fail = lambda name, text: (
        Failure(message="busy", can_retry=True) if (name, text) == ("o", busy) else None
    )
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    assert read_manifest(out).complete

    def killed(name, text):
        raise KeyboardInterrupt

    asked.fail = killed
    with pytest.raises(KeyboardInterrupt):
        label(dataset, pyramid, out, resume=True)
    with pytest.raises(RunFolderError, match="not finished"):
        read_labelled_run(out)


def test_what_stands_in_a_part_and_in_a_journal_is_spent_once(
    pyramid, dataset, tmp_path, asked, finished
):
    """Its process died between the part and the end of the journal."""
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    folder = RunFolder(out)
    for row in folder.read_part(0, 0):
        append_to_journal(folder.journal_path(0, 0), row)
    (out / "generations" / "m02-000000.parquet").unlink()
    label(dataset, pyramid, out, resume=True, max_usd=spent(finished) + 0.001)
    assert_same_run(out, finished)
    assert not list((out / "journal").iterdir())
