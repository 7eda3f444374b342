"""A real Ray for tests, its processes, and their deaths."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import pytest

T = TypeVar("T")

# Chunks of so few queries that a short run has many of them.
PART_ROWS = 16
# Only a failure takes so long: workers import torch, which is slow on a busy machine.
PATIENCE_S = 240.0
# Ray says on standard error that it has read this; without it, what it thinks of each actor.
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}


def need_ray() -> None:
    """Skip where Ray has no wheels."""
    pytest.importorskip("ray", reason="ray absent: it has no wheel for this Python or platform")


@contextmanager
def started_ray(cpus: int = 2) -> Iterator[None]:
    """One Ray of this machine, for several calls of ``label``; nothing of it is left behind."""
    import ray

    # Others' processes, as a tracker's or a server's that further tests will ask, are not Ray's,
    # whenever they start: Ray's are those that it starts here and what descends from them.
    before = set(psutil.Process().children())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 * 2**20,
            _node_ip_address="127.0.0.1",
        )
        own = set(psutil.Process().children()) - before
        assert own
        try:
            yield
        finally:
            started = [*own, *(below for one in own for below in one.children(recursive=True))]
            ray.shutdown()
            assert_gone(started)


def workers_under(process: psutil.Process) -> list[psutil.Process]:
    """Workers that answer chunks, among the descendants of a process."""
    return [
        child
        for child in process.children(recursive=True)
        if "ChunkWorker" in " ".join(_command(child))
    ]


def worker_at(port: int) -> psutil.Process:
    """The worker of this process's Ray that has a connection from a port of this machine."""
    (found,) = [worker for worker in workers_under(psutil.Process()) if port in _ports(worker)]
    return found


def _ports(process: psutil.Process) -> list[int]:
    try:
        return [one.laddr.port for one in process.net_connections("tcp")]
    except psutil.Error:  # it is just ending
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it is just ending
        return []


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL, all at once."""
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def assert_gone(processes: list[psutil.Process]) -> None:
    """Wait until processes have ended; those that were to be killed count, too."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not [f"{left.pid} {_command(left)}" for left in alive if left.is_running()]


def wait_for(true: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """Wait until something holds, and give what holds."""
    patience = time.monotonic() + patience_s
    while not (found := true()):
        assert time.monotonic() < patience, "waited in vain"
        time.sleep(0.02)
    return found
