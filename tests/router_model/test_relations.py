"""What two answers have in common."""

import time

import numpy as np
import pytest

from pyramid_moa.records import Generation
from pyramid_moa.router_model.relations import RELATIONS, relations


def row(answer, response):
    return Generation(query_id="q", model="a", answer=answer, response=response)


ROWS = (
    row("5", "two and three, 2 and 3, make 5"),
    row("15", "Two Three Make 15: 2, 1,500"),
    None,
    Generation(query_id="q", model="a", error="gone"),
    row("no number", "maybe"),
    row("5", None),
)


def test_by_hand():
    assert RELATIONS == ("same_words", "same_numbers", "closeness")
    table = relations(ROWS, numeric=True)
    # two, and, three, make; against two, three, make
    assert table[0, 1, 0] == pytest.approx(3 / 4)
    # 2, 3, 5; against 15, 2, 1500
    assert table[0, 1, 1] == pytest.approx(1 / 5)
    assert table[0, 1, 2] == pytest.approx(1 - 10 / 20)
    assert table[0, 4, 0] == 0.0
    assert np.isnan(table[0, 4, 1:]).all()  # it has no numbers
    assert np.isnan(table[0, 5, :2]).all()  # it has no text
    assert table[0, 5, 2] == 1.0


def test_it_is_symmetric_and_says_nothing_of_one_answer():
    table = relations(ROWS, numeric=True)
    assert table.shape == (6, 6, 3)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, table.transpose(1, 0, 2))
    assert np.isnan(table[range(6), range(6)]).all()


def test_of_who_failed_or_was_not_asked_nothing_is_known():
    table = relations(ROWS, numeric=True)
    assert np.isnan(table[2:4]).all()
    assert np.isnan(table[:, 2:4]).all()


def test_answers_that_are_no_numbers_are_not_near_each_other():
    table = relations(ROWS, numeric=False)
    assert np.isnan(table[..., 2]).all()
    assert table[0, 1, 0] == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("one", "other", "near"), [("0", "0", 1.0), ("5", "-5", 0.0), ("0", "3", 0.0), ("9", "11", 0.9)]
)
def test_closeness(one, other, near):
    table = relations([row(one, "x"), row(other, "x")], numeric=True)
    assert table[0, 1, 2] == pytest.approx(near)


def test_no_members_and_one():
    assert relations([], numeric=True).shape == (0, 0, 3)
    assert np.isnan(relations(ROWS[:1], numeric=True)).all()


@pytest.mark.parametrize("text", ["1" * 100_000, "a1 " * 33_000, "1," * 50_000, "", "." * 100_000])
def test_long_texts_take_no_time(text):
    started = time.process_time()
    table = relations([row("9" * 300, text)] * 6, numeric=True)
    assert time.process_time() - started < 1.0
    assert not np.isinf(table).any()
