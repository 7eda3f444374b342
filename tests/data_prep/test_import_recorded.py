"""Recorded answers become a run folder."""

import os

import pytest

from pyramid_moa.backends import Price
from pyramid_moa.cli import main
from pyramid_moa.data_prep import import_recorded as import_module
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from recorded_rows import ROWS, row


def test_the_questions_that_every_model_answered_become_a_run(import_rows):
    lines = []
    run = import_rows(ROWS, say=lines.append)
    assert [query.query_id for query in run.queries] == ["1", "2", "3", "4", "5"]
    assert [query.gold for query in run.queries] == ["2", "3", "4", "5", "6"]
    assert [row.correct for row in run.generations["Bar-8B"]] == [False, True, False, True, False]
    assert [label.vote_correct for label in run.labels] == [True] * 5
    assert [label.vote_share for label in run.labels] == [0.5, 1.0, 0.5, 1.0, 0.5]
    assert run.manifest.counts == {
        "queries": 5,
        "generations": 15,
        "failed": 0,
        "failed_by_model": {"Foo-8B": 0, "Bar-8B": 0, "Big-70B": 0},
        "retryable": 0,
        "cost_usd": pytest.approx(
            sum(row.cost_usd for own in run.generations.values() for row in own)
        ),
    }
    assert run.manifest.complete
    assert run.manifest.grader == "gsm8k"
    assert run.manifest.dataset == "table"
    assert run.hidden_states == {"Foo-8B": {}, "Bar-8B": {}}
    assert "5 of 8 questions have a row of every model; reference: gold" in lines
    assert any(line.startswith("grader gsm8k") for line in lines)


def test_parts_of_any_length_keep_their_order(import_rows, monkeypatch):
    monkeypatch.setattr(import_module, "_CHUNK", 2)
    run = import_rows(ROWS)
    assert [row.query_id for row in run.generations["Bar-8B"]] == ["1", "2", "3", "4", "5"]


def test_a_null_answer_is_a_wrong_one(import_rows):
    rows = [
        row(1, "Foo-8B", None, response="so it is 2"),
        row(1, "Bar-8B", None, response=None),
        row(1, "Big-70B", "2"),
    ]
    run = import_rows(rows)
    for name in ("Foo-8B", "Bar-8B"):
        assert run.generations[name][0].answer is None
        assert run.generations[name][0].correct is False
        assert run.generations[name][0].error is None
    assert run.labels[0].vote_answer is None
    assert not run.labels[0].vote_correct


def test_answers_are_extracted_where_the_table_has_none(import_rows):
    run = import_rows(ROWS, drop=["answer"])
    assert [row.answer for row in run.generations["Foo-8B"]] == ["2", "3", "4", "5", "6"]
    assert all(row.correct for row in run.generations["Big-70B"])


def test_three_writings_of_a_number_are_one_vote(import_rows):
    rows = [
        row(1, model, answer, gold=r"\frac{3}{4}")
        for model, answer in (
            ("a", "1"),
            ("b", "3/4"),
            ("c", "0.75"),
            ("d", r"\frac34"),
            ("o", "2"),
        )
    ]
    run = import_rows(rows, members=["a", "b", "c", "d"], oracle="o", grader_name="math-verify")
    (label,) = run.labels
    assert (label.vote_answer, label.vote_share) == ("3/4", 0.75)
    assert label.vote_correct
    assert not label.oracle_correct
    assert [run.generations[name][0].correct for name in "abcdo"] == [
        False, True, True, True, False
    ]  # fmt: skip


def test_token_counts_are_estimated_and_marked(import_rows):
    lines = []
    run = import_rows(ROWS, say=lines.append)
    assert run.manifest.tokens_estimated
    assert "token counts, and the costs from them, are estimates: the tables have none" in lines
    row = run.generations["Foo-8B"][0]
    assert row.tokens_estimated
    assert row.prompt_tokens == estimate_tokens(run.queries[0].question)
    assert row.completion_tokens == estimate_tokens("so it is 2")
    # The price of the 8B class.
    assert row.cost_usd == pytest.approx(0.2e-6 * (row.prompt_tokens + row.completion_tokens))
    assert "Foo-8B: stand-in price of its size class" in run.manifest.price_note
    assert [cost.active_parameters for cost in run.manifest.costs] == [8e9, 8e9, 70e9]


def test_what_the_source_recorded_is_kept(import_rows):
    fields = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "cost_usd": 0.25,
        "latency_s": 1.5,
        "mean_logprob": -0.5,
        "confidence": 0.9,
    }
    run = import_rows([{**row, **fields} for row in ROWS])
    assert not run.manifest.tokens_estimated
    for own in run.generations.values():
        for found in own:
            assert not found.tokens_estimated
            assert (found.prompt_tokens, found.completion_tokens) == (100, 50)
            assert (found.cost_usd, found.latency_s, found.confidence) == (0.25, 1.5, 0.9)
            assert found.logprobs.mean == -0.5
            assert found.logprobs.minimum is None


def test_a_users_prices_come_before_recorded_costs(write, tmp_path):
    rows = [{**row, "prompt_tokens": 100, "completion_tokens": 50, "cost_usd": 9.0} for row in ROWS]
    prices = tmp_path / "prices.yaml"
    prices.write_text("Foo-8B: {input: 1, output: 2, active_parameters: 3e9}\n")
    arguments = ["import", str(write(rows)), "--member", "Foo-8B", "--oracle", "Big-70B"]
    arguments += ["--prices", str(prices), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    run = read_labelled_run(tmp_path / "run")
    assert run.generations["Foo-8B"][0].cost_usd == pytest.approx(200e-6)
    assert run.generations["Big-70B"][0].cost_usd == 9.0
    assert run.manifest.costs[0].price == Price(input=1, output=2)
    assert run.manifest.costs[0].active_parameters == 3e9
    assert "Foo" not in run.manifest.price_note


def test_samples_of_one_model_are_members(import_rows):
    rows = [row(n, "m", str(n + 1 + s), sample=s) for n in range(4) for s in range(3)]
    rows += [row(n, "o", str(n + 1)) for n in range(4)]
    members = ["m::greedy::0", "m::greedy::1", "m::greedy::2"]
    run = import_rows(rows, members=members, oracle="o")
    assert run.manifest.members == members
    for sample, name in enumerate(members):
        assert [row.answer for row in run.generations[name]] == [
            str(n + 1 + sample) for n in range(4)
        ]
        assert {row.sample for row in run.generations[name]} == {sample}
        assert {row.variant for row in run.generations[name]} == {"greedy"}


def test_questions_whose_text_differs_in_spacing_are_the_same(import_rows):
    rows = [{**row, "question": f" {row['question']}\n"} if row["model"] == "Foo-8B" else row
            for row in ROWS]  # fmt: skip
    assert len(import_rows(rows).queries) == 5


def test_numbers_repeat_over_the_splits_of_a_source(import_rows):
    rows = [
        *ROWS,
        *({**row, "split": "train", "question": f"Train: {row['question']}"} for row in ROWS),
    ]
    run = import_rows(rows)
    assert len(run.queries) == 10
    assert {query.query_id for query in run.queries} >= {"test-1", "train-1"}


def test_splits_go_by_the_questions_hash_or_are_named(import_rows, tmp_path, write):
    run = import_rows(ROWS)
    assert {q.split for q in run.queries} <= {"train", "validation", "calibration", "test"}
    assert run.manifest.splits == "hash"
    named = ["import", str(write(ROWS)), "--member", "Foo-8B", "--oracle", "Big-70B"]
    assert main([*named, "--split", "mine", "--out", str(tmp_path / "named")]) == 0
    run = read_labelled_run(tmp_path / "named")
    assert {query.split for query in run.queries} == {"mine"}
    assert run.manifest.splits == "mine"


@pytest.mark.parametrize("missing", [range(8), [3]])
def test_without_gold_for_all_the_oracle_is_the_reference(import_rows, missing):
    rows = [{**row, "gold": None} if row["question_id"] in missing else row for row in ROWS]
    lines = []
    run = import_rows(rows, say=lines.append)
    assert run.manifest.reference == "oracle"
    assert all(query.gold is None for query in run.queries)
    assert all(row.correct for row in run.generations["Big-70B"])
    assert [row.correct for row in run.generations["Bar-8B"]] == [False, True, False, True, False]
    assert any("reference: oracle" in line for line in lines)
    said = "not every question has gold: labels and figures are against the oracle's answers"
    assert said in lines
    assert run.manifest.grader == "gsm8k"


def test_gold_may_stand_with_one_model_alone(import_rows):
    rows = [{**row, "gold": None} if row["model"] != "Big-70B" else row for row in ROWS]
    assert import_rows(rows).manifest.reference == "gold"


def test_blank_golds_are_none(import_rows):
    rows = [{**row, "gold": " "} if row["model"] != "Big-70B" else row for row in ROWS]
    assert import_rows(rows).manifest.reference == "gold"


def test_the_folder_has_the_permissions_of_any_other(import_rows, tmp_path):
    before = os.umask(0o027)
    try:
        import_rows(ROWS)
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o750


def test_tables_add_up(write, tmp_path):
    members = write([row for row in ROWS if row["model"] != "Big-70B"], name="members.parquet")
    oracle = write([row for row in ROWS if row["model"] == "Big-70B"], name="oracle.parquet")
    manifest = import_recorded(
        [members, oracle], members=["Foo-8B"], oracle="Big-70B", out=tmp_path / "run"
    )
    assert manifest.dataset == "members, oracle"
    assert manifest.counts["queries"] == 6
