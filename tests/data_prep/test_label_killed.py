"""``label`` killed with SIGKILL, again and again, and resumed."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from label_case import assert_same_run, write_pyramid, write_questions
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid

# Three parts of each of three models.
QUESTIONS = 1500
PATIENCE_S = 120


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_models):
    """A folder with questions, pyramid and a run that nobody disturbed, and how long it took."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("killed")
    questions = write_questions(folder / "questions.jsonl", QUESTIONS, question="x" * 100_000)
    yaml = write_pyramid(folder / "pyramid.yaml", tiny_models, max_tokens=24)
    started = time.monotonic()
    label(load_queries(str(questions)), load_pyramid(yaml), folder / "unbroken")
    return folder, time.monotonic() - started


def start(folder, run):
    command = [sys.executable, "-m", "pyramid_moa", "label", "--resume"]
    command += ["--dataset", str(folder / "questions.jsonl")]
    command += ["--pyramid", str(folder / "pyramid.yaml"), "--out", str(run)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def parts(run):
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (run / "generations").glob("m*.parquet")
    }


def answered(run):
    """Grows with every row that is on disk."""
    journals = sorted((run / "journal").glob("m*.jsonl")) if run.exists() else []
    return [(path.name, path.stat().st_size) for path in journals], len(parts(run))


def kill_at(process, run, moment):
    """Kill so many seconds after the models have begun to answer; whether it was still running."""
    before = answered(run)
    patience = time.monotonic() + PATIENCE_S
    while answered(run) == before and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


def survives(folder, run, *, kills, span, seed):
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        done = parts(run)
        killed += kill_at(start(folder, run), run, moments.uniform(0, span))
        now = parts(run)
        # No part is generated twice: what stood still stands, the same file.
        assert {path: now[path] for path in done} == done
    done = parts(run)
    # The last time here: starting a process takes longer than all the answers.
    questions = load_queries(str(folder / "questions.jsonl"))
    label(questions, load_pyramid(folder / "pyramid.yaml"), run, resume=True)
    now = parts(run)
    assert {path: now[path] for path in done} == done
    same = assert_same_run(run, folder / "unbroken")
    assert same.manifest.counts["failed"] == 3
    assert not [path for path in run.rglob("*") if path.name.startswith(".partial-")]
    return killed


@pytest.mark.timeout(600)
def test_killed_three_times_it_is_the_same_run(unbroken, tmp_path):
    folder, seconds = unbroken
    # Each time a part more, and some of the next, so that all three kills meet a running process.
    killed = survives(folder, tmp_path / "run", kills=3, span=seconds / 12, seed=random.random())
    assert killed == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_ten_times_it_is_the_same_run(unbroken, tmp_path):
    folder, seconds = unbroken
    killed = survives(folder, tmp_path / "run", kills=10, span=seconds / 30, seed=random.random())
    assert killed >= 7


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_before_the_first_part(unbroken, tmp_path):
    folder, _ = unbroken
    run = tmp_path / "run"
    process = start(folder, run)
    patience = time.monotonic() + PATIENCE_S
    while not (run / "queries.parquet").exists() and time.monotonic() < patience:
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=30)
    assert parts(run) == {}
    questions = load_queries(str(folder / "questions.jsonl"))
    label(questions, load_pyramid(folder / "pyramid.yaml"), run, resume=True)
    assert_same_run(run, folder / "unbroken")
