"""Servers that ``pyramid-moa up`` starts, for as long as a case needs them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

__all__ = ["free_ports", "served", "write_pyramid"]

_START_S = "600"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def write_pyramid(path: Path, **content: object) -> Path:
    """Write a pyramid as YAML."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@contextmanager
def served(pyramid: Path, logs: Path) -> Iterator[None]:
    """Run ``pyramid-moa up`` on a pyramid."""
    command = [sys.executable, "-m", "pyramid_moa", "up", "--pyramid", str(pyramid)]
    command += ["--logs", str(logs), "--timeout", _START_S]
    environment = _keeping_bytecode(logs.with_name("bytecode"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        if not any(line.startswith("all up") for line in process.stdout):
            raise RuntimeError(f"up ended with {process.wait()}; see {logs}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
        process.stdout.close()


def _keeping_bytecode(folder: Path) -> dict[str, str]:
    """Where bytecode is not kept, each process of each server would compile all of vLLM anew."""
    environment = dict(os.environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment["PYTHONPYCACHEPREFIX"] = str(folder)
    return environment
