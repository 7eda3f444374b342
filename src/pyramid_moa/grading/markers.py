r"""Places in a response that announce its answer: ``\boxed{}``, "the answer is"."""

import re

from pyramid_moa.grading.spans import Piece, last_match

__all__ = ["after_phrase", "last_boxed"]

_BOXED = re.compile(r"\\f?box(?:ed)?\s?\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
# Every repetition is bounded, so that the search stays linear.
_PHRASE = re.compile(
    r"(?P<final>\bfinal\s{1,3})?\banswer\b(?:\s{1,3}to\s[^\n.:=]{0,80}?)?[*_`\s]{0,5}"
    r"(?P<link>\bis\b|\bwas\b|:|=)(?:\s{0,3}:)?[*_\s]{0,5}",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_LONGEST_SENTENCE = 500
# A bare "Answer:" with more lines below it announces reasoning, unless so few words follow.
_SHORT_ANSWER_WORDS = 3
_LINE_END = re.compile(r"[ \t.!?*_`]{0,10}(?:\n|\Z)")
_TEXT_END = re.compile(r"[\s.!?*_`]*\Z")


def last_boxed(text: str) -> Piece | None:
    r"""Find what stands in the last ``\boxed{...}``, with matching braces.

    A box that is never closed ends with its line.

    Returns:
        The content, or None where there is no box or it is empty.
    """
    opening = last_match(_BOXED, text)
    if opening is None:
        return None
    depth = 1
    for brace in _BRACES.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            end = brace.start()
            break
    else:
        line_end = text.find("\n", opening.end())
        end = len(text) if line_end < 0 else line_end
    piece = Piece.of(text, opening.end(), end)
    return piece if piece.text else None


def after_phrase(text: str) -> Piece | None:
    """Find what follows the last "the answer is", "Final answer:" or the like.

    Returns:
        The rest of the sentence, or None where there is no such phrase or nothing follows.
    """
    found = None
    for phrase in _PHRASE.finditer(text):
        piece = _rest_of_sentence(text, phrase.end())
        if piece.text and (phrase["final"] or phrase["link"] != ":" or _is_short(text, piece)):
            found = piece
    return found


def _rest_of_sentence(text: str, start: int) -> Piece:
    """Cut the sentence that begins at ``start``."""
    limit = min(len(text), start + _LONGEST_SENTENCE)
    sentence = _SENTENCE_END.search(text, start, limit)
    return Piece.of(text, start, sentence.start() if sentence else limit)


def _is_short(text: str, piece: Piece) -> bool:
    """Say whether a piece is a short answer on a line of its own, or the end of the text."""
    if len(piece.text.split()) <= _SHORT_ANSWER_WORDS and _LINE_END.match(text, piece.end):
        return True
    return _TEXT_END.match(text, piece.end) is not None
