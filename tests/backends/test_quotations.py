"""What a server's message quotes from a prompt, whatever both look like."""

import random
import string
import time

import pytest

from pyramid_moa.backends.quotations import without_quotations

_RANDOM = random.Random(7)
LONG = "".join(_RANDOM.choices(string.ascii_letters, k=3000))


@pytest.mark.parametrize("start", [*range(20), 1234, len(LONG) - 17, len(LONG) - 16])
@pytest.mark.parametrize("width", [16, 40])
def test_a_quotation_is_found_wherever_it_stands(start: int, width: int) -> None:
    quoted = LONG[start : start + width]
    assert without_quotations(f"<{quoted}>", ["hello there", LONG]) == "<[prompt]>"


def test_fewer_characters_than_a_quotation_has_are_left() -> None:
    assert without_quotations(f"<{LONG[100:115]}>", [LONG]) == f"<{LONG[100:115]}>"


@pytest.mark.parametrize("length", range(3, 20))
def test_a_short_text_is_found_whole(length: int) -> None:
    part = LONG[:length]
    shown = part if length < 4 else "[prompt]"
    assert without_quotations(f"<{part}> and <{part}>", [part]) == f"<{shown}> and <{shown}>"


def test_texts_that_overlap_are_all_found() -> None:
    said = f"<{LONG[:30]}> <{LONG[10:40]}> <{LONG[40:60]}>"
    parts = [LONG[:30], LONG[10:40], LONG[40:60]]
    assert without_quotations(said, parts) == "<[prompt]> <[prompt]> <[prompt]>"


def test_what_repeats_itself_is_found_in_all_its_places() -> None:
    said = "bad: " + "a" * 3900
    assert without_quotations(said, ["a" * 20]) == "bad: [prompt]"


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("bad: " + "a" * 3900, ["a" * 100_000]),
        ("bad: " + "a" * 3900, ["a" * 10_000_000]),
        ("bad: " + LONG, [LONG * 3000]),
        ("bad: " + "xyz " * 900, [f"part {number:015}" for number in range(100_000)]),
        ("bad: " + "xyz " * 900, [f"p{number:06}" for number in range(100_000)]),
    ],
    ids=["a hundred thousand", "ten million", "one text again and again", "many", "many short"],
)
def test_prompts_that_are_made_to_take_long_do_not(said: str, parts: list[str]) -> None:
    begun = time.process_time()
    found = without_quotations(said, parts)
    assert time.process_time() - begun < 3
    assert found in (said, "bad: [prompt]", "[prompt]")
    assert "aaaa" not in found
    assert LONG[:16] not in found
