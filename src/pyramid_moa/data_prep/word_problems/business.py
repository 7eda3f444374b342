"""Scenarios of money, work and travel, as chains."""

from __future__ import annotations

from pyramid_moa.data_prep.word_problems.chain import Chain

__all__ = ["BUSINESS"]

SHOP = Chain(
    items=("pens", "apples", "books", "cups"),
    extras=("lemons", "kites", "plates", "candles"),
    label="cost",
    part="more",
    openings={
        "packs": (
            "{name} buys {a} {item} for {b} dollars each.",
            "In a shop {name} takes {a} {item} that cost {b} dollars each.",
        ),
        "pair": ("{name} buys a bag for {a} dollars and a hat for {b} dollars.",),
    },
    events={
        "gain_packs": (
            "{He} also buys {a} {x} at {b} dollars each.",
            "Then {he} takes {a} {x} for {b} dollars each.",
        ),
        "gain": ("{He} adds a lamp for {n} dollars.", "Wrapping costs {n} dollars more."),
        "lose": ("A coupon takes {n} dollars off.",),
    },
    closings={
        "rest": ("How much does {name} pay?", "What is the bill in dollars?"),
        "goal": ("{He} pays with {n} dollars. How much change does {he} get?",),
        "share": ("{n} friends split the bill. How much does each pay?",),
    },
)

WAGE = Chain(
    items=("cleaner", "driver", "painter", "waiter"),
    label="pay",
    part="extra",
    openings={
        "packs": (
            "{name} works {a} hours as a {item} for {b} dollars an hour.",
            "A {item} earns {b} dollars an hour and works {a} hours.",
        ),
    },
    events={
        "gain": ("There are {n} dollars in tips.", "A bonus of {n} dollars is paid."),
        "lose": ("{n} dollars go to tax.", "The rent takes {n} dollars."),
        "lose_packs": ("Lunch is {b} dollars on each of {a} days.",),
        "gain_packs": ("On Sunday {a} hours at {b} dollars are added.",),
        "halve": ("Half of the money goes to the bank.",),
    },
    closings={
        "rest": ("How many dollars does {name} have?", "How much money is left?"),
        "goal": ("A bike costs {n} dollars. How many dollars are missing?",),
        "sell": ("How much is that in {n} weeks of this kind?",),
    },
)

TRAVEL = Chain(
    items=("train", "truck", "boat", "car"),
    extras=("hill", "lake", "city"),
    label="km",
    part="leg",
    openings={
        "packs": (
            "A {item} goes {b} km an hour for {a} hours.",
            "{name} rides a {item} for {a} hours at {b} km an hour.",
        ),
        "given": ("A {item} goes {n} km to a {x}.", "{name} drives {n} km with a {item}."),
    },
    events={
        "gain_packs": ("After a {x} it goes on for {a} hours at {b} km an hour.",),
        "gain": ("Then it goes {n} km more.", "The way round the {x} takes {n} km."),
        "grow": ("A detour makes it {n} as far.",),
    },
    closings={
        "rest": ("How many km is that?", "How far does the {item} go?"),
        "goal": ("The whole trip is {n} km. How many km remain?",),
        "sell": ("A km costs {n} dollars. What does the trip cost?",),
    },
)

SALE = Chain(
    items=("coat", "phone", "desk", "tent"),
    label="price",
    part="off",
    openings={
        "given": ("A {item} costs {n} dollars.", "The price of a {item} is {n} dollars."),
        "pair": ("A {item} at {a} dollars and a case at {b} dollars are sold as a set.",),
    },
    events={
        "percent_off": ("The shop takes {n} % off.", "In a sale it is {n} % cheaper."),
        "gain": ("Sending it costs {n} dollars.", "The price then goes up by {n} dollars."),
        "lose": ("With a card it is {n} dollars less.",),
        "halve": ("On the last day the price is cut in half.",),
    },
    closings={
        "rest": ("What is the price now?", "How much must {name} pay?"),
        "sell": ("What do {n} of them cost?",),
        "goal": ("{name} has {n} dollars. How much does {he} keep?",),
    },
)

FACTORY = Chain(
    items=("toys", "lamps", "chairs", "clocks"),
    extras=("second", "new"),
    label="{item}",
    part="one",
    openings={
        "rate": (
            "A machine makes {n} {item} in {a} hours. It runs for {b} hours.",
            "In {a} hours a factory makes {n} {item}. It works {b} hours.",
        ),
        "packs": ("{a} workers make {b} {item} each.",),
    },
    events={
        "gain": ("A {x} machine adds {n} {item}.", "There were {n} more in store."),
        "lose": ("{n} of the {item} are broken.", "{n} fail a test."),
        "gain_packs": ("A {x} team of {a} people makes {b} each.",),
        "percent_off": ("Of these, {n} % are sent back.",),
    },
    closings={
        "rest": ("How many good {item} are there?", "How many {item} can be sold?"),
        "share": ("They fill {n} equal trucks. How many are in a truck?",),
    },
)

BUSINESS = {
    "shop": SHOP,
    "wage": WAGE,
    "travel": TRAVEL,
    "sale": SALE,
    "factory": FACTORY,
}
