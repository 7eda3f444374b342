"""The text of a generated answer, cut before its stop text, and the characters of each token."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

__all__ = ["AnswerText", "answer_length", "answer_text", "find_stop"]

_OPTIONS = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True, kw_only=True)
class AnswerText:
    """What a row of token ids says.

    Attributes:
        text: the answer, without the stop text that ended it and what came after.
        spans: (start, end) of each token in it, in characters; starts and ends never decrease,
            and tokens of the stop text are empty spans at the end.
        stopped: whether a stop text was found.
    """

    text: str
    spans: Sequence[tuple[int, int]]
    stopped: bool


def answer_text(
    tokenizer: Any,  # noqa: ANN401 - untyped library
    ids: Sequence[int],
    stop: Sequence[str],
) -> AnswerText:
    """Decode an answer.

    Args:
        tokenizer: a tokenizer of transformers.
        ids: the generated tokens; special ones have no text.
        stop: texts that end an answer.
    """
    ids = list(ids)
    text = cast("str", tokenizer.decode(ids, **_OPTIONS))
    cut = find_stop(text, stop)
    spans = _spans(tokenizer, ids, text)
    if cut is None:
        return AnswerText(text=text, spans=spans, stopped=False)
    clipped = [(min(start, cut), min(end, cut)) for start, end in spans]
    return AnswerText(text=text[:cut], spans=clipped, stopped=True)


def answer_length(
    tokenizer: Any,  # noqa: ANN401 - untyped library
    ids: Sequence[int],
    stop: Sequence[str],
) -> int | None:
    """Count the tokens up to the one that completes a stop text; None where there is none.

    Args:
        tokenizer: a tokenizer of transformers.
        ids: the generated tokens.
        stop: texts that end an answer.
    """
    ids = list(ids)

    def holds(count: int) -> bool:
        return find_stop(cast("str", tokenizer.decode(ids[:count], **_OPTIONS)), stop) is not None

    if not stop or not holds(len(ids)):
        return None
    return bisect_left(range(1, len(ids) + 1), True, key=holds) + 1


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Find where the first stop text begins, or None."""
    return min((at for at in (text.find(item) for item in stop) if at >= 0), default=None)


def _spans(tokenizer: Any, ids: list[int], text: str) -> list[tuple[int, int]]:  # noqa: ANN401 - untyped
    pieces = [cast("str", tokenizer.decode([token], **_OPTIONS)) for token in ids]
    if "".join(pieces) == text:
        spans, end = [], 0
        for piece in pieces:
            start, end = end, end + len(piece)
            spans.append((start, end))
        return spans
    # Tokens that share a character, or that drop a leading space when alone: measure prefixes
    # instead, which is right and slower. What a prefix has in common with the text is complete; a
    # part of a character stands as one mark or several in its place, so that an end can lie beyond
    # the next one.
    prefixes = [tokenizer.decode(ids[:count], **_OPTIONS) for count in range(len(ids) + 1)]
    starts = [_common(prefix, text) for prefix in prefixes[:-1]]
    ends = [min(len(prefix), len(text)) for prefix in prefixes[1:]]
    for index in range(len(ends) - 2, -1, -1):
        ends[index] = min(ends[index], ends[index + 1])
    return list(zip(starts, ends, strict=True))


def _common(a: str, b: str) -> int:
    """Characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
