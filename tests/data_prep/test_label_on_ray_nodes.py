"""``label --engine ray`` on a cluster of two nodes: a worker dies, then a whole node."""

import os
import subprocess
import sys

import psutil
import pytest
import torch

from label_case import assert_same_run, write_pyramid, write_questions
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid
from ray_case import PART_ROWS, QUIET, assert_gone, kill, need_ray, wait_for, workers_under

need_ray()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTIONS = 480


def parts(run):
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (run / "generations").glob("m*.parquet")
    }


@pytest.fixture
def cluster(monkeypatch):
    """A head and a second node, each with a raylet and a CPU of its own."""
    from ray.cluster_utils import Cluster

    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    options = {"num_cpus": 1, "object_store_memory": 128 * 2**20}
    running = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        yield running, running.add_node(**options)
    finally:
        running.shutdown()


def test_a_worker_dies_then_a_node_and_the_run_is_the_same(
    tmp_path, tiny_models, monkeypatch, cluster
):
    monkeypatch.setattr(label_module, "PART_ROWS", PART_ROWS)
    torch.set_num_threads(1)
    running, second = cluster
    head = psutil.Process(running.head_node.all_processes["raylet"][0].process.pid)
    other = psutil.Process(second.all_processes["raylet"][0].process.pid)
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    yaml = write_pyramid(tmp_path / "pyramid.yaml", tiny_models, max_tokens=40)
    yaml.write_text(yaml.read_text().replace("price:", "batch_size: 8, price:"))
    dataset, pyramid = load_queries(str(questions)), load_pyramid(yaml)
    label(dataset, pyramid, tmp_path / "plain")
    run = tmp_path / "run"
    # Begun here, so that the run has as small chunks as the plain one.
    with pytest.raises(Exception, match="stopped at --max-usd"):
        label(dataset, pyramid, run, max_usd=0.0005)
    command = [sys.executable, "-m", "pyramid_moa", "label", "--resume", "--engine", "ray"]
    command += ["--workers", "2", "--dataset", str(questions), "--pyramid", str(yaml)]
    driver = subprocess.Popen(
        [*command, "--out", str(run)],
        env={**os.environ, "RAY_ADDRESS": running.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(parts(run)) > 2 or driver.poll() is not None)
        before = parts(run)
        kill(workers_under(head)[:1])
        wait_for(lambda: len(parts(run)) > len(before) + 3 or driver.poll() is not None)
        before |= parts(run)
        lost = [other, *other.children(recursive=True)]
        assert workers_under(other)
        kill(lost)
        shown, errors = driver.communicate(timeout=600)
    finally:
        driver.kill()
    assert driver.returncode == 0, errors
    assert_gone(lost)
    assert shown == f"run: {run}\n"
    same = assert_same_run(run, tmp_path / "plain")
    assert same.hidden_states.keys() == {"a", "b"}
    # What was a part before stands as it was.
    after = parts(run)
    assert {name: after[name] for name in before} == before
    assert not list((run / "journal").iterdir())
    assert not [path for path in run.rglob("*") if path.name.startswith(".partial-")]
