"""Which characters of a response each generated token covers."""

from collections.abc import Sequence

__all__ = ["token_spans"]

# How far ahead a token's text is looked for where tokens and text do not match byte for byte.
_LOOK_AHEAD = 4


def token_spans(text: str, pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Find the characters of a response that its tokens cover.

    Where the tokens' bytes, put together, contain the text, spans are exact: a token with a part
    of a character covers that character, and tokens outside the text (an end token, a stop text
    that was cut off, a preamble that a server keeps apart) are empty spans at its beginning or
    end. Otherwise (a server that writes tokens in a way of its own) each token is looked for
    from where the one before it ended, and a run of tokens that are not found shares the
    characters between its neighbours evenly: approximate, but in order and inside the text. Of
    such a run, only what lies between its tokens that are written as nothing (parts of a
    character) has a share where there are any: an end token has none.

    Args:
        text: the response.
        pieces: the UTF-8 bytes of each token, in order.

    Returns:
        One (start, end) a token, in characters; starts and ends never decrease.
    """
    whole, wanted = b"".join(pieces), text.encode()
    shift = 0 if whole.startswith(wanted) else whole.rfind(wanted)
    return _aligned(text, pieces) if shift < 0 else _exact(text, pieces, shift)


def _exact(text: str, pieces: Sequence[bytes], shift: int) -> list[tuple[int, int]]:
    """Count bytes: the text begins ``shift`` bytes into the tokens."""
    character: Sequence[int] = range(len(text) + 1)
    if not text.isascii():
        character = [index for index, char in enumerate(text) for _ in char.encode()]
        character.append(len(text))
    last = len(character) - 1
    spans = []
    position = -shift
    for piece in pieces:
        first, position = position, position + len(piece)
        start, end = first, position
        if first < 0 or position > last:
            start, end = min(max(first, 0), last), min(max(position, 0), last)
        spans.append(
            (character[start], character[end - 1] + 1)
            if end > start
            else (character[start], character[start])
        )
    return spans


def _aligned(text: str, pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Look for each token in turn and share out what lies between."""
    found: list[tuple[int, int] | None] = []
    cursor = 0
    for piece in pieces:
        span = _find(text, piece.decode(errors="replace"), cursor)
        cursor = span[1] if span else cursor
        found.append(span)
    spans: list[tuple[int, int]] = []
    run: list[bytes] = []
    for span, piece in [*zip(found, pieces, strict=True), ((len(text), len(text)), b"")]:
        if span is None:
            run.append(piece)
            continue
        before = spans[-1][1] if spans else 0
        spans.extend(_shared(before, span[0], run))
        spans.append(span)
        run = []
    return spans[:-1]


def _find(text: str, token: str, cursor: int) -> tuple[int, int] | None:
    # Some tokenizers' tokens lose their leading space when they are written alone, or show it as
    # a lower one eighth block.
    for form in (token, token.replace("\u2581", " "), token.strip("\u2581\ufffd \n\r\t")):
        start = text.find(form, cursor, cursor + len(form) + _LOOK_AHEAD) if form else -1
        if start >= 0:
            return start, start + len(form)
    return None


def _shared(start: int, end: int, run: Sequence[bytes]) -> list[tuple[int, int]]:
    """Split characters evenly among tokens; a character on a border belongs to both."""
    parts = [index for index, piece in enumerate(run) if not _written(piece)]
    first, last = (parts[0], parts[-1] + 1) if parts else (0, len(run))
    width, count = end - start, last - first
    return [
        *[(start, start)] * first,
        *(
            (start + width * index // count, start - (-width * (index + 1) // count))
            for index in range(count)
        ),
        *[(end, end)] * (len(run) - last),
    ]


def _written(piece: bytes) -> str:
    return piece.decode(errors="replace").strip("\ufffd")
