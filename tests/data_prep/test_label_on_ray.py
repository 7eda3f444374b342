"""``label --engine ray`` on a real Ray of this machine leaves the run of the plain engine."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest
import torch
from faulty_server import Reply, chat_reply, faulty_server

from label_case import assert_same_run, write_pyramid, write_questions
from pyramid_moa.cli import main
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BudgetError
from ray_case import (
    PART_ROWS,
    assert_gone,
    kill,
    need_ray,
    started_ray,
    wait_for,
    worker_at,
    workers_under,
)

need_ray()

QUESTIONS = 300
FEWER_QUESTIONS = 120
MODELS = ("a", "mid", "o")


@pytest.fixture(scope="module")
def ray_here():
    """One Ray of two CPUs for several calls, as a program may have that calls ``label``."""
    with started_ray():
        yield


class Counting:
    """Answers each question with its number, and remembers what it was asked."""

    def __init__(self):
        self.asked = Counter()
        self.port = {}  # from which each was asked last
        self.wrong = lambda model, question: None
        self._lock = threading.Lock()

    def __call__(self, request):
        if request.body is None:
            return {"data": [{"id": name} for name in MODELS]}
        model, question = request.body["model"], request.prompt
        with self._lock:
            self.asked[model, question] += 1
            self.port[model, question] = request.client_port
        time.sleep(0.004)
        return self.wrong(model, question) or chat_reply(f"#### {question.split()[0]}")


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(label_module, "PART_ROWS", PART_ROWS)


@pytest.fixture
def case(tmp_path, counting, small_chunks):
    """A folder with questions and a pyramid on a counting server."""
    with faulty_server(counting) as server:
        entry = (
            f"backend: openai, base_url: {server.base_url}, max_concurrency: 4, max_retries: 0, "
            "price: {input: 1, output: 2}"
        )
        (tmp_path / "pyramid.yaml").write_text(
            f"members:\n  - {{name: a, model: a, {entry}}}\n"
            f"oracles:\n  - {{name: o, model: o, {entry}}}\n"
            "sampling: {max_tokens: 16}\n"
        )
        write_questions(tmp_path / "questions.jsonl", QUESTIONS)
        yield tmp_path


def label_in(case, run, **options):
    questions = load_queries(str(case / "questions.jsonl"))
    return label(questions, load_pyramid(case / "pyramid.yaml"), run, **options)


def kept(run):
    folder = RunFolder(run)
    return [
        *folder.read_generations(0),
        *folder.read_generations(1),
        *folder.read_journals(),
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_begun_here_it_goes_on_on_ray_and_outlives_a_worker(tmp_path, tiny_models, small_chunks):
    """The command with a Ray of its own, transformers and hidden states."""
    torch.set_num_threads(1)
    questions = write_questions(tmp_path / "questions.jsonl", FEWER_QUESTIONS)
    yaml = write_pyramid(tmp_path / "pyramid.yaml", tiny_models, max_tokens=20)
    # Slow enough to be killed at work; one member less, for time's sake.
    lines = yaml.read_text().replace("price:", "batch_size: 8, price:").splitlines()
    yaml.write_text("\n".join(line for line in lines if "name: b," not in line))
    run = tmp_path / "run"
    with pytest.raises(BudgetError):
        label_in(tmp_path, run, max_usd=0.0005)
    assert list((run / "journal").iterdir())
    command = [sys.executable, "-m", "pyramid_moa", "label", "--dataset", str(questions)]
    command += ["--pyramid", str(yaml), "--out", str(run), "--resume", "--engine", "ray"]
    driver = subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process = psutil.Process(driver.pid)
        wait_for(lambda: len(list((run / "generations").glob("m00-*"))) > 2)
        started = process.children(recursive=True)
        kill(workers_under(process)[:1])
        shown, errors = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 0, errors
    assert_gone(started)
    # Nothing of Ray's own gets among the results; that a worker died is said all the same.
    assert shown == f"run: {run}\n"
    assert "A worker died" in errors
    label_in(tmp_path, tmp_path / "plain")
    same = assert_same_run(run, tmp_path / "plain")
    assert same.hidden_states.keys() == {"a"}
    assert not list((run / "journal").iterdir())
    assert not [path for path in run.rglob("*") if path.name.startswith(".partial-")]


@pytest.mark.timeout(300)
def test_a_failed_row_is_tried_again_and_no_other(case, counting, ray_here, capfd):
    counting.wrong = lambda model, question: (
        Reply(status=503) if (model, question.split()[0]) == ("o", "17") else None
    )
    run = case / "run"
    found = label_in(case, run, engine="ray", workers=2)
    assert found.counts["failed_by_model"] == {"a": 0, "o": 1}
    assert len(counting.asked) == counting.asked.total() == 2 * QUESTIONS
    counting.wrong = lambda model, question: None
    assert label_in(case, run, engine="ray", resume=True).counts["failed"] == 0
    assert counting.asked.pop(("o", "17 apples and 3 are how many?")) == 2
    assert set(counting.asked.values()) == {1}
    label_in(case, case / "plain")
    assert_same_run(run, case / "plain")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "label o: 300/300 (1 failed, " in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.timeout(600)
def test_a_worker_dies_and_no_row_differs(case, counting, ray_here):
    """The short form of the slow ones: it is killed while it waits for an answer."""
    killed, first_task = [], range(3 * PART_ROWS)
    last = str(first_task[-1])

    def fatal(model, question):
        if (model, question.split()[0]) == ("a", last) and not killed:
            killed.append(worker_at(counting.port[model, question]))
            kill(killed)
            assert_gone(killed)

    counting.wrong = fatal
    run = case / "run"
    found = label_in(case, run, engine="ray", workers=2)
    assert found.counts["failed"] == 0
    assert len(killed) == 1
    again = {int(question.split()[0]) for (_, question), n in counting.asked.items() if n == 2}
    assert set(counting.asked.values()) == {1, 2}
    # Lost are four answers under way and, at most, 21 that waited to be written down.
    assert first_task[-1] in again
    assert again <= set(first_task)
    assert len(again) <= 25
    assert len(counting.asked) == 2 * QUESTIONS
    assert not list((run / "journal").iterdir())
    label_in(case, case / "plain")
    assert_same_run(run, case / "plain")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_mid_oracle_is_asked_as_all_others(case, counting, ray_here):
    yaml = (case / "pyramid.yaml").read_text()
    (oracle,) = (line for line in yaml.splitlines() if "name: o" in line)
    mid = oracle.replace("name: o, model: o", "name: mid, model: mid")
    (case / "pyramid.yaml").write_text(yaml.replace(oracle, f"{mid}\n{oracle}"))
    write_questions(case / "questions.jsonl", FEWER_QUESTIONS)
    run = case / "run"
    found = label_in(case, run, engine="ray", workers=2)
    assert found.tiers == [["a"], ["mid"], ["o"]]
    assert counting.asked.total() == len(counting.asked) == 3 * FEWER_QUESTIONS
    label_in(case, case / "plain")
    assert_same_run(run, case / "plain")


@pytest.mark.timeout(300)
def test_the_budget_is_kept_by_all_workers_together(case, counting, ray_here):
    run = case / "run"
    with pytest.raises(BudgetError, match=r"stopped at --max-usd 0\.002: ") as stopped:
        label_in(case, run, max_usd=0.002, engine="ray", workers=2)
    spent, next_one = map(float, re.findall(r"\d+\.\d{6}", str(stopped.value)))
    # One worker's refusal ends the run, once nobody has money set aside: the next answer did not
    # fit any more. What it says is rounded twice.
    assert spent + next_one > 0.002 - 1e-6
    rows = kept(run)
    assert len(rows) == counting.asked.total()
    assert spent - 1e-6 < sum(row.cost_usd for row in rows) <= 0.002


@pytest.mark.timeout(300)
def test_strict_ends_with_one_line_and_keeps_what_is_there(case, counting, ray_here, capfd):
    counting.wrong = lambda model, question: (
        Reply(status=400, body={"error": {"message": "no"}}) if question[:2] == "99" else None
    )
    run = case / "run"
    command = ["label", "--dataset", str(case / "questions.jsonl"), "--out", str(run)]
    command += ["--pyramid", str(case / "pyramid.yaml"), "--engine", "ray", "--workers", "2"]
    assert main([*command, "--strict"]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("pyramid-moa label: --strict: a failed on 1 of ")
    assert "what was generated is kept" in last
    assert len(kept(run)) == counting.asked.total() < QUESTIONS


@pytest.mark.timeout(300)
def test_an_error_of_a_worker_is_one_line_and_leaves_no_folder(tmp_path, ray_here, capfd):
    write_questions(tmp_path / "questions.jsonl", 5)
    (tmp_path / "pyramid.yaml").write_text(
        "members:\n  - {name: a, backend: openai, model: a, base_url: 'http://127.0.0.1:1/v1'}\n"
        "oracles:\n  - {name: o, backend: openai, model: o, base_url: 'http://127.0.0.1:1/v1'}\n"
    )
    run = tmp_path / "run"
    command = ["label", "--dataset", str(tmp_path / "questions.jsonl"), "--out", str(run)]
    command += ["--pyramid", str(tmp_path / "pyramid.yaml"), "--engine", "ray"]
    assert main(command) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("pyramid-moa label: ")
    assert "127.0.0.1:1" in last
    assert "can't be reached" in last
    assert not run.exists()
