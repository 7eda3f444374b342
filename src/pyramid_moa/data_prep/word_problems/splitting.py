"""Which split a problem belongs to, by what it asks and not by how it is worded.

Two hold-outs, both by SHA-256, so that they are the same on every machine and need no list:

* by numbers: a tenth of all (scenario, equations) never appears in the training split, whatever
  names, phrasings or idle remarks surround it;
* by composition: of problems with four or more steps, a twelfth of all skeletons (scenario and
  sequence of moves) never appears in the training split, whatever the numbers.

What is held out is dealt to validation and test by a further part of the hash of the numbers, so
those two do not meet either.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyramid_moa.data_prep.word_problems.story import Story

__all__ = ["SPLITS", "Split", "is_novel_skeleton", "split_of"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

HELD_OUT_NUMBERS = 0.10
NOVEL_SKELETONS = 1 / 12
LONG = 4
"""From this number of steps on, skeletons are held out."""


def _fraction(text: str) -> float:
    """Map a text to [0, 1), evenly."""
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big") / 2**48


def is_novel_skeleton(scenario: str, story: Story) -> bool:
    """Whether the story's sequence of moves is kept out of the training split."""
    if len(story.steps) < LONG:
        return False
    return _fraction(f"skeleton|{scenario}|{','.join(story.moves)}") < NOVEL_SKELETONS


def split_of(scenario: str, story: Story) -> Split:
    """Return the one split in which this problem may appear."""
    numbers = f"{scenario}|{';'.join(step.equation for step in story.steps)}"
    if not is_novel_skeleton(scenario, story) and _fraction(f"numbers|{numbers}") >= (
        HELD_OUT_NUMBERS
    ):
        return "train"
    return "validation" if _fraction(f"part|{numbers}") < 1 / 2 else "test"
