"""What workers of a run on Ray share, without Ray: it is plain code."""

import threading
import time
from dataclasses import replace

import pytest
from faulty_server import Reply, chat_reply, faulty_server

from label_case import write_questions
from pyramid_moa import __version__
from pyramid_moa.atomic_files import temporary_mark
from pyramid_moa.data_prep import ray_worker
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.ray_foreman import SILENT_S, Foreman
from pyramid_moa.data_prep.ray_worker import ChunkWorker, Work
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BudgetError, ConfigError, DataError, RunFolderError

QUESTIONS = 12


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_money_set_aside_by_one_is_not_there_for_another():
    foreman = Foreman(most_usd=1.0, spent_usd=0.4)
    assert foreman.begin(0).spent_usd == 0.4
    foreman.begin(1)
    assert foreman.reserve(0, 0.5) == "granted"
    # What the first has under way may cost less; its own question has to wait for its own answer.
    assert foreman.reserve(1, 0.5) == "wait"
    assert foreman.reserve(0, 0.5) == "refused"
    assert foreman.settle(0, 0.5, 0.1) == pytest.approx(0.5)
    assert foreman.reserve(1, 0.5) == "granted"
    foreman.settle(1, 0.5, 0.5)
    # Nobody has anything under way: it will not get better.
    assert foreman.reserve(0, 0.5) == "refused"
    assert foreman.state().spent_usd == pytest.approx(1.0)


def test_what_a_dead_worker_set_aside_is_free_when_its_task_is_tried_again():
    foreman = Foreman(most_usd=1.0, spent_usd=0.0)
    foreman.begin(0)
    foreman.report(0, done=7, failed=1, spent_usd=0.0)
    assert foreman.reserve(0, 0.9) == "granted"
    assert foreman.begin(0).done == 0
    assert foreman.reserve(0, 0.9) == "granted"


def test_what_a_dead_worker_set_aside_is_free_when_it_has_been_silent_for_long():
    clock = Clock()
    foreman = Foreman(most_usd=1.0, spent_usd=0.0, clock=clock)
    foreman.begin(0)
    foreman.begin(1)
    assert foreman.reserve(0, 0.9) == "granted"
    clock.now = SILENT_S
    assert foreman.reserve(1, 0.9) == "wait"
    clock.now += 1
    assert foreman.reserve(1, 0.9) == "granted"
    # It was alive after all: what its answer has cost counts, and nothing is set free twice.
    assert foreman.settle(0, 0.9, 0.2) == pytest.approx(0.2)
    assert foreman.reserve(0, 0.1) == "wait"


def test_what_rounding_leaves_of_paid_answers_is_no_money_under_way():
    foreman = Foreman(most_usd=1.5, spent_usd=0.0)
    foreman.begin(0)
    foreman.begin(1)
    assert foreman.reserve(0, 0.5) == "granted"
    amounts = (0.1, 0.2, 0.3)
    assert [foreman.reserve(1, usd) for usd in amounts] == ["granted"] * 3
    for usd in amounts:
        foreman.settle(1, usd, usd)
    assert sum(amounts) - 0.1 - 0.2 - 0.3 > 0
    # All its answers are paid: refused, it would end the run although the other's may make room.
    assert foreman.reserve(1, 0.6) == "wait"


def test_the_first_error_counts_and_ends_the_turn():
    foreman = Foreman(most_usd=1.0, spent_usd=0.0)
    foreman.begin(0)
    assert not foreman.report(0, done=1, failed=0, spent_usd=0.0)
    foreman.stop(DataError("first"))
    foreman.stop(BudgetError("second"))
    assert foreman.report(0, done=2, failed=1, spent_usd=0.0)
    assert foreman.reserve(0, 0.1) == "refused"
    state = foreman.begin(1)
    assert (state.done, state.failed, str(state.error)) == (2, 1, "first")


def test_without_a_limit_reports_tell_what_is_spent():
    foreman = Foreman(most_usd=None, spent_usd=1.0)
    foreman.begin(0)
    foreman.report(0, done=1, failed=0, spent_usd=0.25)
    foreman.report(0, done=2, failed=0, spent_usd=0.5)
    # Tried again: what the first try has cost is spent all the same.
    foreman.begin(0)
    foreman.report(0, done=1, failed=0, spent_usd=0.125)
    assert foreman.state().spent_usd == 1.625


class Answering:
    """Answers each question with its number; a test may have it do otherwise."""

    def __init__(self):
        self.asked = []
        self.delay_s = 0.0
        self.wrong = lambda question: None

    def __call__(self, request):
        if request.body is None:
            return {"data": [{"id": "a"}, {"id": "o"}]}
        self.asked.append(request.prompt)
        time.sleep(self.delay_s)
        return self.wrong(request.prompt) or chat_reply(f"#### {request.prompt.split()[0]}")


@pytest.fixture
def answering():
    return Answering()


@pytest.fixture
def work(tmp_path, answering):
    """What a worker is told, with the run folder ready and chunks of four questions."""
    with faulty_server(answering) as server:
        entry = (
            f"backend: openai, base_url: {server.base_url}, max_concurrency: 2, max_retries: 0, "
            "price: {input: 1, output: 2}"
        )
        (tmp_path / "pyramid.yaml").write_text(
            f"members:\n  - {{name: a, model: a, {entry}}}\n"
            f"oracles:\n  - {{name: o, model: o, {entry}}}\n"
            "sampling: {max_tokens: 16}\n"
        )
        questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
        pyramid = load_pyramid(tmp_path / "pyramid.yaml")
        folder = RunFolder(tmp_path / "run")
        folder.create(
            (replace(query, split="train") for query in load_queries(str(questions)).queries),
            part_rows=4,
        )
        with temporary_mark(folder.path) as mark:
            yield Work(
                run=folder.path,
                mark=mark.name,
                pyramid=pyramid,
                identity=pyramid.identity(),
                version=__version__,
                model=0,
                on_gpu=False,
                strict=False,
                most_usd=None,
            )


def task(number, chunks):
    return {"task": [number], "chunks": [chunks]}


def test_a_worker_answers_the_chunks_of_its_tasks(work, answering):
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    worker = ChunkWorker(work, foreman)
    assert worker(task(5, [0, 2]))["task"].tolist() == [5]
    assert (foreman.state().done, foreman.state().error) == (8, None)
    folder = RunFolder(work.run)
    rows = folder.read_generations(0)
    assert [row.query_id for row in rows] == ["q0", "q1", "q2", "q3", "q8", "q9", "q10", "q11"]
    assert foreman.state().spent_usd == pytest.approx(sum(row.cost_usd for row in rows))
    # Tried again, since its worker died before it could say so: nothing is asked twice.
    worker(task(5, [0, 2]))
    assert len(answering.asked) == len(set(answering.asked)) == 8
    assert foreman.state().done == 8


def test_a_worker_that_does_not_see_the_folder_asks_nothing(work, answering, tmp_path):
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    ChunkWorker(replace(work, mark=".partial-other"), foreman)(task(0, [0]))
    error = foreman.state().error
    assert isinstance(error, RunFolderError)
    assert "file system that all nodes share" in str(error)
    assert not answering.asked
    # Another task ends at once: the run is over.
    ChunkWorker(work, foreman)(task(1, [1]))
    assert not answering.asked


def test_a_worker_of_another_version_asks_nothing(work, answering):
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    ChunkWorker(replace(work, version="0.0.1"), foreman)(task(0, [0]))
    assert isinstance(foreman.state().error, ConfigError)
    assert f"expected pyramid-moa 0.0.1, as where label was started, found {__version__}" in str(
        foreman.state().error
    )
    assert not answering.asked


def test_a_worker_with_another_model_in_its_folder_asks_nothing(work, answering):
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    identity = work.pyramid.identity()
    identity["members"][0]["model"] = "a@0123456789abcdef"
    ChunkWorker(replace(work, identity=identity), foreman)(task(0, [0]))
    assert isinstance(foreman.state().error, ConfigError)
    assert "model 'a', is missing there or holds another model" in str(foreman.state().error)
    assert not answering.asked


def test_a_failure_under_strict_ends_the_run_of_another_worker(work, answering, monkeypatch):
    monkeypatch.setattr(ray_worker, "_REPORT_EVERY_S", 0.02)
    answering.delay_s = 1.0
    answering.wrong = lambda question: Reply(status=400) if question.startswith("8 ") else None
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    strict = replace(work, strict=True)
    other = threading.Thread(target=ChunkWorker(strict, foreman), args=(task(0, [0, 1]),))
    other.start()
    ChunkWorker(strict, foreman)(task(1, [2]))
    other.join(timeout=30)
    assert not other.is_alive()
    assert isinstance(foreman.state().error, DataError)
    assert "--strict: a failed on 1 of" in str(foreman.state().error)
    # What was under way is kept, and no more was asked.
    assert foreman.state().done == len(answering.asked) < QUESTIONS
    rows = [*RunFolder(work.run).read_generations(0), *RunFolder(work.run).read_journals()]
    assert len(rows) == len(answering.asked)


def test_two_workers_keep_one_limit_and_use_it_up(work, answering):
    # What an answer costs is half of what has to be set aside for it: with money for three under
    # way, the two have to wait for each other.
    answering.delay_s = 0.02
    most = 1.5e-4
    foreman = Foreman(most_usd=most, spent_usd=0.0)
    limited = replace(work, most_usd=most)
    workers = [
        threading.Thread(target=ChunkWorker(limited, foreman), args=(task(n, chunks),))
        for n, chunks in enumerate(([0], [1, 2]))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
        assert not worker.is_alive()
    folder = RunFolder(work.run)
    rows = [*folder.read_generations(0), *folder.read_journals()]
    spent = sum(row.cost_usd for row in rows)
    assert foreman.state().spent_usd == pytest.approx(spent)
    assert len(rows) == len(answering.asked)
    # All that the money allows: the next answer might have been too dear.
    assert most - 5e-5 < spent <= most
    assert isinstance(foreman.state().error, BudgetError)


def test_an_error_of_the_file_system_ends_the_run_as_itself(work, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "journal")

    monkeypatch.setattr("pyramid_moa.data_prep.open_chunk.append_to_journal", full)
    foreman = Foreman(most_usd=None, spent_usd=0.0)
    ChunkWorker(work, foreman)(task(0, [0]))
    assert isinstance(foreman.state().error, OSError)
    assert "No space left on device: 'journal'" in str(foreman.state().error)
