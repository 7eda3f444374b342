"""Numbers as people and models write them, as exact fractions."""

import re
from fractions import Fraction
from functools import lru_cache

__all__ = ["NUMBER", "parse_number", "read_number", "tidy_number"]

# Thousands are set apart by commas, in LaTeX also as 1{,}000, 1,\!000 or 1\,000; in India 1,00,000.
# The repetition is bounded, so that a search stays linear.
_COMMA = r"(?:,\\!|\{,\}|\\[,!]|,)"
_GROUPED = rf"\d{{1,3}}(?:{_COMMA}\d{{2,3}}){{0,20}}{_COMMA}\d{{3}}(?!\d)(?:\.\d+)?"
_PLAIN = rf"(?:{_GROUPED}|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?!\w))?"
_RATIO = r"/\d+(?:\.\d+)?(?!\s?/\s?\d)"
_LATEX_RATIO = r"\\[dt]?frac\s?(?:\{\s?\d+\s?\}\s?\{\s?\d+\s?\}|\d\d)"
# A minus is a sign where no operand stands before it; "- 5" is a bullet or a subtraction. The
# minutes of 2:00 are passed over.
NUMBER = re.compile(
    r"(?!(?<=\d:)\d\d(?!\d)|(?<=\d:\d)\d(?!\d))"
    r"(?P<sign>(?<![\w)\]}%.])[-\u2212\u2013](?=(?:\\?[$£€]\s?)?(?:[\d.]|\\[dt]?frac)))?"
    r"(?:\\?[$£€]\s?)?"
    rf"(?P<body>(?:\d{{1,9}}\s?)?{_LATEX_RATIO}"
    rf"|\d{{1,9}} \d{{1,9}}{_RATIO}"
    rf"|{_PLAIN}(?:{_RATIO})?)",
    re.ASCII,
)

# Longer numbers are not answers; exact arithmetic with them would only burn time.
_LONGEST_NUMBER = 400
_LONGEST_TEXT = 1_000
_SEPARATORS = re.compile(r",\\!|\{,\}|\\[,!]|,")
_LATEX_PARTS = re.compile(r"\\[dt]?frac\s?\{?\s?(\d+?)\s?\}?\s?\{?\s?(\d+)\s?\}?$")
_ZEROS = re.compile(r"(\.\d*?)0+(?=$|[eE])")


# An answer is compared with the gold, and with every other answer to its question.
@lru_cache(maxsize=4096)
def parse_number(text: str) -> Fraction | None:
    """Read a text that holds one number, with currency signs or units around it or not.

    Args:
        text: such as ``-1,234.50``, ``$3``, ``3/4``, ``1 1/2``, ``60%`` (read as 60) or
            ``5 dollars``.

    Returns:
        The exact value, or None where the text holds no number, several, or one of more than 400
        characters.
    """
    if len(text) > _LONGEST_TEXT:
        return None
    found = NUMBER.finditer(text)
    first = next(found, None)
    if first is None or next(found, None) is not None:
        return None
    return read_number(first)


def read_number(match: re.Match[str]) -> Fraction | None:
    """Give the value of a match of ``NUMBER``, None where it is too long or divides by zero."""
    tidy = tidy_number(match)
    if tidy is None:
        return None
    if tidy.isdigit():
        return Fraction(int(tidy))  # most are
    negative = tidy.startswith("-")
    whole, _, rest = tidy.lstrip("-").rpartition(" ")
    numerator, _, denominator = rest.partition("/")
    try:
        value = Fraction(numerator) / Fraction(denominator or "1") + Fraction(whole or "0")
    except ZeroDivisionError:
        return None
    return -value if negative else value


def tidy_number(match: re.Match[str]) -> str | None:
    """Write a match of ``NUMBER`` plainly: no separators, no idle zeros; a ratio stays a ratio."""
    body = match.group("body")
    if len(body) > _LONGEST_NUMBER:
        return None
    negative = match.group("sign")
    if body.isdigit() and not negative:
        return _tidy_part(body)  # most are
    body = _SEPARATORS.sub("", body)
    latex = _LATEX_PARTS.search(body)
    if latex:
        whole = body[: latex.start()].strip()
        body = f"{whole} {latex.group(1)}/{latex.group(2)}".strip()
    parts = re.split(r"([/\s])", body)
    parts[::2] = [_tidy_part(part) for part in parts[::2]]
    tidy = re.sub(r"\s", " ", "".join(parts))
    return f"-{tidy}" if negative and tidy != "0" else tidy


def _tidy_part(part: str) -> str:
    """Drop idle zeros before and after."""
    if "." in part:
        part = _ZEROS.sub(r"\1", part).rstrip(".").replace(".e", "e").replace(".E", "E")
    part = part.lstrip("0")
    return part if part[:1].isdigit() else f"0{part}"
