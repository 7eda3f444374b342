"""Bookkeeping of numbers in a worked answer: do its equations hold, are all numbers used?"""

import math
import re
from dataclasses import dataclass

__all__ = ["ArithmeticSigns", "arithmetic_signs", "numeric_value"]

_LONGEST = 20_000
_NUMBER = r"\d{1,15}(?:\.\d{1,10})?"
_GAP = r"[ \t]{0,3}"
# Numbers are whole numbers of the text: never the tail or the head of a longer one.
_EQUATION = re.compile(
    rf"(?<![\d.])(-?{_NUMBER}(?:{_GAP}[-+*/x×÷]{_GAP}{_NUMBER}){{1,12}}){_GAP}={_GAP}"
    rf"(-?{_NUMBER})(?!\.?\d)"
)
# Before an equation: it is the end of a longer one, such as "(2 + 3) * 4 * 5 = 100", unless the
# sign is a bullet at the beginning of its line.
_GOES_ON = re.compile(r"(?:[-+*/×÷^]|[\d)][ \t]{0,3}x|\))[ \t]{0,3}\Z")
_BULLET = re.compile(r"(?:\A|\n)[ \t]{0,8}[-+*][ \t]{1,3}\Z")
_BEFORE = 12
_TERM = re.compile(rf"([-+*/x×÷]?){_GAP}({_NUMBER})")
_ANY_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,10})?")
# What may stand beside a number without changing it.
_NOISE = re.compile(r"[$€£]|(?<=\d),(?=\d{3}(?!\d))")
_SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "·": "*", "−": "-"}


@dataclass(frozen=True, kw_only=True)
class ArithmeticSigns:
    """Signs of one worked answer; NaN where there is nothing to see.

    Attributes:
        wrong_equations: share of the stated equations that do not hold.
        equations: log(1 + number of stated equations).
        unused_numbers: share of the question's numbers that the answer never mentions.
        new_answer: 1 where the answer is not the result of any stated equation.
        integer: 1 where the answer is a whole number.
        size: log10(1 + magnitude of the answer).
        wrong_count: log(1 + number of stated equations that do not hold).
        unused_count: log(1 + number of the question's numbers that the answer never mentions).
        introduced_numbers: log(1 + number of different numbers that the question does not have).
        last_result_is_answer: 1 where the last stated equation ends in the answer.
        size_over_question: log10 of the answer's magnitude over the question's largest number.
        round_number: 1 where ten divides the answer.
        broken_results: share of the stated results that are no whole numbers.
        largest_result: log10(1 + magnitude of the largest stated result).
        negative_result: 1 where a stated result is negative.
    """

    wrong_equations: float = math.nan
    equations: float = math.nan
    unused_numbers: float = math.nan
    new_answer: float = math.nan
    integer: float = math.nan
    size: float = math.nan
    wrong_count: float = math.nan
    unused_count: float = math.nan
    introduced_numbers: float = math.nan
    last_result_is_answer: float = math.nan
    size_over_question: float = math.nan
    round_number: float = math.nan
    broken_results: float = math.nan
    largest_result: float = math.nan
    negative_result: float = math.nan


def arithmetic_signs(question: str, response: str | None, answer: str | None) -> ArithmeticSigns:
    """Check the arithmetic that stands in a response.

    Args:
        question: the question's text.
        response: the worked answer, of which the first 20,000 characters are read; None where no
            text was recorded.
        answer: the extracted answer.

    Returns:
        The signs.
    """
    value, asked = numeric_value(answer), _numbers(question[:_LONGEST])
    signs: dict[str, float] = {}
    if value is not None:
        signs |= {
            "integer": float(value.is_integer()),
            "size": math.log10(1 + abs(value)),
            "round_number": float(value % 10 == 0),
        }
        if asked:
            signs["size_over_question"] = math.log10((abs(value) + 1) / (max(asked) + 1))
    if response is not None:
        signs |= _bookkeeping(asked, response[:_LONGEST], value)
    return ArithmeticSigns(**signs)


def numeric_value(answer: str | None) -> float | None:
    """The number that an answer is, or None where it is no finite one."""
    if answer is None:
        return None
    try:
        value = float(answer.replace(",", "").lstrip("$"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bookkeeping(asked: set[float], response: str, value: float | None) -> dict[str, float]:
    """What becomes of the numbers between question and answer."""
    results, wrong = _equations(response)
    said = _numbers(response)
    signs = {
        "equations": math.log1p(len(results)),
        "wrong_count": math.log1p(wrong),
        "introduced_numbers": math.log1p(len(said - asked)),
    }
    if asked:
        unused = len(asked - said)
        signs |= {"unused_numbers": unused / len(asked), "unused_count": math.log1p(unused)}
    if results:
        broken = sum(not _close(result, round(result)) for result in results)
        signs |= {
            "wrong_equations": wrong / len(results),
            "broken_results": broken / len(results),
            "largest_result": math.log10(1 + max(map(abs, results))),
            "negative_result": float(min(results) < 0),
        }
        if value is not None:
            signs |= {
                "new_answer": float(not any(_close(value, result) for result in results)),
                "last_result_is_answer": float(_close(value, results[-1])),
            }
    return signs


def _numbers(text: str) -> set[float]:
    return {float(number) for number in _ANY_NUMBER.findall(_NOISE.sub("", text))}


def _equations(response: str) -> tuple[list[float], int]:
    """Stated results, and how many of them are wrong."""
    text = response
    for name, sign in _SIGNS.items():
        text = text.replace(name, sign)
    text = _NOISE.sub("", text)
    results, wrong = [], 0
    for match in _EQUATION.finditer(text):
        before = text[max(match.start() - _BEFORE, 0) : match.start()]
        if _GOES_ON.search(before) and not _BULLET.search(before):
            continue
        computed = _evaluate(match[1])
        if computed is None:
            continue
        stated = float(match[2])
        results.append(stated)
        wrong += not _holds(computed, stated)
    return results, wrong


def _holds(computed: float, stated: float) -> bool:
    """A stated result may be rounded to a cent, or, where it is no whole number, to a whole."""
    to_a_whole = stated.is_integer() and not _close(computed, round(computed))
    return _close(computed, stated) or abs(computed - stated) <= (0.5 if to_a_whole else 0.0051)


def _evaluate(expression: str) -> float | None:
    """Value of numbers joined by + - * / with the usual precedence."""
    total, product = 0.0, None
    for sign, number in _TERM.findall(expression):
        value = float(number)
        if sign in ("", "+", "-"):
            total += product or 0.0
            product = -value if sign == "-" else value
        elif sign in ("*", "x", "×"):
            product = (product or 0.0) * value
        elif value == 0.0:
            return None
        else:
            product = (product or 0.0) / value
    total += product or 0.0
    return total if math.isfinite(total) else None


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)
