"""Short answers in words, compared as SQuAD's evaluation does."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from pyramid_moa.grading.json_answer import answer_field
from pyramid_moa.grading.markers import after_phrase, last_boxed
from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import LONGEST_LOOKED_AT, Piece, tail

__all__ = ["TextGrader", "normal_text"]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")


@dataclass(frozen=True)
class TextGrader:
    """Two answers are equal when they differ in nothing but case, articles, signs and spacing."""

    name: str = "text"
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        r"""Take the JSON answer field, or ``\boxed{}``, ``####``, "the answer is", else all."""
        window, offset = tail(text)
        piece = answer_field(window)
        if piece is None:
            piece = last_boxed(window) or _after_hashes(window) or after_phrase(window)
        if piece is None:
            piece = Piece.of(window, 0, len(window))
        return piece.shifted(offset).extraction()

    def equal(self, a: str, b: str) -> bool:
        """Compare normalised; answers of nothing but signs and articles compare as they are."""
        if a.strip().casefold() == b.strip().casefold():
            return True
        first, second = normal_text(a), normal_text(b)
        return first == second and first != ""


def _after_hashes(text: str) -> Piece | None:
    """Take the rest of the line after the first ``####``."""
    hashes = _HASHES.search(text)
    return Piece.of(text, *hashes.span(1)) if hashes else None


@lru_cache(maxsize=4096)
def normal_text(text: str) -> str:
    """Normalise as in SQuAD (Rajpurkar et al., 2016, section 6.1).

    Unicode NFKC, no case, no punctuation, no English articles, single spaces. At most 50,000
    characters are looked at.
    """
    folded = unicodedata.normalize("NFKC", text[:LONGEST_LOOKED_AT]).casefold()
    kept = "".join(c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", kept).split())
