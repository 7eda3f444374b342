"""Scenarios of the house, the school and the farm, as chains."""

from __future__ import annotations

from pyramid_moa.data_prep.word_problems.chain import Chain

__all__ = ["EVERYDAY"]

BAKERY = Chain(
    items=("cookies", "muffins", "rolls", "buns"),
    extras=("tray", "tin"),
    label="{item}",
    part="batch",
    openings={
        "packs": (
            "{name} bakes {a} trays of {b} {item}.",
            "A baker fills {a} trays with {b} {item} on each.",
            "{name} makes {a} tins with {b} {item} in each.",
        ),
        "pair": (
            "{name} bakes {a} {item} before lunch and {b} after lunch.",
            "A bakery makes {a} plain {item} and {b} sweet {item}.",
        ),
    },
    events={
        "gain": ("Then {n} more {item} are baked.", "{n} more {item} come out of the oven."),
        "lose": (
            "{n} of them burn.",
            "Guests eat {n} of them.",
            "{n} {item} fall on the floor.",
        ),
        "gain_packs": ("Then {a} more trays of {b} {item} are baked.",),
        "lose_packs": (
            "{a} guests eat {b} {item} each.",
            "{a} boxes of {b} {item} are sent away.",
        ),
        "halve": ("Half of the {item} are eaten.",),
    },
    closings={
        "rest": ("How many {item} are left?", "How many {item} are there now?"),
        "share": (
            "The {item} are put into {n} equal boxes. How many are in each box?",
            "How many does each of {n} guests get, if they share the {item}?",
        ),
        "sell": ("Each is sold for {n} dollars. How much money is that?",),
    },
)

READING = Chain(
    items=("book", "novel"),
    extras=("Monday", "Friday", "Sunday"),
    label="pages",
    part="read",
    openings={
        "packs": (
            "{name} reads {b} pages of a {item} a day for {a} days.",
            "For {a} days {name} reads {b} pages every day.",
        ),
        "given": ("{name} has read {n} pages of a {item}.", "{name} reads {n} pages today."),
    },
    events={
        "gain": ("On {x} {he} reads {n} more pages.", "Then {he} reads another {n} pages."),
        "gain_packs": (
            "Then {he} reads {b} pages a night for {a} nights.",
            "Next come {a} chapters of {b} pages each.",
        ),
        "grow": ("By {x} {he} has read {n} as many pages.",),
    },
    closings={
        "rest": ("How many pages has {name} read?", "How many pages is that in all?"),
        "goal": (
            "The {item} has {n} pages. How many pages are left to read?",
            "How many more pages must {he} read to reach {n}?",
        ),
        "share": ("This took {n} hours. How many pages is that an hour?",),
    },
)

FARM = Chain(
    items=("eggs", "pears", "plums", "melons"),
    label="{item}",
    part="group",
    openings={
        "packs": (
            "A farmer fills {a} baskets with {b} {item} each.",
            "{name} picks {b} {item} a day for {a} days.",
        ),
        "given": ("A farmer has {n} {item}.", "On a farm {name} picks {n} {item}."),
    },
    events={
        "gain": ("The next day brings {n} more {item}.", "{name} finds {n} more in the barn."),
        "lose": ("{n} of the {item} go bad.", "The cook takes {n} of them."),
        "lose_packs": (
            "{a} crates of {b} {item} go to town.",
            "{a} neighbours take {b} {item} each.",
        ),
        "gain_packs": ("A friend brings {a} bags of {b} {item}.",),
        "lose_part": ("Then {n} of the {item} are given to a school.",),
    },
    closings={
        "rest": ("How many {item} does the farm keep?", "How many {item} remain?"),
        "sell": ("They are sold at {n} dollars each. What does the farm earn?",),
        "share": ("They are packed in sets of {n}. How many sets are there?",),
    },
)

GAME = Chain(
    items=("points", "stars"),
    extras=("round", "level"),
    label="{item}",
    part="bonus",
    openings={
        "given": ("{name} starts a game with {n} {item}.", "{name} scores {n} {item} at first."),
        "packs": ("{name} hits {a} targets for {b} {item} each.",),
    },
    events={
        "gain": ("In the next {x} {he} wins {n} {item}.", "A good {x} adds {n} {item}."),
        "lose": ("A mistake costs {n} {item}.", "In a bad {x} {he} loses {n} {item}."),
        "grow": ("A lucky card makes it {n} as many.",),
        "halve": ("A trap takes half of the {item}.",),
        "gain_packs": ("{He} finds {a} gems worth {b} {item} each.",),
    },
    closings={
        "rest": ("How many {item} does {name} have at the end?", "What is the final score?"),
        "goal": ("To win takes {n} {item}. How many is {he} short?",),
    },
)

SCHOOL = Chain(
    items=("pupils", "children", "students"),
    extras=("chess", "tennis", "choir"),
    label="rest",
    part="part",
    openings={
        "given": ("A school has {n} {item}.", "There are {n} {item} in the yard."),
        "packs": (
            "There are {a} classes of {b} {item}.",
            "{a} buses with {b} {item} each arrive at a camp.",
        ),
        "pair": ("A club has {a} girls and {b} boys.",),
    },
    events={
        "lose_part": (
            "{n} of the {item} leave for {x}.",
            "For {x}, {n} of them go away.",
        ),
        "lose": ("{n} of them are ill and go home.", "Then {n} {item} walk away."),
        "gain": ("Then {n} {item} join in.",),
        "lose_packs": ("{a} groups of {b} {item} go to {x}.",),
    },
    closings={
        "rest": ("How many {item} stay?", "How many {item} are still there?"),
        "share": (
            "The others form {n} equal teams. How many are in a team?",
            "They sit in {n} equal rows. How many sit in a row?",
        ),
    },
)

EVERYDAY = {
    "bakery": BAKERY,
    "reading": READING,
    "farm": FARM,
    "game": GAME,
    "school": SCHOOL,
}
