"""The guard of a server, as a program of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyramid_moa.backends import server_guard
from pyramid_moa.backends.server_guard import end_session, session_members

# Says "ready", and leaves a child of another process group that won't be asked.
STUBBORN = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] in ("stubborn", "parent", "short"):
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); "
    child += "time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", child], process_group=0)
else:
    print("ready", flush=True)
if sys.argv[1] == "sharing":
    # Held by a child as well, so that the tracker of them both sees no end at first.
    import multiprocessing
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=1000)
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
    print(memory.name, flush=True)
if sys.argv[1] == "short":
    time.sleep(0.5)
    sys.exit(5)
time.sleep(600)
"""


def guard_command(stop_s):
    return [sys.executable, "-I", server_guard.__file__, str(stop_s)]


@pytest.fixture
def guarded():
    started = []

    def start(kind, *, stop_s=1.0):
        process = subprocess.Popen(
            [*guard_command(stop_s), sys.executable, "-c", STUBBORN, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        end_session(process.pid)
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def gone(session, *, within_s):
    deadline = time.monotonic() + within_s
    while session_members(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_end_of_its_input_stops_the_server_politely(guarded):
    process = guarded("polite", stop_s=60.0)
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert gone(process.pid, within_s=0)


def test_a_server_that_will_not_stop_is_killed_with_all_it_started(guarded):
    process = guarded("stubborn", stop_s=0.5)
    assert len(session_members(process.pid)) == 3
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGKILL
    assert b"still there 0.5 s after SIGTERM" in process.stderr.read()
    assert gone(process.pid, within_s=0)


def test_its_status_is_the_servers_and_nothing_is_left(guarded):
    process = guarded("short")
    assert process.wait(10) == 5
    assert gone(process.pid, within_s=0)


def test_what_a_killed_server_leaves_is_killed(guarded):
    process = guarded("parent")
    server = next(
        pid
        for pid in session_members(process.pid)
        if pid != process.pid and os.getpgid(pid) == process.pid
    )
    os.kill(server, signal.SIGKILL)
    assert process.wait(10) == 128 + signal.SIGKILL
    assert gone(process.pid, within_s=0)


def test_shared_memory_of_a_killed_server_is_freed(guarded):
    process = guarded("sharing")
    name = process.stdout.readline().decode().strip()
    assert Path("/dev/shm", name).exists()
    server = next(
        pid
        for pid in session_members(process.pid)
        if b"sharing" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != process.pid
    )
    os.kill(server, signal.SIGKILL)
    assert process.wait(20) == 128 + signal.SIGKILL
    assert not Path("/dev/shm", name).exists()
    assert gone(process.pid, within_s=0)


def test_told_to_stop_itself_it_does_not_wait(guarded):
    process = guarded("stubborn", stop_s=600.0)
    process.stdin.close()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGKILL
    assert gone(process.pid, within_s=0)


def test_a_server_whose_guard_is_killed_is_asked_to_stop(guarded):
    process = guarded("polite")
    process.kill()
    process.wait(10)
    assert gone(process.pid, within_s=10)


def test_a_process_that_dies_takes_its_guards_along(tmp_path):
    """Killed with SIGKILL, so that it can do nothing about it itself."""
    log = tmp_path / "log"
    program = (
        "import subprocess, sys, time\n"
        "guard = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE,"
        " stdout=open(sys.argv[1], 'wb'), start_new_session=True)\n"
        "print(guard.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [*guard_command(0.5), sys.executable]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(log), *command, "-c", STUBBORN, "stubborn"],
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        guard = int(owner.stdout.readline())
        while not log.read_text():
            time.sleep(0.02)
        assert len(session_members(guard)) == 3
        owner.kill()
    assert gone(guard, within_s=10)


def test_ending_a_session_spares_one_process():
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    assert end_session(process.pid, spared=[process.pid]) == []
    assert session_members(process.pid) == [process.pid]
    assert end_session(process.pid) == []
    assert process.wait(10) == -signal.SIGKILL
