"""The ``"answer"`` field of a JSON response, whole or broken.

Models asked for ``{"reasoning": ..., "answer": ...}`` leave quotes and line breaks unescaped, stop
in the middle, wrap the object in a code block or write on after it. The field is found all the
same.
"""

import json
import re

from pyramid_moa.grading.spans import Piece, last_match

__all__ = ["answer_field", "looks_like_json"]

_KEY = re.compile(r"""(?:\b|(?<=\\n))answer\\?["'”]\s{0,20}:\s{0,20}""", re.IGNORECASE)
_OPENING = re.compile(r"""(?P<escaped>\\?)(?P<quote>["'“])""")
_OBJECT = re.compile(r"""\s*(?:```(?:json)?\s*)?\{\s*["']""")
_STOPS = re.compile(r"""\\.|["'”]""", re.DOTALL)
# What stands after the closing quote of the last field of a sound object, or before another key.
_SURE_END = re.compile(r'\s*(?:\}\s*(?:```|\Z)|\Z|,\s*"\w{1,40}"\s*:)')
_LIKELY_END = re.compile(r"\s*(?:[},]|```|\n)")
_BARE_END = re.compile(r'\n|\}|```|,\s*"|\Z')
# A value of several lines, such as a list, is read as JSON when it is no longer than this.
_LONGEST_VALUE = 20_000
# Half a surrogate pair can be written in JSON and nowhere else.
_SURROGATE = re.compile("[\ud800-\udfff]")
# Single-backslash LaTeX that JSON would take for \b, \f, \n, \r, \t or \u.
_LATEX = re.compile(
    r"(?<!\\)((?:\\\\)*)\\(?=(?:bar|begin|beta|big|binom|bmod|boxed|bullet|"
    r"frac|forall|ne|neq|neg|not|notin|nu|nabla|rangle|rceil|rfloor|rho|right|"
    r"tan|tanh|tau|text[a-z]*|tfrac|theta|tilde|times|to|triangle|underline|union|upsilon)"
    r"(?![a-z]))"
)


def answer_field(text: str, *, latex: bool = False, null: str = "") -> Piece | None:
    r"""Find the value of the last ``"answer"`` key.

    Args:
        text: the response.
        latex: whether ``\frac`` inside the value is LaTeX rather than a form feed and "rac".
        null: what an unquoted null is read as.

    Returns:
        The value with its escapes resolved (a number, list or other value as it was written),
        perhaps empty, and the place where it stands, without quotes; None where there is no key.
    """
    key = last_match(_KEY, text)
    if key is None:
        return None
    start = key.end()
    opening = _OPENING.match(text, start)
    if opening:
        end = -1
        if opening["escaped"]:
            end = text.find("\\" + opening["quote"], opening.end())
        if end < 0:
            end = _closing_quote(text, opening.end(), quote=opening["quote"])
        return Piece(_unescape(text[opening.end() : end], latex=latex), opening.end(), end)
    piece = _bare(text, start)
    return Piece(null, piece.start, piece.end) if piece.text == "null" else piece


def looks_like_json(text: str) -> bool:
    """Say whether a response begins as a JSON object, so that words in it are no answer."""
    return _OBJECT.match(text) is not None


def _closing_quote(text: str, start: int, *, quote: str) -> int:
    """Find where a string's content ends, the quotes inside it perhaps unescaped."""
    quote = "”" if quote == "“" else quote
    likely = last_on_line = None
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    for stop in _STOPS.finditer(text, start):
        if stop.group() != quote:
            continue
        if _SURE_END.match(text, stop.end()):
            return stop.start()
        if likely is None and _LIKELY_END.match(text, stop.end()):
            likely = stop.start()
        if stop.start() < line_end:
            last_on_line = stop.start()
    return next((end for end in (likely, last_on_line) if end is not None), line_end)


def _unescape(raw: str, *, latex: bool) -> str:
    """Resolve JSON escapes; those that JSON does not know stay as they are."""
    if latex:
        raw = _LATEX.sub(r"\1\\\\", raw)
    try:
        value = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return _unescape_broken(raw)
    return _SURROGATE.sub("\ufffd", str(value))


def _unescape_broken(raw: str) -> str:
    """Resolve the plain escapes of a string that is not sound JSON."""
    plain = {'\\"': '"', "\\\\": "\\", "\\/": "/", "\\n": "\n"}
    return re.sub(r"\\.", lambda match: plain.get(match.group(), match.group()), raw)


def _bare(text: str, start: int) -> Piece:
    """Read a number, list, object or unquoted word that begins at ``start``."""
    if text[start : start + 1] in ("[", "{"):
        window = text[start : start + _LONGEST_VALUE]
        try:
            _, length = json.JSONDecoder().raw_decode(window)
        except (ValueError, RecursionError):
            length = _balanced(window)
        return Piece.of(text, start, start + length)
    end = _BARE_END.search(text, start)
    piece = Piece.of(text, start, end.start() if end else len(text))
    return Piece.of(text, piece.start, piece.start + len(piece.text.rstrip(",")))


def _balanced(window: str) -> int:
    """Count the characters up to the bracket that closes the first one, else to the line's end."""
    depth = 0
    for bracket in re.finditer(r"[\[\](){}]", window):
        depth += 1 if bracket.group() in "[({" else -1
        if depth == 0:
            return bracket.end()
    line_end = window.find("\n")
    return len(window) if line_end < 0 else line_end
