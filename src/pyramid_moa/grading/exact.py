"""The whole response as its answer."""

from dataclasses import dataclass

from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import Piece

__all__ = ["ExactGrader"]


@dataclass(frozen=True)
class ExactGrader:
    """The answer is the whole text without the white space around it, compared as it is."""

    name: str = "exact"
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        """Take the whole text, None where it is blank."""
        return Piece.of(text, 0, len(text)).extraction()

    def equal(self, a: str, b: str) -> bool:
        """Compare without the white space around."""
        return a.strip() == b.strip()
