"""Scenarios in which people are compared with one another: who has more, who is older.

The facts are mostly told in the order in which they are needed. In some stories two neighbouring
ones change places, so that a reader has to find the fact and cannot just walk along the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems.story import LARGEST, Operation, Story, UnsuitableError
from pyramid_moa.data_prep.word_problems.words import THINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RELATIONS", "tell_relations"]

SWAPPED = 0.25
"""Share of stories in which two neighbouring facts change places."""

MOST_PEOPLE = 4

OPERATIONS: dict[str, Operation] = {"more": "+", "fewer": "-", "twice": "*", "thrice": "*"}


@dataclass(frozen=True, kw_only=True)
class Relations:
    """The words of one scenario.

    Attributes:
        things: what is compared; one of them is drawn for a story.
        largest: bounds of the number that is given and of the differences.
        first: phrasings of the one number that is given: ``{a}``, ``{n}``, ``{thing}``.
        relations: phrasings by kind: ``{a}`` is described by ``{b}`` and ``{n}``.
        last: asks for the last person, ``{a}``.
        pair: asks for the sum of the last two, ``{a}`` and ``{b}``.
        together: asks for the sum of all.
        later: an increase of the last person's number by ``{n}``, and the question.
    """

    things: tuple[str, ...]
    largest: tuple[int, int]
    first: tuple[str, ...]
    relations: Mapping[str, tuple[str, ...]]
    last: tuple[str, ...]
    pair: tuple[str, ...]
    together: tuple[str, ...]
    later: tuple[str, ...]


COMPARE = Relations(
    things=tuple(THINGS),
    largest=(80, 60),
    first=("{a} has {n} {thing}.", "{a} owns {n} {thing}."),
    relations={
        "more": ("{a} has {n} more {thing} than {b}.", "{a} has {n} more than {b}."),
        "fewer": ("{a} has {n} fewer {thing} than {b}.", "{a} has {n} fewer than {b}."),
        "twice": ("{a} has twice as many {thing} as {b}.", "{a} has twice as many as {b}."),
        "thrice": ("{a} has three times as many as {b}.",),
    },
    last=("How many {thing} does {a} have?",),
    pair=("How many {thing} do {b} and {a} have together?",),
    together=("How many {thing} do they all have together?",),
    later=(
        "{a} then gets {n} more. How many {thing} does {a} have now?",
        "If {a} wins {n} more, how many {thing} will {a} have?",
    ),
)

AGES = Relations(
    things=("years",),
    largest=(36, 24),
    first=("{a} is {n} years old.", "{a} is {n}."),
    relations={
        "more": ("{a} is {n} years older than {b}.",),
        "fewer": ("{a} is {n} years younger than {b}.",),
        "twice": ("{a} is twice as old as {b}.",),
    },
    last=("How old is {a}?", "What is the age of {a}?"),
    pair=("What is the sum of the ages of {b} and {a}?",),
    together=("How old are they all together?", "What is the sum of all their ages?"),
    later=("How old will {a} be in {n} years?",),
)

RELATIONS = {"compare": COMPARE, "ages": AGES}


def _plan(story: Story, steps: int) -> tuple[int, str]:
    """Draw how many relations there are and what is asked, for exactly ``steps`` equations."""
    links = MOST_PEOPLE - 1
    plans = [
        (n, ask)
        for n in range(1, links + 1)
        for ask, cost in (("last", 0), ("pair", 1), ("later", 1), ("together", n))
        if n + cost == steps and not (ask == "together" and n == 1)
    ]
    if not plans:
        raise UnsuitableError
    return story.pick(plans)


def _relate(words: Relations, story: Story, value: int) -> tuple[str, int, str]:
    """Draw a relation to ``value``: its kind, its number and its operation."""
    kind = story.pick(list(words.relations))
    if kind in ("twice", "thrice"):
        return kind, {"twice": 2, "thrice": 3}[kind], "*"
    most = words.largest[1]
    top = min(most, value - 2) if kind == "fewer" else min(most, LARGEST - value)
    return kind, story.number(2, top), OPERATIONS[kind]


def tell_relations(words: Relations, story: Story, steps: int) -> None:
    """Tell a story of this scenario that takes exactly ``steps`` equations.

    Raises:
        UnsuitableError: the numbers drawn lead out of range; draw again.
    """
    links, ask = _plan(story, steps)
    names = [name for name, _ in story.people(links + 1)]
    thing = story.pick(words.things)
    values = [story.number(4, words.largest[0])]
    story.tell(words.first, a=names[0], n=values[0], thing=thing)
    for i in range(links):
        kind, n, _ = _relate(words, story, values[i])
        values.append(story.solve(names[i + 1], values[i], OPERATIONS[kind], n))
        story.tell(words.relations[kind], a=names[i + 1], b=names[i], n=n, thing=thing)
        story.moves.append(kind)
    if story.rng.random() < SWAPPED:
        i = story.number(0, links - 1)
        story.facts[i], story.facts[i + 1] = story.facts[i + 1], story.facts[i]
        story.moves.append(f"swap{i}")
    story.moves.append(ask)
    _ask(words, story, ask, names, values, thing)


def _ask(
    words: Relations, story: Story, ask: str, names: list[str], values: list[int], thing: str
) -> None:
    """Add the question and the equations that it needs beyond the relations."""
    n = story.number(2, words.largest[1])
    if ask == "later":
        story.solve(names[-1], values[-1], "+", n)
    elif ask == "pair":
        story.solve("sum", values[-2], "+", values[-1])
    elif ask == "together":
        total = values[0]
        for value in values[1:]:
            total = story.solve("sum", total, "+", value)
    phrasings: dict[str, tuple[str, ...]] = {
        "last": words.last,
        "pair": words.pair,
        "together": words.together,
        "later": words.later,
    }
    story.ask(phrasings[ask], a=names[-1], b=names[-2], n=n, thing=thing)
