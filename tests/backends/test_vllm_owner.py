"""An engine in a process of its own does not outlive the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vllm_server import skip_without_vllm

from pyramid_moa.backends.vllm_arguments import engine_arguments
from pyramid_moa.data_prep.pyramid import load_pyramid

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

# Started by a thread that ends at once: that is no reason for the engine to end.
OWNER = """
import sys, threading
from dataclasses import replace
from pyramid_moa.backends import Completion, Prompt, Sampling, open_backend
from pyramid_moa.data_prep.pyramid import load_pyramid

def start():
    global backend
    spec = load_pyramid("embedded").members[1]
    extra = ["--enforce-eager"]
    backend = open_backend(
        replace(spec, backend="vllm", kv_cache_bytes=32 << 20, extra_args=extra)
    )

if __name__ == "__main__":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (answer,) = backend.generate([Prompt(text="2 + 2 ?")], Sampling(max_tokens=4))
    assert isinstance(answer, Completion), answer
    processes = backend._engine.llm.engine_core.resources.engine_manager.processes
    print(*(process.pid for process in processes), flush=True)
    sys.stdin.read()
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_engine_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    skip_without_vllm()
    program = tmp_path / "owner.py"
    program.write_text(OWNER)
    with subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        (engine,) = map(int, owner.stdout.readline().split())
        try:
            assert is_alive(engine)
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)
            deadline = time.monotonic() + 20
            while is_alive(engine):
                assert time.monotonic() < deadline, "the engine outlives its owner"
                time.sleep(0.05)
        finally:
            if is_alive(engine):
                os.kill(engine, signal.SIGKILL)


def test_every_engine_with_a_process_of_its_own_has_our_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyramid_moa.backends.vllm_arguments.is_cpu_build", lambda: False)
    spec = load_pyramid("embedded").oracle
    for own_process in (True, False):
        arguments = engine_arguments(
            spec, hidden_states=None, storage=None, own_process=own_process
        )
        assert ("--worker-cls" in arguments) is own_process
