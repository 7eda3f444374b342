"""Numbers, extracted as GSM8K's own evaluation does, and from what chat models write instead."""

import re
from dataclasses import dataclass
from fractions import Fraction

from pyramid_moa.grading.json_answer import answer_field
from pyramid_moa.grading.markers import after_phrase, last_boxed
from pyramid_moa.grading.numbers import NUMBER, parse_number, read_number, tidy_number
from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import Piece, tail

__all__ = ["Gsm8kGrader"]

# Answers are rounded to cents and the like by some models and not by others.
_TOLERANCE = Fraction(1, 1000)
# openai/grade-school-math, dataset.py: "#### (\-?[0-9\.\,]+)"; here also with a currency sign, bold
# type or "Answer:" between. A heading such as "#### Step 1" is none.
_HASHES = re.compile(r"####[ \t]{0,5}(?:(?:final\s)?answer\s?[:=]?)?[\s*(]{0,5}", re.IGNORECASE)
_OPENERS = re.compile(r"[\\($\s]{0,5}")


@dataclass(frozen=True)
class Gsm8kGrader:
    """Answers are numbers; two are equal within 0.001."""

    name: str = "gsm8k"
    numeric: bool = True

    def extract(self, text: str) -> Extraction | None:
        """Find the number that a response gives as its answer.

        It is the number after ``####``, else in the last box, else in the JSON answer field (where
        it must have one), else after "the answer is", else the last of the text.
        """
        window, offset = tail(text)
        found = _find(window)
        if found is None:
            return None
        return Extraction(found.answer, found.start + offset, found.end + offset)

    def equal(self, a: str, b: str) -> bool:
        """Compare as numbers within 0.001; as text where one is no number."""
        first, second = parse_number(a), parse_number(b)
        if first is None or second is None:
            return a.strip().casefold() == b.strip().casefold()
        return abs(first - second) <= _TOLERANCE


def _find(text: str) -> Extraction | None:
    """Try one place after the other."""
    if found := _after_hashes(text):
        return found
    if (piece := last_boxed(text)) and (found := _in_piece(text, piece)):
        return found
    if (piece := answer_field(text)) is not None:
        return _in_piece(text, piece)
    if (piece := after_phrase(text)) and (found := _in_piece(text, piece)):
        return found
    return _last(text)


def _extraction(match: re.Match[str]) -> Extraction | None:
    """Make an extraction of a number, None where it has no value."""
    tidy = tidy_number(match)
    if tidy is None or read_number(match) is None:
        return None
    return Extraction(tidy, match.start(), match.end())


def _last(text: str) -> Extraction | None:
    """Take the last number that has a value."""
    matches = list(NUMBER.finditer(text))
    return next((found for match in reversed(matches) if (found := _extraction(match))), None)


def _after_hashes(text: str) -> Extraction | None:
    """Take the first number that directly follows ``####``."""
    for hashes in _HASHES.finditer(text):
        match = NUMBER.match(text, hashes.end()) or NUMBER.match(
            text, _skip(_OPENERS, text, hashes.end())
        )
        if match and (extraction := _extraction(match)):
            return extraction
    return None


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Go past a pattern."""
    match = pattern.match(text, position)
    return match.end() if match else position


def _in_piece(text: str, piece: Piece) -> Extraction | None:
    """Take the first number of a marked answer, after its last equals sign where it has one."""
    start = max(piece.start, text.rfind("=", piece.start, piece.end) + 1)
    for match in NUMBER.finditer(text, start, piece.end):
        if extraction := _extraction(match):
            return extraction
    return None
