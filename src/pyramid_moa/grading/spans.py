"""Pieces of a text that remember where they stand in it."""

import re
from collections import deque
from dataclasses import dataclass

from pyramid_moa.grading.protocol import Extraction

__all__ = ["LONGEST_LOOKED_AT", "Piece", "last_match", "tail"]

# Answers stand at the end. A response that never stops costs no more than this many characters.
LONGEST_LOOKED_AT = 50_000


@dataclass(frozen=True)
class Piece:
    """A part of a response.

    Attributes:
        text: what it says; for a JSON string after its escapes have been resolved.
        start: index of its first character in the response.
        end: index after its last character.
    """

    text: str
    start: int
    end: int

    @classmethod
    def of(cls, source: str, start: int, end: int) -> "Piece":
        """Cut ``source[start:end]`` without the white space around it."""
        part = source[start:end]
        start += len(part) - len(part.lstrip())
        text = part.strip()
        return cls(text, start, start + len(text))

    def shifted(self, offset: int) -> "Piece":
        """Count the same piece from ``offset`` characters further ahead."""
        return Piece(self.text, self.start + offset, self.end + offset)

    def extraction(self, answer: str | None = None) -> Extraction | None:
        """Make an extraction of the whole piece, None where it says nothing."""
        answer = self.text.strip() if answer is None else answer
        return Extraction(answer, self.start, self.end) if answer else None


def tail(text: str) -> tuple[str, int]:
    """Cut the part of a response that is looked at.

    Returns:
        The last ``LONGEST_LOOKED_AT`` characters, and the index at which they begin.
    """
    offset = max(0, len(text) - LONGEST_LOOKED_AT)
    return text[offset:], offset


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Find the last match of a pattern."""
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None
