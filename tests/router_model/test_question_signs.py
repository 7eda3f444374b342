"""What is read off a question."""

import math
import time

import pytest

from pyramid_moa.router_model.question_signs import QUESTION_SIGNS, question_signs


def signs(question):
    return dict(zip(QUESTION_SIGNS, question_signs(question), strict=True))


def test_every_sign_by_hand():
    found = signs("Ann (10%) pays $1,200.50 and €3.\n  Bob/Eve [all] pay {7}? Who pays?")
    counts = {
        "characters": 67,
        "words": 9,
        "numbers": 4,
        "lines": 1,
        "sentences": 2,
        "percent_signs": 1,
        "currency_signs": 2,
        "slashes": 1,
        "question_marks": 2,
        "parentheses": 1,
        "brackets": 2,
        "indentation": 2,
    }
    for name, count in counts.items():
        assert found[name] == pytest.approx(math.log1p(count)), name
    assert found["largest_number"] == pytest.approx(math.log10(1201.5))
    assert found["decimals"] == 1.0
    assert found["word_length"] == pytest.approx(29 / 9)
    assert found["distinct_words"] == pytest.approx(8 / 9)
    assert set(found) == {*counts, "largest_number", "decimals", "word_length", "distinct_words"}


def test_no_question_at_all_is_all_zeros():
    assert question_signs("") == [0.0] * len(QUESTION_SIGNS)


@pytest.mark.parametrize(
    "text",
    ["1" * 100_000, "1," * 50_000, "(" * 100_000, "\n " * 50_000, "a" * 100_000, "1 " * 50_000],
)
def test_a_long_question_takes_no_time(text):
    started = time.process_time()
    values = question_signs(text)
    assert time.process_time() - started < 1.0
    assert all(math.isfinite(value) for value in values)
    assert signs(text)["characters"] == pytest.approx(math.log1p(len(text)))
