"""Python literals, as in CRUXEval: what a function returns."""

import ast
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from pyramid_moa.grading.json_answer import answer_field, looks_like_json
from pyramid_moa.grading.markers import after_phrase
from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import Piece, last_match, tail

__all__ = ["PythonLiteralGrader", "is_literal"]

_LONGEST_LITERAL = 10_000
_DEEPEST_LITERAL = 40
_MOST_EQUALS_SIGNS = 20
_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}
_TAGGED = re.compile(r"\[ANSWER\]((?:(?!\[ANSWER\]).){0,20000}?)\[/ANSWER\]", re.DOTALL)
_CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n((?:(?!```).)*?)\n?```", re.DOTALL)
_ASSERT = re.compile(r"\bassert\b[^\n]*==[^\n]*")
_BACKSLASHES = re.compile(r"\\(.)", re.DOTALL)
_RAW_PREFIX = re.compile(r"(?<!\w)[rR][bB]?['\"]")


@dataclass(frozen=True)
class PythonLiteralGrader:
    """Two answers are equal when they are equal as Python values.

    ``1 == 1.0`` as in Python, but ``1 != True``, at any depth. A string may stand without its
    quotes, which JSON answer fields lose: ``abc`` equals ``'abc'``, and ``12`` equals both ``'12'``
    and ``12``.
    """

    name: str = "python-literal"
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        """Find the literal that a response gives as its answer.

        It is the JSON answer field, else between ``[ANSWER]`` tags, else after
        ``assert f(...) ==``, else the last line of the last code block, else after "the answer
        is", else the last line.
        """
        window, offset = tail(text)
        field = answer_field(window, null="None")
        if field is not None:
            # Kept with the white space inside its quotes: it may be a string without quotes of its
            # own, and an empty one is the empty string.
            piece = _right_hand_side(field).shifted(offset)
            return Extraction(piece.text, piece.start, piece.end)
        found = _find(window)
        return _right_hand_side(found).shifted(offset).extraction() if found else None

    def equal(self, a: str, b: str) -> bool:
        """Compare as values, else as the text of a string."""
        first, second = _read(a), _read(b)
        return (
            first.bare == second.bare
            or (first.value is not None and first.value == second.value)
            or first.is_string(second)
            or second.is_string(first)
        )


@dataclass(frozen=True)
class _Reading:
    """What a text may mean.

    Attributes:
        value: a value with its types, or None where the text is no literal.
        raw: the text.
        bare: the text as a string without quotes, white space around it dropped.
    """

    value: Hashable | None
    raw: str
    bare: str

    def is_string(self, other: "_Reading") -> bool:
        """Say whether this is a string literal, and the other its text without quotes."""
        return self.value in (("str", other.raw), ("str", other.bare))


@lru_cache(maxsize=8192)
def _read(text: str) -> _Reading:
    """Read an answer as a literal and as the text of a string without quotes."""
    piece = _right_hand_side(Piece.of(text, 0, len(text)))
    bare = piece.text.strip()
    value = _value(_JSON_WORDS.get(bare, bare))
    if value is None and len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
        # Quotes around what holds line breaks or the same quotes: '{'a': 1}'.
        bare = bare[1:-1]
        value = _value(bare)
    return _Reading(value, text, bare or text)


def _value(text: str) -> Hashable | None:
    """Evaluate a literal of bounded size; None where it is none."""
    if len(text) > _LONGEST_LITERAL or _depth(text) > _DEEPEST_LITERAL:
        return None
    try:
        return _typed(ast.literal_eval(_without_odd_escapes(text)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def is_literal(text: str) -> bool:
    """Say whether a text is a Python literal of bounded size."""
    return _value(text.strip()) is not None


def _depth(text: str) -> int:
    """Bound the nesting from above: brackets, and signs in a row."""
    depth = deepest = signs = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
        signs = signs + 1 if character in "+-~ " else 0
        deepest = max(deepest, signs if character != " " else 0)
    return deepest


def _without_odd_escapes(text: str) -> str:
    r"""Double the backslash of escapes unknown to Python, as ``\d``: same value, no warning."""
    if "\\" not in text or _RAW_PREFIX.search(text):
        return text
    known = "\n\\'\"abfnrtv01234567NuUx"
    return _BACKSLASHES.sub(lambda m: m.group() if m.group(1) in known else f"\\{m.group()}", text)


def _typed(value: object) -> Hashable:
    """Turn a value into one that is equal to another only where the types agree as well."""
    match value:
        case list() | tuple():
            return (type(value).__name__, tuple(_typed(item) for item in value))
        case set():
            return ("set", frozenset(_typed(item) for item in value))
        case dict():
            return ("dict", frozenset((_typed(key), _typed(item)) for key, item in value.items()))
        case bool() | str() | bytes():
            return (type(value).__name__, value)
        case int() | float() | complex():
            return ("number", value)
        case _:  # None and Ellipsis
            return (type(value).__name__, None)


def _find(text: str) -> Piece | None:
    """Try one place after the other."""
    for pattern, group in ((_TAGGED, 1), (_ASSERT, 0)):
        if match := last_match(pattern, text):
            return Piece.of(text, *match.span(group))
    if match := last_match(_CODE_BLOCK, text):
        return _last_line(text, *match.span(1))
    if looks_like_json(text):
        return None  # cut short before its answer
    return after_phrase(text) or _last_line(text, 0, len(text))


def _last_line(text: str, start: int, end: int) -> Piece | None:
    """Cut the last line that is not blank."""
    whole = Piece.of(text, start, end)
    line_start = max(whole.start, text.rfind("\n", whole.start, whole.end) + 1)
    piece = Piece.of(text, line_start, whole.end)
    return piece if piece.text else None


def _right_hand_side(piece: Piece) -> Piece:
    """Reduce ``assert f(...) == literal`` to its literal; anything else stays."""
    if not piece.text.lstrip().startswith("assert ") or len(piece.text) != piece.end - piece.start:
        return piece
    signs = re.finditer("==", piece.text)
    for _, sign in zip(range(_MOST_EQUALS_SIGNS), signs, strict=False):
        side = Piece.of(piece.text, sign.end(), len(piece.text))
        if side.text and _value(side.text) is not None:
            return side.shifted(piece.start)
    last = piece.text.rfind("==")
    return (
        Piece.of(piece.text, last + 2, len(piece.text)).shifted(piece.start) if last >= 0 else piece
    )
