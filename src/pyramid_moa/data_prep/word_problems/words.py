"""People, things and idle remarks that every scenario draws from."""

from __future__ import annotations

__all__ = ["DISTRACTORS", "PEOPLE", "THINGS"]

PEOPLE = [
    *(
        (name, "she")
        for name in ["Anna", "Mia", "Lena", "Sara", "Nina", "Eva", "Rosa", "Ida", "Lucy", "Maya"]
    ),
    *((name, "she") for name in ["Emma", "Zoe", "Ruth", "Clara", "Alice", "Jane"]),
    *(
        (name, "he")
        for name in ["Tom", "Ben", "Max", "Leo", "Sam", "Noah", "Paul", "Omar", "Ivan", "Hugo"]
    ),
    *((name, "he") for name in ["Jack", "Luke", "Adam", "Felix", "Carl", "Dan"]),
]

THINGS = ["marbles", "stickers", "coins", "shells", "stamps", "beads", "cards", "balls"]

DISTRACTORS = [
    "{name} has {n} {thing} at home.",
    "{name} once found {n} {thing}.",
    "{name} lives {n} km away.",
    "It is {n} days until the holiday.",
    "The room has {n} old {thing} in it.",
    "It is a sunny day.",
    "{name} likes {thing} very much.",
]
