"""What one answer says of itself: numbers read off its text, its counts and its log-probabilities.

Every group has the same names for every member, so that one router can read any pyramid. A value
that is not known (no text was recorded, a backend gives no log-probabilities) is NaN.
"""

import math
import re

from pyramid_moa.records import Generation, LogprobStatistics
from pyramid_moa.router_model.arithmetic import arithmetic_signs

__all__ = ["ANSWER_SIGNS", "answer_signs"]

_LONGEST = 20_000
# Beyond it a value says nothing, and its square would overflow where it is standardised.
_LARGEST = 1e12
_TAIL = 200
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LONG_DECIMAL = re.compile(r"\.\d{3,}")
# Words of someone who reasons, doubts or corrects: their share differs between right and wrong
# answers of one model more than their meaning would tell.
_HEDGE = re.compile(
    r"\b(?:however|but|assum(?:e|ing)|approximately|about|wait|actually|mistake|since|because|"
    r"therefore|so|thus|suppose|maybe|probably|seems|cannot|unclear|not)\b"
)
_OPERATORS = frozenset("+-*/=%^")

ANSWER_SIGNS: dict[str, tuple[str, ...]] = {
    "confidence": ("mean", "minimum", "tail_mean", "answer_mean", "answer_minimum"),
    "stated": ("confidence",),
    "lengths": ("characters", "tokens", "numbers", "lines", "sentences", "cut_off"),
    "form": (
        "digit_share",
        "operator_share",
        "equals_signs",
        "hedges",
        "question_marks",
        "backslashes",
        "long_decimals",
        "distinct_words",
        "words_of_question",
        "answer_missing",
        "answer_length",
        "answer_digits",
        "answer_letters",
        "answer_marks",
        "answer_negative",
        "answer_fraction",
        "answer_brackets",
        "answer_quotes",
        "answer_in_question",
        "answer_repeated",
        "answer_at_end",
    ),
    "arithmetic": (
        "wrong_equations",
        "equations",
        "unused_numbers",
        "new_answer",
        "integer",
        "size",
        "wrong_count",
        "unused_count",
        "introduced_numbers",
        "last_result_is_answer",
        "size_over_question",
        "round_number",
        "broken_results",
        "largest_result",
        "negative_result",
    ),
}


def answer_signs(group: str, question: str, generation: Generation | None) -> list[float]:
    """Compute the signs of one group for one answer.

    Args:
        group: a key of ``ANSWER_SIGNS``.
        question: its text.
        generation: the answer, or None where the member was not asked.

    Returns:
        Values in the order of ``ANSWER_SIGNS[group]``.
    """
    if generation is None or generation.error is not None:
        return [math.nan] * len(ANSWER_SIGNS[group])
    if group == "confidence":
        logprobs = generation.logprobs or LogprobStatistics()
        return [_known(getattr(logprobs, name)) for name in ANSWER_SIGNS[group]]
    if group == "stated":
        return [_known(generation.confidence)]
    if group == "lengths":
        return _lengths(generation)
    if group == "form":
        return _form(question, generation)
    signs = arithmetic_signs(question, generation.response, generation.answer)
    return [getattr(signs, name) for name in ANSWER_SIGNS["arithmetic"]]


def _lengths(generation: Generation) -> list[float]:
    text, tokens = generation.response, generation.completion_tokens
    reason = generation.finish_reason
    counts = (
        [len(text), tokens, len(_NUMBER.findall(text[:_LONGEST])), text.count("\n")]
        if text is not None
        else [None, tokens, None, None]
    )
    sentences = text.count(". ") if text is not None else None
    return [
        *(math.nan if count is None else math.log1p(count) for count in (*counts, sentences)),
        math.nan if reason is None else float(reason == "length"),
    ]


def _form(question: str, generation: Generation) -> list[float]:
    answer = generation.answer or ""
    text = generation.response
    return [
        *(_text_form(question, text[:_LONGEST]) if text else [math.nan] * 9),
        float(generation.answer is None),
        math.log1p(len(answer)),
        math.log1p(sum(character.isdigit() for character in answer)),
        math.log1p(sum(character.isalpha() for character in answer)),
        math.log1p(sum(not (c.isalnum() or c.isspace()) for c in answer)),
        float(answer.startswith("-")),
        float("/" in answer or "frac" in answer),
        float(any(character in "[{(" for character in answer)),
        float("'" in answer or '"' in answer),
        float(bool(answer) and answer in question[:_LONGEST]),
        math.log1p(text.count(answer)) if text and answer else math.nan,
        float(answer in text[-_TAIL:]) if text and answer else math.nan,
    ]


def _text_form(question: str, text: str) -> list[float]:
    lower = text.lower()
    words = _WORD.findall(lower)
    distinct = set(words)
    asked = set(_WORD.findall(question[:_LONGEST].lower()))
    return [
        sum(map(str.isdigit, text)) / len(text),
        sum(map(text.count, _OPERATORS)) / len(text),
        math.log1p(text.count("=")),
        math.log1p(len(_HEDGE.findall(lower))),
        math.log1p(text.count("?")),
        math.log1p(text.count("\\")),
        math.log1p(len(_LONG_DECIMAL.findall(text))),
        len(distinct) / len(words) if words else math.nan,
        len(distinct & asked) / len(asked) if words and asked else math.nan,
    ]


def _known(value: float | None) -> float:
    return float(value) if value is not None and abs(value) <= _LARGEST else math.nan
