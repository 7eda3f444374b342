import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.grading import load_grader
from pyramid_moa.grading.text import normal_text

EXACT, TEXT, CHOICE = map(load_grader, ("exact", "text", "multiple-choice"))


def answer(grader, text):
    found = grader.extract(text)
    return found.answer if found else None


def test_exact_takes_everything():
    assert answer(EXACT, "  The answer is 5.\n") == "The answer is 5."
    assert answer(EXACT, " \n") is None
    assert EXACT.equal("a ", " a")
    assert not EXACT.equal("A", "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"answer": "The Beatles"}', "The Beatles"),
        ('{"reasoning": "x", "answer": null}', None),
        (r"So \boxed{\text{Paris}}", r"\text{Paris}"),
        ("I think\n#### New York\nbye", "New York"),
        ("The answer is Paris.", "Paris"),
        ("Well, the answer is: **Paris**. It is the capital.", "Paris**"),
        ("Paris", "Paris"),
        ("", None),
    ],
)
def test_text_extraction(text, expected):
    assert answer(TEXT, text) == expected


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("The Beatles!", "beatles", True),
        ("New  York", "new york.", True),
        ("\ufb01ne", "fine", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("Paris**", "Paris", True),
        ("the", "an", False),
        ("?", "!", False),
        ("?", "?", True),
        ("", "a", False),
        ("cat", "cats", False),
    ],
)
def test_text_equality(a, b, equal):
    assert TEXT.equal(a, b) is equal
    assert TEXT.equal(b, a) is equal


def test_normal_text_is_bounded():
    assert len(normal_text("x" * 200_000)) == 50_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. Paris", "B"),
        ("B) Paris is the capital", "B"),
        ("**C**", "C"),
        ("The answer is B.", "B"),
        ("The correct answer is (D) because A is wrong.", "D"),
        ("The answer is option E", "E"),
        ("Answer: **J**", "J"),
        ('{"reasoning": "A and B", "answer": "C) red"}', "C"),
        ('{"reasoning": "A and B", "answer": "red"}', None),
        (r"Therefore \boxed{\text{F}}", "F"),
        ("Reasons.\n#### G", "G"),
        ("Neither (A) nor (B) fits, so (C) it is", "C"),
        ("Let us see.\nA. no\nB. yes\nThat is all.", "B"),
        ("The answer is a hard one", None),
        ("I think it depends", None),
        ("A cat sat on the mat", None),
        ("Because of it", None),
        ("K", None),
        ("", None),
    ],
)
def test_choice_extraction(text, expected):
    assert answer(CHOICE, text) == expected


def test_choice_equality():
    assert CHOICE.equal("(b)", "B. Paris")
    assert not CHOICE.equal("A", "B")
    assert CHOICE.equal("red", "Red ")
    assert not CHOICE.equal("red", "A")


@given(st.text(max_size=80), st.sampled_from("ABCDEFGHIJ"))
def test_choice_span_is_the_letter(prefix, letter):
    text = f"{prefix}\nThe answer is ({letter})."
    found = CHOICE.extract(text)
    assert found is not None
    assert text[found.start : found.end].upper() == found.answer


@pytest.mark.parametrize("grader", [EXACT, TEXT, CHOICE], ids=lambda grader: grader.name)
@given(a=st.text(max_size=40), b=st.text(max_size=40))
def test_equality_is_symmetric_and_reflexive(grader, a, b):
    assert grader.equal(a, a)
    assert grader.equal(a, b) == grader.equal(b, a)
    found = grader.extract(a)
    if found:
        assert 0 <= found.start < found.end <= len(a)
