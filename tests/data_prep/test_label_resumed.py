"""``label --resume``: what is generated again, and which runs are not gone on with."""

import json

import pytest

from label_case import QUESTIONS, assert_same_run, write_pyramid, write_questions
from pyramid_moa.backends import Failure
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.manifest import read_manifest
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import RunFolderError


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


def test_generations_without_a_manifest_are_nobodys(finished, tmp_path, pyramid, dataset, asked):
    out = tmp_path / "run"
    label(dataset, pyramid, out)
    (out / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"expected a new or empty folder.*found generations"):
        label(dataset, pyramid, out, resume=True)


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
