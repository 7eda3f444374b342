from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.data_prep.splits import assign_splits
from pyramid_moa.records import Query, question_hash


def queries(count, split=None):
    return [Query(query_id=str(n), question=f"What is {n}?", split=split) for n in range(count)]


def shares(assigned):
    counts = Counter(query.split for query in assigned)
    return {name: count / len(assigned) for name, count in counts.items()}


@pytest.mark.parametrize("split", [None, "train"])
def test_without_a_test_set_all_four(split):
    assert shares(list(assign_splits(queries(20_000, split)))) == pytest.approx(
        {"train": 0.5, "validation": 0.15, "calibration": 0.15, "test": 0.2}, abs=0.012
    )


def test_borders_follow_the_hash():
    for query in assign_splits(queries(2_000)):
        u = int(question_hash(query.question)[:16], 16) / 2**64
        expected = next(
            name
            for name, border in [
                ("train", 0.5), ("validation", 0.65), ("calibration", 0.8), ("test", 1.0)
            ]
            if u < border
        )  # fmt: skip
        assert query.split == expected


def test_a_test_set_of_its_own_is_kept_and_the_rest_divided():
    own = [Query(query_id="t", question="Own?", split="test")]
    assigned = list(assign_splits([*queries(20_000), *own]))
    assert assigned[-1] == own[0]
    assert shares(assigned[:-1]) == pytest.approx(
        {"train": 50 / 80, "validation": 15 / 80, "calibration": 15 / 80}, abs=0.012
    )


def test_with_a_test_set_train_is_divided_and_the_other_names_are_kept():
    given_splits = ["test", "validation", "calibration", "mine"]
    given_queries = [Query(query_id=name, question=f"{name}?", split=name) for name in given_splits]
    assigned = list(assign_splits([*given_queries, *queries(300, "train")]))
    assert assigned[:4] == given_queries
    assert set(shares(assigned[4:])) == {"train", "validation", "calibration"}


def test_all_in_one():
    assert {query.split for query in assign_splits(queries(9, "test"), all_in="mine")} == {"mine"}
    assert list(assign_splits([])) == []


@pytest.mark.parametrize("has_test", [True, False])
def test_lazily_where_it_is_known_whether_there_is_a_test_set(has_test):
    drawn = []

    def source():
        for query in [*queries(100, "train"), *queries(3, "test" if has_test else None)]:
            drawn.append(query)
            yield query

    assigned = assign_splits(source(), has_test=has_test)
    assert drawn == []
    next(assigned)
    assert len(drawn) == 1
    splits = {query.split for query in islice(assigned, 99)}
    assert ("test" in splits) is not has_test
    assert len(list(assigned)) == 3


@given(st.text(), st.sampled_from([None, "train"]))
def test_the_question_alone_decides(question, split):
    first = Query(query_id="1", question=question, split=split)
    second = Query(query_id="2", question=f"  {question}\n", gold="7")
    other = Query(query_id="3", question="Other?")
    (alone,) = assign_splits([first])
    assert list(assign_splits([other, second]))[1].split == alone.split
    own_test = Query(query_id="4", question="Test?", split="test")
    _, divided = assign_splits([own_test, first])
    assert divided.split in ("train", "validation", "calibration")
    if alone.split == "train":
        assert divided.split == "train"
