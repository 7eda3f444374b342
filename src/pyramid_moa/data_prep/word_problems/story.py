"""A word problem while it is being told: sentences on one side, equations on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from pyramid_moa.data_prep.word_problems.words import DISTRACTORS, PEOPLE, THINGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

__all__ = ["LARGEST", "Operation", "Step", "Story", "UnsuitableError"]

LARGEST = 400
"""No number in a problem, given or derived, is larger than this."""

Operation = Literal["+", "-", "*", "/"]
T = TypeVar("T")


class UnsuitableError(Exception):
    """The numbers drawn lead out of range; the maker draws the whole story again."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One equation of a solution, such as ``apples 3 * 4 = 12``."""

    label: str
    left: int
    operation: Operation
    right: int
    result: int

    def __str__(self) -> str:
        """Return the equation as a line of the solution shows it."""
        return f"{self.label} {self.equation} = {self.result}"

    @property
    def equation(self) -> str:
        """The left-hand side alone, which is what the splits are hashed over."""
        return f"{self.left} {self.operation} {self.right}"


class Story:
    """Collects the facts, the question and the steps of one problem.

    Attributes:
        rng: source of every choice.
        facts: sentences in the order in which they are told.
        steps: equations in the order in which they are solved.
        moves: names of the moves made, the skeleton that the compositional hold-out hashes.
        question: the last sentence.
    """

    def __init__(self, rng: Random) -> None:
        """Start an empty story whose choices are drawn from ``rng``."""
        self.rng = rng
        self.facts: list[str] = []
        self.steps: list[Step] = []
        self.moves: list[str] = []
        self.question = ""

    def pick(self, choices: Sequence[T]) -> T:
        """Draw one of the choices."""
        return self.rng.choice(choices)

    def number(self, low: int, high: int) -> int:
        """Draw a number between two bounds, both included.

        Raises:
            UnsuitableError: nothing lies between them.
        """
        if high < low:
            raise UnsuitableError
        return self.rng.randint(low, high)

    def divisor(self, value: int, choices: Sequence[int]) -> int:
        """Draw one of the choices that divides ``value`` and leaves more than one.

        Raises:
            UnsuitableError: none of them does.
        """
        fitting = [k for k in choices if value % k == 0 and value > k]
        if not fitting:
            raise UnsuitableError
        return self.pick(fitting)

    def people(self, count: int) -> list[tuple[str, str]]:
        """Draw different people, each a name and a pronoun."""
        return self.rng.sample(PEOPLE, count)

    def tell(self, phrasings: Sequence[str], **words: object) -> None:
        """Add a fact in one of its phrasings."""
        self.facts.append(self.pick(phrasings).format(**words))

    def ask(self, phrasings: Sequence[str], **words: object) -> None:
        """Set the question in one of its phrasings."""
        self.question = self.pick(phrasings).format(**words)

    def solve(self, label: str, left: int, operation: Operation, right: int) -> int:
        """Add an equation and return its result.

        Raises:
            UnsuitableError: the result is no whole number from 1 to ``LARGEST``.
        """
        if operation == "/" and left % right:
            raise UnsuitableError
        result = {
            "+": left + right,
            "-": left - right,
            "*": left * right,
            "/": left // right,
        }[operation]
        if not (1 <= result <= LARGEST and left <= LARGEST):
            raise UnsuitableError
        self.steps.append(
            Step(label=label, left=left, operation=operation, right=right, result=result)
        )
        return result

    def distract(self) -> None:
        """Add a sentence that has nothing to do with the question."""
        (name, _), thing = self.people(1)[0], self.pick(THINGS)
        sentence = self.pick(DISTRACTORS).format(name=name, thing=thing, n=self.number(2, 60))
        self.facts.insert(self.number(0, len(self.facts)), sentence)

    @property
    def text(self) -> str:
        """The problem as it is put to a model."""
        return " ".join([*self.facts, self.question])

    @property
    def solution(self) -> str:
        """One equation a line, then the answer behind ``####`` as in GSM8K."""
        return "\n".join([*map(str, self.steps), f"#### {self.steps[-1].result}"])
