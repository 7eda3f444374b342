"""Server-sent events, taken from bytes as they come.

Written by hand, because the libraries that do this for aiohttp are no longer kept; the form is that
of the HTML standard, section 9.2.6.
"""

import re
from collections.abc import Iterator

from pyramid_moa.errors import BackendError

__all__ = ["EventStream"]

# An event is at most an answer with its log-probabilities.
_LONGEST = 16 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class EventStream:
    """Takes bytes, and gives the data of each event that is complete."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        # Bytes of what waits for its end: of the lines that are kept, and of everything.
        self._kept = self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in the next bytes.

        Yields:
            The data of events, lines joined by line feeds; comments and other fields are skipped.

        Raises:
            BackendError: an event is longer than any could be.
        """
        self._size += len(piece)
        if self._size > _LONGEST:
            raise BackendError(f"an event is larger than {_LONGEST >> 20} MiB")
        self._line.append(piece)
        if b"\n" not in piece and b"\r" not in piece and self._line[0][-1:] != b"\r":
            return
        # A return at the very end may be half of a line's end: it waits for what follows.
        *lines, rest = _LINE_END.split(b"".join(self._line))
        self._line = [rest] if rest else []
        for line in lines:
            if not line:
                if self._data:
                    yield b"\n".join(self._data)
                self._data, self._kept = [], 0
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                # The whole line, with its end: one without a value takes memory, too.
                self._kept += len(line) + 1
        self._size = len(rest) + self._kept
