import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.data_prep.token_estimate import estimate_tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("hello", 1),
        ("hello world", 2),
        ("It is 42.", 4),
        ("don't", 2),
        ("a  b", 3),
        ("1,200", 3),
        ("characteristic misunderstandings", 3),
        ("x" * 100_000, 1 + (100_000 - 16) // 4),
        ("汉字" * 500, 1000),
        ("Größe 汉字", 3),
        ("😀", 1),
        ("Привет", 1),
    ],
)
def test_words_numbers_marks_and_spaces(text, count):
    assert estimate_tokens(text) == count


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_estimates_grow_with_the_text(left, right):
    whole = estimate_tokens(left + "\n" + right)
    assert 0 <= estimate_tokens(left) <= len(left.encode())
    assert whole >= max(estimate_tokens(left), estimate_tokens(right))
