"""Token counts where no model has counted: an estimate, and marked as one everywhere."""

import math
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

__all__ = ["estimate_tokens"]

# Bytes of UTF-8: a piece that is no longer is one token, and so is each so many beyond.
_SHORT_PIECE = 16
_BYTES_PER_TOKEN = 4
# The last character of two bytes. Beyond it are the scripts in which a character is about a token.
_LAST_NARROW = "\u07ff"


def estimate_tokens(text: str) -> int:
    """Count the words, numbers, marks and spaces that GPT-2's splitting rule finds, by length.

    A byte-pair vocabulary merges within these pieces, never across them, and with vocabularies of
    30,000 and more most English words are one token: for English the count comes close, mostly
    from below. A piece of more than 16 bytes, such as a run of letters or spaces, is one token and
    one more for each 4 bytes beyond. A character of three or four bytes (Chinese, Japanese and
    Korean, symbols) is a token by itself.

    Args:
        text: a prompt or an answer.

    Returns:
        The estimated number of tokens.
    """
    return sum(
        _piece_tokens(text[start:end], len(piece))
        for piece, (start, end) in _splitter().pre_tokenize_str(text)
    )


def _piece_tokens(piece: str, narrow_bytes: int) -> int:
    """Estimate the tokens of one piece."""
    wide = 0
    if len(piece) != narrow_bytes:  # it isn't ASCII
        narrow = "".join(character for character in piece if character <= _LAST_NARROW)
        wide, narrow_bytes = len(piece) - len(narrow), len(narrow.encode())
    return max(1, wide) + math.ceil(max(0, narrow_bytes - _SHORT_PIECE) / _BYTES_PER_TOKEN)


@cache
def _splitter() -> "PreTokenizer":
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False)
