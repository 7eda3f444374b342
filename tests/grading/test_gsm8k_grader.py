from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.grading import load_grader
from pyramid_moa.grading.numbers import parse_number

GRADER = load_grader("gsm8k")
NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.integers(0, 10**9).map("{:,}".format),
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map("{0[0]}/{0[1]}".format),
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7.\n#### 7", "7"),
        ("#### $1,234.50 dollars, not 12", "1234.5"),
        ("#### -42", "-42"),
        ("#### Answer: **18**", "18"),
        ("#### Step 1\nWe add 2.\n#### Step 2\nSo \\boxed{12}", "12"),
        ("#### 24 2/3", "24 2/3"),
        ("Q: ... #### 5\n\nQ: next\n#### 9", "5"),
        (r"The total is \boxed{3,\!000} of 7", "3000"),
        (r"$\boxed{\frac{3}{4}}$ cups", "3/4"),
        (r"\boxed{5\frac12}", "5 1/2"),
        (r"\boxed{x = 5 \text{ m}^2}", "5"),
        (r"\boxed{\text{none}} but 12", "12"),
        (r"an open \boxed{31" + "\nrest 5", "31"),
        ('{"reasoning": "8 and 9", "answer": "40"}', "40"),
        ('{"answer": "2 * 3 = 6", "reasoning": "1"}', "6"),
        ('```json\n{"reasoning": "he said "3"", "answer": 1,200\n}\n```', "1200"),
        ('{"reasoning": "5 apples", "answer": "unknown"}', None),
        ('{"reasoning": "5 apples", "answer": null}', None),
        ('{"reasoning": "cut short at 5 + 6', "6"),
        ("The answer is 12 because 5 people came.", "12"),
        ("**Final Answer:** 200 + 25 = 225\nThanks for 3!", "225"),
        ("Final Answer: it is unknown. 7", "7"),
        ("The answer to this question is -3 degrees, on 5 days", "-3"),
        ("Answer: 12 apples\nQ: 99", "12"),
        ("Answer: She eats 3 eggs.\nShe has 9 left", "9"),
        ("Answer: The sum of all of them is 30", "30"),
        ("pays $0.50", "0.5"),
        ("costs .25", "0.25"),
        ("profit of \u22125 dollars", "-5"),
        ("it lost -$5", "-5"),
        ("20 - 5", "5"),
        ("20-5", "5"),
        ("x is 1e3", "1e3"),
        ("at 2:00 pm", "2"),
        ("in India 1,00,000 rupees", "100000"),
        ("60%", "60"),
        ("007", "7"),
        ("0.00", "0"),
        ("-0", "0"),
        ("7 or 1/0", "7"),
        ("no number here", None),
        ("", None),
    ],
)
def test_extract(text, answer):
    found = GRADER.extract(text)
    assert (found.answer if found else None) == answer


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("45", "45.00", True),
        ("1,000", "$1000", True),
        ("3/4", "0.75", True),
        ("1 1/2", "1.5", True),
        ("-1 1/2", "-1.5", True),
        (r"\frac{1}{2}", "0.5", True),
        ("1/3", "0.333", True),
        ("1/3", "0.33", False),
        ("5 dollars", "5", True),
        ("60%", "60", True),
        ("10", "-10", False),
        ("0.001", "0", True),
        ("0.0011", "0", False),
        ("100000000000000000000000001", "100000000000000000000000000", False),
        ("1e3", "1000", True),
        ("1e999", "1e998", False),
        ("1e99999999", "1e99999999", True),
        ("1/0", "1/0", True),
        ("1/0", "0", False),
        ("None", "none ", True),
        ("3 or 4", "3", False),
        ("", "0", False),
    ],
)
def test_equal(a, b, equal):
    assert GRADER.equal(a, b) is equal
    assert GRADER.equal(b, a) is equal


@given(st.text() | NUMBERS, st.text() | NUMBERS)
def test_equality_is_symmetric_and_reflexive(a, b):
    assert GRADER.equal(a, a)
    assert GRADER.equal(a, b) == GRADER.equal(b, a)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "{}", "${:,}.00", "{}%"]))
def test_a_number_is_read_in_any_dress(number, dress):
    if number < 0 and dress.startswith("$"):
        number = -number
    assert parse_number(dress.format(number)) == Fraction(number)


@given(st.text(), NUMBERS, st.sampled_from(["#### {}", "\\boxed{{{}}}", "The answer is {}."]))
def test_span_holds_the_answer(prefix, number, form):
    text = prefix.replace("#", "") + "\n" + form.format(number)
    found = GRADER.extract(text)
    assert found is not None
    written = text[found.start : found.end]
    if "\\box" not in prefix:
        assert written == number
    value = parse_number(written)
    assert value is not None
    assert value == parse_number(found.answer)
    assert set(found.answer) <= set(written) | {"0"}


@given(st.text(max_size=300))
def test_extract_never_raises_and_stays_inside(text):
    found = GRADER.extract(text)
    if found:
        assert 0 <= found.start < found.end <= len(text)
        assert GRADER.equal(found.answer, text[found.start : found.end])


def test_span_counts_from_the_start_of_a_long_text():
    text = "x " * 100_000 + "#### 1,234"
    found = GRADER.extract(text)
    assert found is not None
    assert text[found.start : found.end] == "1,234"


def test_overlong_numbers_are_passed_over():
    found = GRADER.extract("It is 12. 0.333" + "3" * 500)
    assert found is not None
    assert found.answer == "12"
    assert parse_number("9" * 500) is None
    assert parse_number("1" * 2000) is None
