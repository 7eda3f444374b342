"""What a question says of its own difficulty, whoever answers it."""

import math
import re
from itertools import islice

__all__ = ["QUESTION_SIGNS", "question_signs"]

_LONGEST = 20_000
_MOST_NUMBERS = 50
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d{1,15}(?:,\d{3})*(?:\.\d{1,10})?")

QUESTION_SIGNS = (
    "characters",
    "words",
    "numbers",
    "lines",
    "sentences",
    "percent_signs",
    "currency_signs",
    "slashes",
    "question_marks",
    "parentheses",
    "brackets",
    "indentation",
    "largest_number",
    "decimals",
    "word_length",
    "distinct_words",
)


def question_signs(question: str) -> list[float]:
    """Compute the signs of a question; its first 20,000 characters are read.

    Args:
        question: its text.

    Returns:
        Values in the order of ``QUESTION_SIGNS``.
    """
    text = question[:_LONGEST]
    words = _WORD.findall(text.lower())
    numbers = [match[0].replace(",", "") for match in islice(_NUMBER.finditer(text), _MOST_NUMBERS)]
    counts = (
        len(question),
        len(words),
        len(numbers),
        text.count("\n"),
        text.count("."),
        text.count("%"),
        sum(text.count(sign) for sign in "$€£"),
        text.count("/"),
        text.count("?"),
        text.count("("),
        text.count("[") + text.count("{"),
        sum(len(line) - len(line.lstrip()) for line in text.split("\n")),
    )
    return [
        *(math.log1p(count) for count in counts),
        math.log10(1 + max(map(float, numbers), default=0.0)),
        float(any("." in number for number in numbers)),
        sum(map(len, words)) / len(words) if words else 0.0,
        len(set(words)) / len(words) if words else 0.0,
    ]
