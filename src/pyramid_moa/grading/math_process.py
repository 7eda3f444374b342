"""math-verify with a time limit that holds in any thread.

Its own limits rest on signal.alarm, which works in the main thread alone, and without a limit a
single answer such as (x+y+z)^200 keeps it busy for hours. So it runs in one child process, started
when first needed, which is ended and started anew when an answer takes too long.
"""

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import math_worker

__all__ = ["verified"]

_LOG = logging.getLogger(__name__)
TIME_LIMIT_S = 5.0
_START_LIMIT_S = 120.0


class _Process:
    """A running child, and the queue of its replies."""

    def __init__(self) -> None:
        """Start the child and wait until it is ready.

        Raises:
            ConfigError: it does not start, or math-verify cannot be imported.
        """
        # -P: the worker's folder must not become a place to import from.
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(Path(math_worker.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._requests = self._child.stdin
        self._replies: Queue[str] = Queue()
        self._reader = threading.Thread(
            target=_read_lines, args=(self._child.stdout, self._replies), daemon=True
        )
        self._reader.start()
        self.pid = os.getpid()
        try:
            word = self._next(_START_LIMIT_S)
        except OSError as error:
            word = error
        if word != "ready":
            self.end(patience_s=0.0)
            raise ConfigError(
                f"the grader math-verify could not be started ({word}): "
                "run pip install 'math-verify[antlr4_13_2]'"
            )

    def ask(self, a: str, b: str) -> bool:
        """Compare two expressions.

        Raises:
            TimeoutError: it took too long.
            ConnectionError: the child has ended.
        """
        # A broken pipe is a ConnectionError, too.
        self._requests.write(json.dumps([a, b]) + "\n")
        self._requests.flush()
        return self._next(TIME_LIMIT_S) is True

    def _next(self, limit_s: float) -> object:
        """Wait for a reply; raises as ``ask`` does."""
        try:
            line = self._replies.get(timeout=limit_s)
        except Empty:
            raise TimeoutError(f"no reply in {limit_s} s") from None
        if not line:
            raise ConnectionResetError("the child has ended")
        reply: object = json.loads(line)
        return reply

    def end(self, *, patience_s: float) -> None:
        """End the child, which ends by itself when it has no work left."""
        with contextlib.suppress(OSError):  # what was not sent any more
            self._requests.close()
        try:
            self._child.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join()


def _read_lines(stream: IO[str], replies: "Queue[str]") -> None:
    """Pass lines on, and an empty one at the end."""
    with stream:
        for line in stream:
            replies.put(line)
    replies.put("")


_lock = threading.Lock()
_process: _Process | None = None


@lru_cache(maxsize=16384)
def verified(a: str, b: str) -> bool:
    """Ask math-verify whether two expressions are equal, in either order.

    Args:
        a: LaTeX without delimiters.
        b: likewise.

    Returns:
        Its answer; False where it takes longer than five seconds.

    Raises:
        ConfigError: math-verify cannot be started.
    """
    with _lock:
        for _ in range(2):
            try:
                return _running().ask(a, b)
            except TimeoutError:
                _LOG.debug("math-verify gave no answer in %s s; counted as unequal", TIME_LIMIT_S)
                _end(patience_s=0.0)
                return False
            except ConnectionError:  # it had died before, or over this; once more with a new one
                _end()
            except BaseException:  # interrupted: its reply must not pass for the next one's
                _end(patience_s=0.0)
                raise
        return False


def _running() -> _Process:
    """Give the child of this process, started now where there is none."""
    global _process
    if _process is None or _process.pid != os.getpid():  # a fork must not share the pipes
        _process = _Process()
        atexit.register(_end)
    return _process


def _end(*, patience_s: float = 2.0) -> None:
    """End this process's child, if there is one."""
    global _process
    if _process is not None and _process.pid == os.getpid():
        _process.end(patience_s=patience_s)
    _process = None
    atexit.unregister(_end)
