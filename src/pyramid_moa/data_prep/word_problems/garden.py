"""The scenario of rectangles: areas, fences, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems.story import LARGEST, UnsuitableError

if TYPE_CHECKING:
    from pyramid_moa.data_prep.word_problems.story import Story

__all__ = ["tell_garden"]

PLACES = ["garden", "field", "park", "floor"]

GIVEN = (
    "A {place} is {a} m long and {b} m wide.",
    "The {place} of {name} is {a} m long and {b} m wide.",
)
WIDER = ("A {place} is {b} m wide. It is {n} m longer than that.",)
LONGER = ("A {place} is {b} m wide and {k} times as long.",)
AREA_CHANGES = {
    "lose": ("A pond takes {n} square m of it.", "{n} square m of it are paved."),
    "gain": ("Next to it {n} square m are bought.",),
    "lose_packs": ("{k} sheds of {n} square m each stand on it.",),
}
FENCE_CHANGES = {
    "lose": ("A gate takes {n} m of the fence.", "A wall saves {n} m of fence."),
    "gain": ("Inside there are {n} m more of fence.",),
}
ASKS = {
    "area": {
        "rest": ("How many square m of {place} are there?", "What is the area?"),
        "share": ("It is cut into {k} equal plots. How large is a plot?",),
        "sell": ("Each square m costs {k} dollars. What is the cost?",),
    },
    "fence": {
        "rest": ("How long is the fence all around?", "How many m of fence are needed?"),
        "share": ("The fence comes in parts of {k} m. How many parts are needed?",),
        "sell": ("A m of fence costs {k} dollars. What is the cost?",),
    },
}


def tell_garden(story: Story, steps: int) -> None:
    """Tell a story about a rectangle that takes exactly ``steps`` equations.

    Raises:
        UnsuitableError: the moves or numbers drawn do not fit; draw again.
    """
    place, (name, _) = story.pick(PLACES), story.people(1)[0]
    shape, sides = story.pick(list(ASKS)), story.pick(["given", "wider", "longer"])
    closing = story.pick(list(ASKS[shape]))
    left = steps - (sides != "given") - (1 if shape == "area" else 2) - (closing != "rest")
    length, width = _sides(story, sides, place, name)
    if shape == "area":
        value = story.solve("area", length, "*", width)
        changes = _changes(story, left, ["lose", "gain", "lose_packs"])
    else:
        value = story.solve("fence", story.solve("half", length, "+", width), "*", 2)
        changes = _changes(story, left, ["lose", "gain"])
    for change in changes:
        value = _change(story, shape, change, value)
    k = _close(story, closing, value)
    story.ask(ASKS[shape][closing], place=place, k=k)
    story.moves = [shape, sides, *changes, closing]


def _sides(story: Story, sides: str, place: str, name: str) -> tuple[int, int]:
    width = story.number(3, 12)
    if sides == "given":
        length = story.number(width + 1, 40)
        story.tell(GIVEN, place=place, name=name, a=length, b=width)
    elif sides == "wider":
        n = story.number(2, 15)
        length = story.solve("long", width, "+", n)
        story.tell(WIDER, place=place, b=width, n=n)
    else:
        k = story.number(2, 4)
        length = story.solve("long", width, "*", k)
        story.tell(LONGER, place=place, b=width, k=k)
    # Products of two numbers above ten would be a skill of their own.
    if width > 9 and length > 12:
        raise UnsuitableError
    return length, width


def _changes(story: Story, left: int, kinds: list[str]) -> list[str]:
    changes: list[str] = []
    while left > 0:
        fitting = [c for c in kinds if c not in changes[-1:] and (left > 1 or c != "lose_packs")]
        changes.append(story.pick(fitting))
        left -= 2 if changes[-1] == "lose_packs" else 1
    if left < 0:
        raise UnsuitableError
    return changes


def _change(story: Story, shape: str, change: str, value: int) -> int:
    words = AREA_CHANGES if shape == "area" else FENCE_CHANGES
    if change == "lose_packs":
        k = story.number(2, 5)
        n = story.number(2, min(12, (value - 2) // k))
        value = story.solve(shape, value, "-", story.solve("sheds", k, "*", n))
        story.tell(words[change], k=k, n=n)
        return value
    top = min(60, LARGEST - value) if change == "gain" else min(60, value - 2)
    n = story.number(2, top)
    value = story.solve(shape, value, "+" if change == "gain" else "-", n)
    story.tell(words[change], n=n)
    return value


def _close(story: Story, closing: str, value: int) -> int:
    if closing == "share":
        k = story.divisor(value, range(2, 10))
        story.solve("each", value, "/", k)
    elif closing == "sell":
        k = story.number(2, min(9, LARGEST // value))
        story.solve("money", value, "*", k)
    else:
        k = 0
    return k
