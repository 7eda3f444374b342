"""Progress of long work: a bar on a terminal, plain lines otherwise."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

__all__ = ["Progress", "Steps"]

_LINE_EVERY_S = 10.0


class Steps(Protocol):
    """Whatever long work tells of its steps."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps; the note is a few words on the state."""
        ...


class Progress:
    """Counts steps of long work; used as a context."""

    def __init__(self, what: str, *, total: int, stream: TextIO | None = None) -> None:
        """Begin.

        Args:
            what: what is being done, in a few words.
            total: number of steps.
            stream: where to show it; standard error by default.
        """
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._done = 0
        self._note = ""
        self._said = -1
        self._last_line = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=what, total=total, file=self._stream, dynamic_ncols=True)

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps.

        Args:
            steps: how many more are done; 0 only shows the state and the time anew.
            note: a few words on the state, such as failures and money spent.
        """
        self._done += steps
        self._note = note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
            if not steps:
                self._bar.refresh()
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line()

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar, or say the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._said:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self._said = self._done
        note = f" ({self._note})" if self._note else ""
        self._stream.write(f"{self._what}: {self._done}/{self._total}{note}\n")
        self._stream.flush()
