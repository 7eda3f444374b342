"""Letters of multiple-choice questions."""

import re
from dataclasses import dataclass

from pyramid_moa.grading.json_answer import answer_field
from pyramid_moa.grading.markers import after_phrase, last_boxed
from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import Piece, last_match, tail

__all__ = ["MultipleChoiceGrader"]

_WRAP = r"(?:\s|[*_`$\"'(\[{<]|\\[(\[]|\\text(?:bf|rm)?\{|option\b|choice\b){0,8}"
_AFTER = r"(?![\w'\u2019]|\s+[a-z])"
# "B", "(b)", "**B**.", "Option B", "B) Paris", "B. Paris", "B: Paris"
_LEADING = re.compile(rf"{_WRAP}(?P<letter>[A-J])(?:(?=[).:\]])|{_AFTER})", re.IGNORECASE)
_BRACKETED = re.compile(r"(?<!\w)\((?P<letter>[A-Ja-j])\)")
_LINE = re.compile(
    r"^[*_\s]{0,5}(?P<letter>[A-J])(?:[.):][*_]{0,2}(?:\s.*)?|[*_\s]{0,5})$", re.MULTILINE
)
_HASHES = re.compile(r"####")


@dataclass(frozen=True)
class MultipleChoiceGrader:
    """The answer is a letter from A to J."""

    name: str = "multiple-choice"
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        r"""Find the letter that a response gives as its answer.

        It is that of the JSON answer field, else of ``\boxed{}``, else after ``####`` or "the
        answer is", else of the whole text, else the last one in brackets, else that of the last
        line which begins with one.
        """
        window, offset = tail(text)
        letter = _find(window)
        if letter is None:
            return None
        start, end = letter.span("letter")
        return Extraction(letter["letter"].upper(), start + offset, end + offset)

    def equal(self, a: str, b: str) -> bool:
        """Compare the letters; as text without case where one is no choice."""
        return _letter(a) == _letter(b)


def _letter(answer: str) -> str:
    """Reduce an answer such as ``(b)`` or ``B. Paris`` to its letter."""
    match = _LEADING.match(answer)
    return match["letter"].upper() if match else answer.strip().casefold()


def _find(text: str) -> re.Match[str] | None:
    """Try one place after the other."""
    field = answer_field(text)
    if field is not None:
        return _leading(text, field)
    for piece in (last_boxed(text), _after_hashes(text), after_phrase(text)):
        if piece and (match := _leading(text, piece)):
            return match
    whole = Piece.of(text, 0, len(text))
    return _leading(text, whole) or last_match(_BRACKETED, text) or last_match(_LINE, text)


def _leading(text: str, piece: Piece) -> re.Match[str] | None:
    """Find the letter with which a piece begins."""
    return _LEADING.match(text, piece.start)


def _after_hashes(text: str) -> Piece | None:
    """Find what follows the first ``####``."""
    hashes = _HASHES.search(text)
    return Piece.of(text, hashes.end(), len(text)) if hashes else None
