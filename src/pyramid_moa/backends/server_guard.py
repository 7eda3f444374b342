"""Runs a server, and ends it and all it started when whoever asked for it stops or dies.

A program of its own, without imports beyond the standard library: ``server_guard.py STOP_S COMMAND
[ARGUMENT ...]``, started at the head of a new session. It stops the server when its standard input
ends, which the kernel sees to however the other end of that pipe died, kill -9 included: first
politely (SIGTERM), then, ``STOP_S`` seconds later or at a SIGTERM of its own, by killing whatever
is left of the session. vLLM needs this: its engine runs in further processes that go on for ever
when the one that started them is killed.

It ends with the server's exit status, 128 + n where that was ended by signal n.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

__all__ = ["end_session", "session_members"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY_S = 0.1
_KILL_WITHIN_S = 10.0
_TRACKERS_WITHIN_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run a server for as long as it is wanted.

    Args:
        arguments: seconds that a polite stop may take, then the server's command line.

    Returns:
        The exit status.
    """
    stop_s, command = float(arguments[0]), list(arguments[1:])
    libc = ctypes.CDLL(None)
    # What the server leaves behind becomes a child of this process, which can then reap it.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    hurry = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: hurry.set())
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        # Should this process be killed, the server is at least asked to stop. There is one thread
        # here, so that running code between fork and exec is safe.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )
    while server.poll() is None and not hurry.is_set():
        if select.select([sys.stdin.fileno()], [], [], _LOOK_EVERY_S)[0]:
            break
    if server.poll() is None and not hurry.is_set():
        server.terminate()
        deadline = time.monotonic() + stop_s
        while server.poll() is None and not hurry.is_set() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        if server.poll() is None and not hurry.is_set():
            sys.stderr.write(f"still there {stop_s:g} s after SIGTERM: killing the server\n")
    _end_what_is_left()
    status = server.wait()
    _reap()
    return status if status >= 0 else 128 - status


def _end_what_is_left() -> None:
    """Kill the rest of this session, those last that free the shared memory of the others.

    Python's multiprocessing starts a tracker beside its processes, which removes their shared
    memory and semaphores once they have all ended. Killed with them, it would leave hundreds of
    megabytes behind.
    """
    this = os.getpid()
    trackers = [member for member in session_members(this) if _is_tracker(member)]
    end_session(this, spared=(this, *trackers))
    deadline = time.monotonic() + _TRACKERS_WITHIN_S
    while session_members(this) != [this] and time.monotonic() < deadline:
        time.sleep(0.02)
    end_session(this, spared=(this,))


def _is_tracker(process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False
    return b"multiprocessing.resource_tracker" in command


def _reap() -> None:
    """Wait for what is dying: only then are memory and devices free for the next server."""
    deadline = time.monotonic() + _KILL_WITHIN_S
    with contextlib.suppress(ChildProcessError):  # there is nobody left to wait for
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.02)


def session_members(session: int) -> list[int]:
    """Process ids of a session that have not ended, from /proc."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name of the program stands in brackets and may hold anything.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in ("Z", "X"):
                members.append(int(entry.name))
    return members


def end_session(session: int, *, spared: Collection[int] = ()) -> list[int]:
    """Kill all processes of a session and wait until they are gone.

    Args:
        session: its id, the process id of its head.
        spared: processes to leave alone.

    Returns:
        Those that were still there after ten seconds, such as one that waits for a device.
    """
    deadline = time.monotonic() + _KILL_WITHIN_S
    while True:
        left = [member for member in session_members(session) if member not in spared]
        if not left or time.monotonic() > deadline:
            return left
        for member in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
