"""A process that holds an engine and does a piece of work whenever a line arrives on its stdin."""

import subprocess
import sys
from types import TracebackType
from typing import Self

__all__ = ["Child", "serve"]


class Child:
    """Starts one of this folder's programs and asks it for work."""

    def __init__(self, program: str, *arguments: str) -> None:
        """Start it and wait until it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask("ready")

    def ask(self, what: str = "go") -> float:
        """Have it work; the seconds that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def serve(work: object) -> None:
    """Answer on stdin and stdout: ``work()`` gives the seconds of each piece of work."""
    assert callable(work)
    for line in sys.stdin:
        print(f"seconds {0.0 if line.strip() == 'ready' else work():.6f}", flush=True)
