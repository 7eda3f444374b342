"""Stories about one quantity: it is set, changed by events, and asked for.

A `Chain` holds only words. What a move does to the quantity, and how many equations it takes, is
the same in every scenario and stands here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems.story import LARGEST, Story, UnsuitableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Chain", "tell_chain"]

Phrasings = tuple[str, ...]

FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
PERCENTAGES = {2: 50, 4: 25, 5: 20, 10: 10}
TIMES = {2: "twice", 3: "three times", 4: "four times"}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The words of one scenario.

    The phrasings may use ``{name}``, ``{he}``, ``{He}``, ``{item}`` (what the story is about),
    ``{x}`` (one of ``extras``), and the numbers of the move: ``{n}`` or ``{a}`` and ``{b}``.

    Attributes:
        items: what is counted; one of them is drawn for a story.
        extras: things that an event brings in.
        label: name of the quantity in the equations.
        part: name of an intermediate product in the equations.
        openings: how the quantity is set, by the name of the move.
        events: how it changes.
        closings: what is asked.
    """

    items: Phrasings
    extras: Phrasings = ("",)
    label: str
    part: str
    openings: Mapping[str, Phrasings]
    events: Mapping[str, Phrasings]
    closings: Mapping[str, Phrasings]


@dataclass(frozen=True, kw_only=True)
class _Telling:
    """A chain in the course of being told: the story, and the words that stay the same."""

    story: Story
    label: str
    part: str
    words: Mapping[str, str]

    def product(self, most: int = 200) -> tuple[int, int]:
        a = self.story.number(2, 9)
        return a, self.story.number(2, min(30, most // a))


def _given(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    n = t.story.number(5, 120)
    return n, {"n": n}


def _packs(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    a, b = t.product()
    return t.story.solve(t.label, a, "*", b), {"a": a, "b": b}


def _pair(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    a, b = t.story.number(3, 99), t.story.number(3, 99)
    return t.story.solve(t.label, a, "+", b), {"a": a, "b": b}


def _rate(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    a, each, c = t.story.number(2, 9), t.story.number(2, 20), t.story.number(2, 9)
    single = t.story.solve(t.part, a * each, "/", a)
    return t.story.solve(t.label, single, "*", c), {"n": a * each, "a": a, "b": c}


def _gain(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    n = t.story.number(2, min(90, LARGEST - value))
    return t.story.solve(t.label, value, "+", n), {"n": n}


def _lose(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    n = t.story.number(2, min(90, value - 2))
    return t.story.solve(t.label, value, "-", n), {"n": n}


def _gain_packs(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    a, b = t.product(LARGEST - value)
    more = t.story.solve(t.part, a, "*", b)
    return t.story.solve(t.label, value, "+", more), {"a": a, "b": b}


def _lose_packs(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    a, b = t.product(value - 2)
    fewer = t.story.solve(t.part, a, "*", b)
    return t.story.solve(t.label, value, "-", fewer), {"a": a, "b": b}


def _grow(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    k = t.story.pick(list(TIMES))
    return t.story.solve(t.label, value, "*", k), {"n": TIMES[k]}


def _halve(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    return t.story.solve(t.label, value, "/", 2), {}


def _lose_part(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    k = t.story.divisor(value, list(FRACTIONS))
    part = t.story.solve(t.part, value, "/", k)
    return t.story.solve(t.label, value, "-", part), {"n": FRACTIONS[k]}


def _percent_off(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    k = t.story.divisor(value, list(PERCENTAGES))
    part = t.story.solve(t.part, value, "/", k)
    return t.story.solve(t.label, value, "-", part), {"n": PERCENTAGES[k]}


def _rest(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    return value, {}


def _share(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    k = t.story.divisor(value, range(2, 10))
    return t.story.solve("each", value, "/", k), {"n": k}


def _sell(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    k = t.story.number(2, min(9, LARGEST // value))
    return t.story.solve("money", value, "*", k), {"n": k}


def _goal(t: _Telling, value: int) -> tuple[int, dict[str, object]]:
    n = t.story.number(value + 2, min(value + 90, LARGEST))
    return t.story.solve("need", n, "-", value), {"n": n}


MOVES: dict[str, tuple[int, Callable[[_Telling, int], tuple[int, dict[str, object]]]]] = {
    "given": (0, _given),
    "packs": (1, _packs),
    "pair": (1, _pair),
    "rate": (2, _rate),
    "gain": (1, _gain),
    "lose": (1, _lose),
    "gain_packs": (2, _gain_packs),
    "lose_packs": (2, _lose_packs),
    "grow": (1, _grow),
    "halve": (1, _halve),
    "lose_part": (2, _lose_part),
    "percent_off": (2, _percent_off),
    "rest": (0, _rest),
    "share": (1, _share),
    "sell": (1, _sell),
    "goal": (1, _goal),
}
"""Each move: how many equations it takes, and what it does."""


def _plan(chain: Chain, story: Story, steps: int) -> tuple[str, list[str], str]:
    """Draw an opening, events and a closing that take exactly ``steps`` equations together."""
    opening = story.pick(list(chain.openings))
    closing = story.pick(list(chain.closings))
    left = steps - MOVES[opening][0] - MOVES[closing][0]
    events: list[str] = []
    while left > 0:
        fitting = [e for e in chain.events if MOVES[e][0] <= left and e not in events[-1:]]
        if not fitting:
            raise UnsuitableError
        events.append(story.pick(fitting))
        left -= MOVES[events[-1]][0]
    if left < 0:
        raise UnsuitableError
    return opening, events, closing


def tell_chain(chain: Chain, story: Story, steps: int) -> None:
    """Tell a story of this scenario that takes exactly ``steps`` equations.

    Raises:
        UnsuitableError: the moves drawn do not fit; draw again.
    """
    opening, events, closing = _plan(chain, story, steps)
    (name, he), item = story.people(1)[0], story.pick(chain.items)
    telling = _Telling(
        story=story,
        label=chain.label.format(item=item),
        part=chain.part,
        words={"name": name, "he": he, "He": he.capitalize(), "item": item},
    )
    phrasings = {**chain.openings, **chain.events}
    value = 0
    for move in [opening, *events]:
        value, numbers = MOVES[move][1](telling, value)
        story.tell(phrasings[move], **telling.words, **numbers, x=story.pick(chain.extras))
    _, numbers = MOVES[closing][1](telling, value)
    story.ask(chain.closings[closing], **telling.words, **numbers)
    story.moves = [opening, *events, closing]
