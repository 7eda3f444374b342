"""Recorded answers of several oracles, one for each tier."""

import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import DataError
from recorded_rows import ROWS, row


@pytest.fixture
def three_tiers():
    """Members that outvote a mid oracle which is always wrong, and an oracle that is right."""
    mid = [row(n, "Mid-27B", str(n + 2)) for n in range(8)]
    return [*ROWS, *mid]


def test_the_last_of_several_oracles_is_the_oracle(import_rows, three_tiers):
    run = import_rows(three_tiers, oracle=["Mid-27B", "Big-70B"])
    assert run.manifest.members == ["Foo-8B", "Bar-8B"]
    assert run.manifest.mid_oracles == ["Mid-27B"]
    assert run.manifest.oracle == "Big-70B"
    assert run.manifest.tiers == [["Foo-8B", "Bar-8B"], ["Mid-27B"], ["Big-70B"]]
    assert [cost.name for cost in run.manifest.costs] == run.manifest.models
    assert list(run.generations) == ["Foo-8B", "Bar-8B", "Mid-27B", "Big-70B"]
    assert run.manifest.counts["generations"] == 5 * 4
    # The vote is the members' alone: with the mid oracle's answer it would be lost.
    assert [label.vote_correct for label in run.labels] == [True] * 5
    assert [label.vote_share for label in run.labels] == [0.5, 1.0, 0.5, 1.0, 0.5]
    assert [label.oracle_correct for label in run.labels] == [True] * 5
    assert [row.correct for row in run.generations["Mid-27B"]] == [False] * 5
    assert list(run.answers_before_oracle(0)) == ["Foo-8B", "Bar-8B", "Mid-27B"]
    assert list(run.member_answers(0)) == ["Foo-8B", "Bar-8B"]
    assert run.hidden_states == {"Foo-8B": {}, "Bar-8B": {}}


def test_without_gold_the_last_oracle_is_the_reference(import_rows, three_tiers):
    rows = [{**row, "gold": None} for row in three_tiers]
    run = import_rows(rows, oracle=["Mid-27B", "Big-70B"])
    assert run.manifest.reference == "oracle"
    assert not any(row.correct for row in run.generations["Mid-27B"])
    assert all(row.correct for row in run.generations["Big-70B"])


def test_questions_that_a_mid_oracle_was_not_asked_are_left_out(import_rows, three_tiers):
    rows = [r for r in three_tiers if (r["model"], r["question_id"]) != ("Mid-27B", 3)]
    run = import_rows(rows, oracle=["Mid-27B", "Big-70B"])
    assert [query.query_id for query in run.queries] == ["1", "2", "4", "5"]


def test_the_command_takes_an_oracle_for_each_tier(write, tmp_path, three_tiers):
    arguments = ["import", str(write(three_tiers)), "--member", "Foo-8B", "--out"]
    oracles = ["--oracle", "Bar-8B", "--oracle", "Mid-27B", "--oracle", "Big-70B"]
    assert main([*arguments, str(tmp_path / "run"), *oracles]) == 0
    manifest = read_labelled_run(tmp_path / "run").manifest
    assert manifest.tiers == [["Foo-8B"], ["Bar-8B"], ["Mid-27B"], ["Big-70B"]]


def test_one_oracle_may_stand_alone_or_in_a_list(import_rows, write, tmp_path):
    alone = import_rows(ROWS).manifest
    listed = import_recorded(
        [write(ROWS)], members=["Foo-8B", "Bar-8B"], oracle=["Big-70B"], out=tmp_path / "listed"
    )
    assert alone.mid_oracles == []
    assert listed == alone


def test_no_oracle(import_rows):
    with pytest.raises(DataError, match="expected at least one oracle, found none"):
        import_rows(ROWS, oracle=[])


@pytest.mark.parametrize("oracle", [["Big-70B", "Big-70B"], ["Bar-8B::greedy", "Big-70B"]])
def test_a_mid_oracle_is_no_other_model_of_the_run(import_rows, oracle):
    with pytest.raises(DataError, match=r"expected different recordings.*found one twice"):
        import_rows(ROWS, oracle=oracle)
