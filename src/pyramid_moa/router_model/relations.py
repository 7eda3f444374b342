"""What two answers to one question have in common, beyond being equal or not."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.records import Generation
from pyramid_moa.router_model.arithmetic import numeric_value

__all__ = ["RELATIONS", "relations"]

_LONGEST = 20_000
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

# Same words, same numbers on the way, and how near two numeric answers are.
RELATIONS = ("same_words", "same_numbers", "closeness")


@dataclass(frozen=True, kw_only=True)
class _Content:
    words: frozenset[str]
    numbers: frozenset[str]
    value: float | None


def relations(generations: Sequence[Generation | None], *, numeric: bool) -> NDArray[np.float32]:
    """Compare every two answers.

    Two members that agree on an answer by the same numbers on the way agree for the same reasons;
    two that only end alike may have met by chance.

    Args:
        generations: one a member, None for one that was not asked.
        numeric: whether answers are numbers, which can be near each other.

    Returns:
        [M, M, R], symmetric, in the order of ``RELATIONS``; NaN where one of the two has no text,
        or no number. The diagonal is NaN.
    """
    contents = [_content(row, numeric=numeric) for row in generations]
    table = np.full((len(contents), len(contents), len(RELATIONS)), np.nan, dtype=np.float32)
    for first, one in enumerate(contents):
        for second in range(first):
            other = contents[second]
            if one is not None and other is not None:
                table[first, second] = table[second, first] = (
                    _overlap(one.words, other.words),
                    _overlap(one.numbers, other.numbers),
                    _closeness(one.value, other.value),
                )
    return table


def _content(row: Generation | None, *, numeric: bool) -> _Content | None:
    if row is None or row.error is not None:
        return None
    text = (row.response or "")[:_LONGEST]
    return _Content(
        words=frozenset(_WORD.findall(text.lower())),
        numbers=frozenset(_NUMBER.findall(text.replace(",", ""))),
        value=numeric_value(row.answer) if numeric else None,
    )


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity; NaN where there is nothing to compare."""
    if not one or not other:
        return math.nan
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _closeness(one: float | None, other: float | None) -> float:
    """1 for equal numbers, falling with their distance relative to their size."""
    if one is None or other is None:
        return math.nan
    return 1.0 - abs(one - other) / max(abs(one) + abs(other), 1e-9)
