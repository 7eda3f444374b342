"""Stretches of a message that are quoted from a prompt, found in time linear in both.

Written by hand: the search has to bear prompts of megabytes in an event loop that others wait for,
and texts that are made to slow it down.
"""

from collections.abc import Iterable

__all__ = ["without_quotations"]

# A stretch of this many characters that stands in the prompt too is taken for a quotation of it.
_WIDTH = 16
# Shorter prompts are words that any message may hold.
_SHORTEST = 4
_STEP = _WIDTH // 2
# Steps of a prompt that are looked at closely: some 20 ms.
_MOST_LOOKS = 20_000
_INSTEAD = "[prompt]"


def without_quotations(text: str, prompt: Iterable[str]) -> str:
    """Replace each stretch of a message that is quoted from a prompt.

    Args:
        text: the message, a few thousand characters at most.
        prompt: the texts of the prompt, of any number and length.

    Returns:
        The message with ``[prompt]`` in place of each stretch of 16 characters or more that one of
        the texts holds, and of each text of 4 to 16 characters. Where it has so much in common with
        them that to look for all of it would take long, nothing of it is left.
    """
    # Places in the message by what stands there; what has been found once needs no second look.
    unfound: dict[int, dict[str, list[int]]] = {}
    # Every stretch of a prompt has one of the prompt's steps, whole, within it.
    steps = {text[start : start + _STEP] for start in range(len(text) - _STEP + 1)}
    quoted = bytearray(len(text))
    looks = 0
    for part in prompt:
        width = min(_WIDTH, len(part))
        if width < _SHORTEST:
            continue
        if width not in unfound:
            unfound[width] = _places(text, width)
        if width < _WIDTH:
            _mark(quoted, unfound[width].pop(part, ()), width)
            continue
        last = len(part) - width
        for step in range(0, len(part) - _STEP + 1, _STEP):
            if not unfound[width]:
                break
            if part[step : step + _STEP] not in steps:
                continue
            looks += 1
            if looks > _MOST_LOOKS:
                return _INSTEAD
            for start in range(max(0, step - _STEP + 1), min(step, last) + 1):
                _mark(quoted, unfound[width].pop(part[start : start + width], ()), width)
    pieces = [
        ("" if place and quoted[place - 1] else _INSTEAD) if quoted[place] else char
        for place, char in enumerate(text)
    ]
    return "".join(pieces)


def _places(text: str, width: int) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for start in range(len(text) - width + 1):
        places.setdefault(text[start : start + width], []).append(start)
    return places


def _mark(quoted: bytearray, places: Iterable[int], width: int) -> None:
    for place in places:
        quoted[place : place + width] = b"\1" * width
