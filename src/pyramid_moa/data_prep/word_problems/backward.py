"""The scenario told from its end: the start is unknown and has to be worked out backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems.story import LARGEST, Operation, UnsuitableError
from pyramid_moa.data_prep.word_problems.words import THINGS

if TYPE_CHECKING:
    from pyramid_moa.data_prep.word_problems.story import Story

__all__ = ["tell_backward"]

OPENINGS = ("{name} had some {thing}.", "{name} owned a number of {thing}.")
CHANGES = {
    "found": ("{He} found {n} more.", "{He} got {n} from a friend."),
    "gave": ("{He} gave {n} away.", "{He} lost {n} of them."),
    "doubled": ("Then the number doubled.",),
}
ENDS = ("In the end {he} had {n}.", "After that there were {n} left.")
QUESTIONS = ("How many {thing} did {name} have at first?", "How many {thing} were there at first?")
UNDONE: dict[str, Operation] = {"found": "-", "gave": "+", "doubled": "/"}
MOST_CHANGES = 4


def tell_backward(story: Story, steps: int) -> None:
    """Tell a story with ``steps`` changes whose start is asked for.

    Raises:
        UnsuitableError: more than ``MOST_CHANGES`` steps, or numbers out of range; draw again.
    """
    if steps > MOST_CHANGES:
        raise UnsuitableError
    (name, he), thing = story.people(1)[0], story.pick(THINGS)
    words = {"name": name, "he": he, "He": he.capitalize(), "thing": thing}
    value = story.number(5, 100)
    changes: list[tuple[str, int, int]] = []
    story.tell(OPENINGS, **words)
    for _ in range(steps):
        change = story.pick([c for c in CHANGES if c not in [old for old, _, _ in changes[-1:]]])
        value, n = _change(story, change, value)
        changes.append((change, n, value))
        story.tell(CHANGES[change], **words, n=n)
    story.tell(ENDS, **words, n=value)
    for change, n, after in reversed(changes):
        story.solve(thing, after, UNDONE[change], n)
    story.ask(QUESTIONS, **words)
    story.moves = [change for change, _, _ in changes]


def _change(story: Story, change: str, value: int) -> tuple[int, int]:
    """Change the number; return it and the number of the change."""
    if change == "doubled":
        if value * 2 > LARGEST:
            raise UnsuitableError
        return value * 2, 2
    if change == "found":
        n = story.number(2, min(60, LARGEST - value))
        return value + n, n
    n = story.number(2, min(60, value - 2))
    return value - n, n
