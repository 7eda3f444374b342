"""Bookkeeping of numbers in worked answers."""

import math
import time

import pytest

from pyramid_moa.router_model.arithmetic import arithmetic_signs


def wrong(response):
    return arithmetic_signs("", response, None).wrong_equations


@pytest.mark.parametrize(
    "response",
    [
        "2 + 3 = 5",
        "2+3=5",
        "12 * 4 = 48 and 48 - 8 = 40",
        "3 x 4 = 12",
        "3 × 4 = 12",
        "3 \\times 4 = 12",
        "3 \\cdot 4 = 12 and 12 \\div 4 = 3",
        "12 ÷ 4 = 3",
        "2 + 3 * 4 = 14",
        "10 - 2 - 3 = 5",
        "5 * $2.50 = $12.50",
        "1,200 + 300 = 1,500",
        "1,000,000 / 4 = 250,000",
        "10 / 3 = 3.33",
        "10 / 3 = 3",
        "7 / 2 = 4",
        "3 - 5 = -2",
        "-3 + 5 = 2",
        "- 3 + 5 = 8",
        "* 3 + 5 = 8",
        "first\n  - 3 + 5 = 8",
        "1. 3 + 5 = 8",
        "5 − 3 = 2",
        "0 / 5 = 0",
        "0.1 + 0.2 = 0.3",
        "2 + 2 = 4 = 8 / 2 = 4",
    ],
)
def test_right_equations(response):
    assert wrong(response) == 0.0


@pytest.mark.parametrize(
    ("response", "share"),
    [
        ("2 + 3 = 6", 1.0),
        ("2 + 3 = 5, 2 * 3 = 5", 0.5),
        ("10 / 3 = 4", 1.0),
        ("10 / 4 = 2.4", 1.0),
        ("10000 + 5000 = 15001", 1.0),
        ("7 - 2 = 5.5", 1.0),
        ("- 3 + 5 = 2", 1.0),
        ("8 - 3 + 5 = 0", 1.0),
    ],
)
def test_wrong_equations(response, share):
    assert wrong(response) == share


@pytest.mark.parametrize(
    "response",
    [
        "no numbers here",
        "5 = 5",
        "(2 + 3) * 4 * 5 = 100",
        "(12 + 3) - 5 - 2 = 8",
        "y * 4 + 5 = 25",
        "2 ^ 3 + 1 = 9",
        "2 x (3 + 4) = 14",
        "5 / 0 = 0",
        "12345678901234567890 + 1 = 12345678901234567891",
        "1 + 1 = 12345678901234567891",
        "1.2.3 + 4 = 7",
        "20% * 50 = 10",
    ],
)
def test_what_is_no_equation_of_plain_numbers_is_left_alone(response):
    assert math.isnan(wrong(response))


def test_all_signs_of_one_answer():
    signs = arithmetic_signs(
        "Ann has 3 boxes of 4 pens and 7 friends.", "3 * 4 = 12 pens. The answer is 13.", "13"
    )
    assert signs.wrong_equations == 0.0
    assert signs.equations == math.log1p(1)
    assert signs.unused_numbers == pytest.approx(1 / 3)
    assert signs.new_answer == 1.0
    assert signs.integer == 1.0
    assert signs.size == math.log10(14)


def test_the_signs_of_results_by_hand():
    """Results are 12, 4.5, -3 and 8; 9 / 2 = 4.5 is right, 2 * 3 = 8 is not."""
    signs = arithmetic_signs(
        "3 boxes of 4 pens, 100 in all.", "3 * 4 = 12, 9 / 2 = 4.5, 2 - 5 = -3, 2 * 3 = 8", "8"
    )
    assert signs.equations == pytest.approx(math.log(5))
    assert signs.wrong_equations == pytest.approx(1 / 4)
    assert signs.wrong_count == pytest.approx(math.log(2))
    assert signs.unused_numbers == pytest.approx(1 / 3)
    assert signs.unused_count == pytest.approx(math.log(2))  # 100
    assert signs.introduced_numbers == pytest.approx(math.log(7))  # 12, 9, 2, 4.5, 5, 8
    assert signs.broken_results == pytest.approx(1 / 4)
    assert signs.largest_result == pytest.approx(math.log10(13))
    assert signs.negative_result == 1.0
    assert signs.new_answer == 0.0
    assert signs.last_result_is_answer == 1.0
    assert signs.round_number == 0.0
    assert signs.size_over_question == pytest.approx(math.log10(9 / 101))


def test_the_last_result_and_round_numbers():
    signs = arithmetic_signs("2 and 10", "2 * 10 = 20 and 20 + 2 = 22", "-20")
    assert signs.new_answer == 1.0
    assert signs.round_number == 1.0
    signs = arithmetic_signs("2 and 10", "2 * 10 = 20 and 20 + 2 = 22", "20")
    assert signs.new_answer == 0.0
    assert signs.last_result_is_answer == 0.0
    assert signs.broken_results == signs.negative_result == signs.wrong_count == 0.0


def test_what_there_is_nothing_to_see_of_is_unknown():
    nothing = arithmetic_signs("", None, None)
    assert all(math.isnan(value) for value in vars(nothing).values())
    signs = arithmetic_signs("", "twelve", "12")
    for name in ("wrong_equations", "unused_numbers", "unused_count", "last_result_is_answer"):
        assert math.isnan(getattr(signs, name)), name
    for name in ("broken_results", "largest_result", "negative_result", "size_over_question"):
        assert math.isnan(getattr(signs, name)), name
    assert signs.equations == signs.wrong_count == signs.introduced_numbers == 0.0


def test_an_answer_that_an_equation_gives_is_not_new():
    assert arithmetic_signs("", "3 * 4 = 12", "12.0").new_answer == 0.0
    assert math.isnan(arithmetic_signs("", "twelve", "12").new_answer)
    assert math.isnan(arithmetic_signs("", "3 * 4 = 12", None).new_answer)


def test_thousands_are_one_number_and_lists_are_several():
    assert arithmetic_signs("He has 1,200 and 3,4.", "1200, 3 and 4", "1").unused_numbers == 0.0


@pytest.mark.parametrize("answer", ["no number", "nan", "inf", "9" * 400, "", "1/2"])
def test_an_answer_that_is_no_number(answer):
    signs = arithmetic_signs("1", "1 + 1 = 2", answer)
    assert math.isnan(signs.size)
    assert math.isnan(signs.integer)
    assert math.isnan(signs.new_answer)


def test_halves_and_signs():
    signs = arithmetic_signs("", "", "$-1,000.5")
    assert signs.integer == 0.0
    assert signs.size == pytest.approx(math.log10(1001.5))


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000,
        "1+" * 100_000,
        "1 + " * 50_000,
        "12.34*" * 40_000,
        "1 + 1 = " * 30_000,
        "1" * 15 + "." * 100_000,
        "999999999999999*" * 10_000 + "=1",
        "   +   " * 30_000,
        "(" * 100_000,
        "1,234" * 40_000,
        "9" * 100_000 + "+" + "9" * 100_000 + "=1",
        "- " * 100_000 + "1 + 1 = 2",
    ],
)
def test_a_long_text_takes_no_time(text):
    started = time.process_time()
    signs = arithmetic_signs(text, text, "1")
    assert time.process_time() - started < 1.0
    assert not math.isinf(signs.size)
