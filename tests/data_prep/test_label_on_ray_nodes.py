"""``label --engine ray`` on a cluster of two nodes, of which one is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from label_case import assert_same_run, write_pyramid, write_questions
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.errors import BudgetError
from ray_case import PART_ROWS, QUIET, assert_gone, kill, need_ray, wait_for, workers_under

need_ray()

QUESTIONS = 240


class TwoNodes:
    """A cluster of two nodes with a CPU each: the one that a driver joins, and one to be lost."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        # No address of their own: a driver looks for 127.0.0.1 under the machine's address.
        node = {
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 128 * 2**20,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=node)
        self._lost = self._cluster.add_node(**node)
        self.address = self._cluster.address
        self.started: set[psutil.Process] = set()

    def note(self):
        """Remember the processes of the cluster and of the driver, for the end."""
        self.started.update(psutil.Process().children(recursive=True))

    def workers(self, *, on_lost_node: bool) -> list[psutil.Process]:
        """Workers that answer chunks, on the one node or the other."""
        node = self._lost if on_lost_node else self._cluster.head_node
        return workers_under(_raylet(node))

    def lose_node(self):
        """SIGKILL to all processes of the second node."""
        own = [
            psutil.Process(found.process.pid)
            for kind in self._lost.all_processes.values()
            for found in kind
        ]
        assert _raylet(self._lost) in own
        kill([*own, *_raylet(self._lost).children(recursive=True)])

    def shutdown(self):
        self.note()
        self._cluster.shutdown()


def _raylet(node) -> psutil.Process:
    (raylet,) = node.all_processes["raylet"]
    return psutil.Process(raylet.process.pid)


@pytest.fixture
def nodes(monkeypatch) -> Iterator[TwoNodes]:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.shutdown()
        assert_gone(list(cluster.started))


@contextmanager
def labelling(tmp_path: Path, arguments: list[str], address: str) -> Iterator[subprocess.Popen]:
    """The command, as a process; what it shows goes into files, so that nothing waits for it."""
    command = [sys.executable, "-m", "pyramid_moa", "label", *arguments]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        driver = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, "RAY_ADDRESS": address}
        )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


class Parts:
    """Parts of a run as they were when first seen."""

    def __init__(self, run: Path):
        self._run = run
        self._first: dict[Path, tuple[int, int]] = {}

    def look(self) -> int:
        """Check that none was replaced; how many there are."""
        found = {
            path: (status.st_ino, status.st_mtime_ns)
            for kind in ("generations", "hidden_states")
            for path in (self._run / kind).glob("m*")
            for status in [path.stat()]
        }
        assert {path: found.get(path) for path in self._first} == self._first
        self._first = found
        return len(list((self._run / "generations").glob("m*")))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_and_a_node_are_lost(tmp_path, tiny_models, monkeypatch, nodes):
    torch.set_num_threads(1)
    monkeypatch.setattr(label_module, "PART_ROWS", PART_ROWS)
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    yaml = write_pyramid(tmp_path / "pyramid.yaml", tiny_models, max_tokens=40)
    # Slow enough to be killed at work.
    yaml.write_text(yaml.read_text().replace("price:", "batch_size: 8, price:"))
    queries, pyramid = load_queries(str(questions)), load_pyramid(yaml)
    run = tmp_path / "run"
    # Begun here, for chunks that are small.
    with pytest.raises(BudgetError):
        label(queries, pyramid, run, max_usd=0.001)
    arguments = ["--dataset", str(questions), "--pyramid", str(yaml), "--out", str(run)]
    arguments += ["--resume", "--engine", "ray", "--workers", "2"]
    parts = Parts(run)

    with labelling(tmp_path, arguments, nodes.address) as driver:

        def seen() -> int:
            nodes.note()
            return parts.look()

        def at_work(count: int) -> list[psutil.Process]:
            """The first node's workers, once both nodes have some and so many parts are written."""
            assert driver.poll() is None, (tmp_path / "err").read_text()
            if seen() < count or not nodes.workers(on_lost_node=True):
                return []
            return nodes.workers(on_lost_node=False)

        kill(wait_for(lambda: at_work(4)))
        written = seen()
        wait_for(lambda: at_work(written + 4))
        nodes.lose_node()
        left = seen()
        wait_for(lambda: seen() and driver.poll() is not None, patience_s=400)
        assert seen() > left + 4  # much was left to do when the node was lost
    errors = (tmp_path / "err").read_text()
    assert driver.returncode == 0, errors
    assert (tmp_path / "out").read_text() == f"run: {run}\n"
    for name in ("a", "b", "o"):
        assert f"label {name}: {QUESTIONS}/{QUESTIONS} (0 failed, " in errors
    label(queries, pyramid, tmp_path / "plain")
    same = assert_same_run(run, tmp_path / "plain")
    assert same.hidden_states.keys() == {"a", "b"}
    assert not list((run / "journal").iterdir())
    assert not [path for path in run.rglob("*") if path.name.startswith(".partial-")]
