"""LaTeX and other mathematics, compared by math-verify."""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from pyramid_moa.grading.json_answer import answer_field, looks_like_json
from pyramid_moa.grading.markers import after_phrase, last_boxed
from pyramid_moa.grading.math_process import verified
from pyramid_moa.grading.protocol import Extraction
from pyramid_moa.grading.spans import Piece, tail

__all__ = ["MathVerifyGrader"]

# What could only run into the time limit is not handed on: long texts, towers of powers.
_LONGEST_EXPRESSION = 300
_DEEPEST_EXPRESSION = 12
_HEAVY = re.compile(
    r"\^\s*(?:\w{1,20}|[({][^{}^]{0,60})\s*\^"  # a power of a power
    r"|(?:\^|\*\*)\s*[{(]?\s*-?\s*\d{5,}"  # a large exponent
    r"|\*\*\s*(?:\w{1,20}|\([^()*]{0,60})\s*\*\*"
    r"|(?:\d{4,}|[)}\]!])\s*!"  # a large factorial
    r"|\\d?binom\s*\{?\s*\d{5,}"
    r"|\d{1001,}"
)
_DELIMITERS = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_OPENING = re.compile(r"\$\$?|\\[(\[]")
_LONGEST_FORMULA = 2_000
_PLAIN_NUMBER = re.compile(r"-?(?:\d{1,300}|\d{1,3}(?:,\d{3}){1,90})(?:\.\d{1,300})?")
_PROSE = re.compile(r"[A-Za-z]{3,}[^\\$^=_\d]*\s[A-Za-z]{3,}")
_ROOT = re.compile(r"√\s?(?:\(([^()]{1,100})\)|(\w+))")
_SIGNS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "·": r"\cdot ", "÷": "/",
     "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "\u222a": r"\cup ", "∩": r"\cap ",
     "π": r"\pi ", "θ": r"\theta ", "φ": r"\phi ", "\u03b1": r"\alpha ", "β": r"\beta ",
     "∞": r"\infty ", "°": r"^\circ ", "²": "^2", "³": "^3",
     "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
)  # fmt: skip


@dataclass(frozen=True)
class MathVerifyGrader:
    """Two answers are equal when math-verify finds them so, in either order.

    Works in any thread. Expressions too long or too heavy for it are compared as text; those on
    which it spends more than five seconds count as unequal.
    """

    name: str = "math-verify"
    numeric: bool = False

    def extract(self, text: str) -> Extraction | None:
        r"""Find the expression that a response gives as its answer.

        It is the JSON answer field, else the last ``\boxed{}``, else what follows "the answer is",
        else the last formula, else the last line where it is short.
        """
        window, offset = tail(text)
        piece = _find(window)
        return piece.shifted(offset).extraction() if piece else None

    def equal(self, a: str, b: str) -> bool:
        """Compare symbolically."""
        first, second = _tidy(a), _tidy(b)
        if first == second:
            return True
        numbers = _plain_number(first), _plain_number(second)
        if numbers[0] is not None and numbers[1] is not None:
            # math-verify, too, rounds decimals to six places.
            return round(numbers[0], 6) == round(numbers[1], 6)
        if _is_text(first) or _is_text(second):
            return first.casefold().rstrip(".") == second.casefold().rstrip(".")
        return verified(*sorted((first, second)))


def _find(text: str) -> Piece | None:
    """Try one place after the other, and look for a box or formula inside what is found."""
    piece = answer_field(text, latex=True)
    if piece is not None:
        return _inner(piece)
    if piece := last_boxed(text):
        return piece
    if piece := after_phrase(text):
        return _inner(piece)
    if looks_like_json(text):
        return None  # cut short before its answer
    if formula := _last_formula(text):
        return formula
    whole = Piece.of(text, 0, len(text))
    line = Piece.of(text, max(whole.start, text.rfind("\n", 0, whole.end) + 1), whole.end)
    return line if len(line.text) <= _LONGEST_EXPRESSION else None


def _last_formula(text: str) -> Piece | None:
    r"""Find what the last ``$...$``, ``$$...$$``, ``\(...\)`` or ``\[...\]`` says."""
    found = None
    begin = 0
    while opening := _OPENING.search(text, begin):
        closing = _closing(text, opening)
        if closing is None:
            begin = opening.start() + 1
        else:
            found, begin = (opening.end(), closing.start), closing.stop
    return Piece.of(text, *found) if found else None


def _closing(text: str, opening: re.Match[str]) -> slice | None:
    """Find the delimiter that ends what an opening one begins.

    A dollar that has no partner on its line is money; a formula of more than 2,000 characters is
    none. Sought by ``str.find``: with a regular expression a text of nothing but opening delimiters
    takes a second.
    """
    closing = _DELIMITERS[opening.group()]
    start = opening.end()
    end = text.find(closing, start + 1, start + _LONGEST_FORMULA + len(closing))
    if end < 0 or (closing == "$" and "\n" in text[start:end]):
        return None
    return slice(end, end + len(closing))


def _inner(piece: Piece) -> Piece:
    """Reduce an answer to the box or the only formula in it, where it has one."""
    inner = last_boxed(piece.text)
    if inner is None:
        answer = piece.text.strip().rstrip(".")
        opening = _OPENING.match(answer)
        closing = _closing(answer, opening) if opening else None
        if opening is None or closing is None or closing.stop < len(answer):
            return piece
        inner = Piece.of(answer, opening.end(), closing.start)
    # Escapes may have moved the characters, so the place is that of the whole answer.
    return Piece(inner.text.strip(), piece.start, piece.end)


def _tidy(answer: str) -> str:
    """Strip delimiters and turn signs of Unicode into LaTeX."""
    text = answer.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) > len(opening) + len(closing) and text.startswith(opening):
            text = text.removeprefix(opening).removesuffix(closing).strip()
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text).translate(_SIGNS)
    return unicodedata.normalize("NFC", text).strip()


def _plain_number(text: str) -> Fraction | None:
    """Read an integer or decimal, which needs no computer algebra."""
    return Fraction(text.replace(",", "")) if _PLAIN_NUMBER.fullmatch(text) else None


def _is_text(text: str) -> bool:
    """Say whether math-verify should not see a text: empty, prose, or too much work."""
    if not text or len(text) > _LONGEST_EXPRESSION or _HEAVY.search(text):
        return True
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest > _DEEPEST_EXPRESSION or ("\\" not in text and _PROSE.match(text) is not None)
