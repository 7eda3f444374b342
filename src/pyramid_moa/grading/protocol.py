"""What a grader is, and what it hands back."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Extraction", "Grader"]


@dataclass(frozen=True)
class Extraction:
    """An answer and the place in the response where it stands.

    Attributes:
        answer: the answer in a tidy form, such as ``1200`` for ``$1,200.00``.
        start: index of its first character in the response.
        end: index after its last character; ``text[start:end]`` is the answer as it was written.
    """

    answer: str
    start: int
    end: int


class Grader(Protocol):
    """Extracts an answer from a response and says whether two answers are equal.

    Graders hold no state that changes what they say, and may be used from any thread.
    """

    @property
    def name(self) -> str:
        """The name by which ``load_grader`` finds it."""
        ...

    @property
    def numeric(self) -> bool:
        """Whether answers are numbers."""
        ...

    def extract(self, text: str) -> Extraction | None:
        """Find the answer of a response, or None where there is none."""
        ...

    def equal(self, a: str, b: str) -> bool:
        """Compare two extracted or reference answers.

        Symmetric and reflexive; never raises, whatever the strings hold.
        """
        ...
