"""How far a question is from those that a router was trained on, by its text alone.

Four parts say it, each in its own way: the question's form (``question_signs``, by Mahalanobis
distance), its words and its letters (how rare they were in training), and what is missing of that
which most of training's questions have. A text in another language shows in its letters, code in
its form, and "Hello!" in what it lacks.
"""

import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.question_signs import QUESTION_SIGNS, question_signs

__all__ = [
    "BUCKETS",
    "PARTS",
    "Distance",
    "KnownQuestions",
    "QuestionProfile",
    "Rarity",
    "question_profile",
]

PARTS = ("form", "words", "letters", "missing")
BUCKETS = 1 << 14
"""Words, and pieces of four letters, are told apart by a hash of so many values."""
# What comes after changes little: a text of another kind shows it before.
_LONGEST = 4000
_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s]")
_DIGITS = re.compile(r"\d+")
_BLANKS = re.compile(r"\s+")
# Knuth's multiplier: neighbouring pieces fall into buckets far apart.
_SCATTER = np.uint32(2654435761)
_SHIFT = np.uint32(32 - (BUCKETS.bit_length() - 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionProfile:
    """What is read of one question.

    Attributes:
        form: its signs, float64 [S].
        words: buckets of its words, numbers (all of which are alike) and marks, each once.
        letters: buckets of its pieces of four bytes, each once.
    """

    form: NDArray[np.float64]
    words: NDArray[np.int64]
    letters: NDArray[np.int64]


def question_profile(question: str) -> QuestionProfile:
    """Read a question; of its words and letters the first 4,000 characters."""
    text = question[:_LONGEST].lower()
    words = {"0" if token[0].isdecimal() else token for token in _TOKEN.findall(text)}
    plain = f" {_BLANKS.sub(' ', _DIGITS.sub('0', text))}    ".encode("utf-8", "surrogatepass")
    letters = np.frombuffer(plain, dtype=np.uint8).astype(np.uint32)
    pieces = letters[:-3] | letters[1:-2] << 8 | letters[2:-1] << 16 | letters[3:] << 24
    return QuestionProfile(
        form=np.array(question_signs(question), dtype=np.float64),
        # Python's own hash differs from process to process.
        words=np.unique([_bucket(word) for word in words or {""}]),
        letters=np.unique(pieces * _SCATTER >> _SHIFT).astype(np.int64),
    )


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS


@dataclass(frozen=True, kw_only=True, eq=False)
class Rarity:
    """What questions have in common.

    Attributes:
        centre: mean of the signs, float64 [S].
        whitening: takes a sign's distance from it to one of unit variance, float64 [S, S].
        words: for each bucket -log P(a question holds it), float64 [B], as a float32 has it.
        letters: likewise.
        absent: for each bucket of words -log P(a question does not hold it), float64 [B].
    """

    centre: NDArray[np.float64]
    whitening: NDArray[np.float64]
    words: NDArray[np.float64]
    letters: NDArray[np.float64]
    absent: NDArray[np.float64]

    def parts(self, profile: QuestionProfile) -> NDArray[np.float64]:
        """How unlike a question is in each of ``PARTS``, in units of their own, float64 [4]."""
        form = np.linalg.norm(self.whitening @ (profile.form - self.centre))
        lacking = self.absent.sum() - self.absent[profile.words].sum()
        words, letters = self.words[profile.words].mean(), self.letters[profile.letters].mean()
        return np.array([form, words, letters, lacking])


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far a question is from those of training.

    Attributes:
        value: 1 is what ``false_alarms`` of training's own questions exceed; larger is further.
        part: of ``PARTS``, the one in which it is furthest.
    """

    value: float
    part: str


_BY_CHANCE = 0.05
_TABLES = ("words", "letters", "absent")
_TENSORS = ("centre", "whitening", *_TABLES)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownQuestions:
    """What the questions of a training look like.

    Attributes:
        rarity: of all of them.
        middle: of each part, the median over questions that were left out when it was fitted.
        spread: of each part, from there to where a question is at distance 1.
        questions: how many those were.
        false_alarms: the share of them beyond distance 1.
    """

    rarity: Rarity
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]
    questions: int
    false_alarms: float

    def distance(self, question: str) -> Distance:
        """How far a question is from those of training.

        It takes time by length: some 0.15 ms for a few sentences, 1 ms for 4,000 characters, and
        never over a few: further on only signs of the form are read, for 20,000 characters.
        """
        parts = (self.rarity.parts(question_profile(question)) - self.middle) / self.spread
        place = int(parts.argmax())
        return Distance(value=float(parts[place]), part=PARTS[place])

    def remark(self, questions: Collection[str]) -> str | None:
        """What has to be said of figures on some questions; None where they are of the kind."""
        unlike = sum(self.distance(question).value > 1 for question in questions)
        # As many as a hundred of the kind may have by chance.
        if unlike <= max(1, _BY_CHANCE * len(questions)):
            return None
        return (
            f"{unlike} of {len(questions)} questions are unlike those that the router was trained "
            "on: what it says of their answers may not hold"
        )

    def told(self) -> dict[str, Any]:
        """What ``router.json`` says of it."""
        return {
            "questions": self.questions,
            "false_alarms": self.false_alarms,
            "parts": list(PARTS),
            "signs": list(QUESTION_SIGNS),
        }

    def tensors(self) -> dict[str, NDArray[np.float32] | NDArray[np.float64]]:
        """All the rest by name, as a checkpoint holds it."""
        own = {name: np.ascontiguousarray(getattr(self.rarity, name)) for name in _TENSORS}
        tables = {name: own[name].astype(np.float32) for name in _TABLES}
        return {**own, **tables, "middle": self.middle, "spread": self.spread}

    @classmethod
    def from_checkpoint(
        cls, told: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, source: str
    ) -> "KnownQuestions":
        """Put it together from what ``told`` and ``tensors`` gave.

        Args:
            told: of ``router.json``.
            tensors: by name.
            source: the file, for errors.

        Raises:
            CheckpointError: they are damaged, or of another version.
        """
        signs = len(QUESTION_SIGNS)
        if list(told.get("parts", ())) != list(PARTS) or told.get("signs") != list(QUESTION_SIGNS):
            raise CheckpointError(
                f"{source}: known_questions: what it reads of a question is not what this version "
                "does; train again"
            )
        shapes = {
            "centre": (signs,),
            "whitening": (signs, signs),
            "words": (BUCKETS,),
            "letters": (BUCKETS,),
            "absent": (BUCKETS,),
            "middle": (len(PARTS),),
            "spread": (len(PARTS),),
        }
        found = {name: value.shape for name, value in tensors.items()}
        numbers = {name: value.astype(np.float64) for name, value in tensors.items()}
        good = (
            found == shapes
            and all(bool(np.isfinite(value).all()) for value in numbers.values())
            and bool((numbers["spread"] > 0).all())
        )
        questions, false_alarms = told.get("questions"), told.get("false_alarms")
        if not (good and isinstance(questions, int) and isinstance(false_alarms, float)):
            raise CheckpointError(f"{source}: damaged: known_questions do not fit each other")
        return cls(
            rarity=Rarity(**{name: numbers[name] for name in _TENSORS}),
            middle=numbers["middle"],
            spread=numbers["spread"],
            questions=questions,
            false_alarms=false_alarms,
        )
