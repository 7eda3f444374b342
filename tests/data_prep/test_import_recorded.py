import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pyramid_moa.backends import Price
from pyramid_moa.cli import main
from pyramid_moa.data_prep import import_recorded as import_module
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from pyramid_moa.errors import ConfigError, DataError, RunFolderError


def row(number, model, answer, **fields):
    return {
        "source": "s",
        "split": "test",
        "question_id": number,
        "question": f"{number} apples and one are how many?",
        "gold": str(number + 1),
        "model": model,
        "variant": "greedy",
        "sample": 0,
        "response": f"so it is {answer}",
        "answer": answer,
        "prompt_tokens": None,
        "completion_tokens": None,
        "cost_usd": None,
        "latency_s": None,
        "mean_logprob": None,
        "confidence": None,
        **fields,
    }


ROWS = [
    *(row(n, "Foo-8B", str(n + 1)) for n in range(6)),
    *(row(n, "Bar-8B", str(n + 2) if n % 2 else f"{n + 1}.00") for n in range(1, 8)),
    *(row(n, "Big-70B", str(n + 1)) for n in range(8)),
]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="table.parquet", drop=()):
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(rows).drop_columns(list(drop)), path)
        return path

    return write


@pytest.fixture
def import_rows(write, tmp_path):
    """Import rows as members Foo-8B and Bar-8B with the oracle Big-70B unless said otherwise."""

    def import_rows(rows, *, drop=(), **options):
        out = tmp_path / "run"
        options = {"members": ["Foo-8B", "Bar-8B"], "oracle": "Big-70B", "out": out, **options}
        import_recorded([write(rows, drop=drop)], **options)
        return read_labelled_run(out)

    return import_rows


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


@pytest.mark.parametrize("oracle", ["Foo-8B", "Foo-8B::greedy", "Foo-8B::greedy::0"])
def test_one_recording_is_not_two_models(import_rows, oracle):
    with pytest.raises(DataError, match=r"expected different recordings.*found one twice"):
        import_rows(ROWS, members=["Foo-8B"], oracle=oracle)


def test_no_members(import_rows):
    with pytest.raises(DataError, match="at least one member"):
        import_rows(ROWS, members=[])


def test_questions_that_nobody_shares(import_rows):
    rows = [row(1, "Foo-8B", "2"), row(2, "Bar-8B", "3"), row(2, "Big-70B", "3")]
    with pytest.raises(DataError, match=r"no question was answered by every model; .*Foo-8B: 1"):
        import_rows(rows)


def test_numbers_that_mean_other_questions_do_not_mix(import_rows):
    rows = [*ROWS, row(1, "Other-8B", "2", question="Another question")]
    with pytest.raises(DataError, match="question 1: expected the same text from every model"):
        import_rows(rows, members=["Foo-8B", "Other-8B"])


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


def test_two_golds_for_one_question(import_rows):
    rows = [
        {**r, "gold": "7"} if (r["model"], r["question_id"]) == ("Bar-8B", 3) else r for r in ROWS
    ]
    with pytest.raises(DataError, match=r"question 3: expected the same gold .*'4' and '7'"):
        import_rows(rows)


def test_a_blank_question(import_rows):
    rows = [{**row, "question": " "} if row["question_id"] == 2 else row for row in ROWS]
    with pytest.raises(DataError, match="question 2: the question is blank"):
        import_rows(rows)


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


def refused(arguments, capsys, folder):
    """End with one clear line and leave nothing."""
    before = sorted(folder.rglob("*"))
    assert main(["import", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--member", "Baz", "--oracle", "Big-70B"], "no recording fits 'Baz'; found models:"),
        (["--member", "Foo-8B::hot", "--oracle", "Big-70B"], "found of that model"),
        (["--member", "Foo-8B", "--oracle", "Foo-8B"], "expected different recordings"),
        (["--member", "Foo-8B", "--oracle", "Big-70B", "--grader", "guess"], "unknown grader"),
        (["--member", "Foo-8B", "--oracle", "Big-70B", "--prices", "no.yaml"], "no.yaml"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(write, tmp_path, capsys, options, says):
    table = write(ROWS)
    line = refused([table, *options, "--out", tmp_path / "deep" / "run"], capsys, tmp_path)
    assert line.startswith("pyramid-moa import: ")
    assert says in line


def test_an_ambiguous_name_is_refused_with_the_list(write, tmp_path, capsys):
    table = write([*ROWS, row(1, "Foo-8B", "7", variant="hot")])
    options = ["--member", "Foo-8B", "--oracle", "Big-70B", "--out", tmp_path / "run"]
    line = refused([table, *options], capsys, tmp_path)
    assert "'Foo-8B' fits 2 recordings" in line
    assert "Foo-8B::greedy::0" in line
    assert "Foo-8B::hot::0" in line


def test_a_run_that_is_there_is_not_overwritten(write, tmp_path, capsys):
    table = write(ROWS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    options = ["--member", "Foo-8B", "--oracle", "Big-70B", "--out", tmp_path / "run"]
    assert "exists already" in refused([table, *options], capsys, tmp_path)


@pytest.mark.parametrize("column", ["question_id", "question", "model"])
def test_a_missing_column(write, tmp_path, capsys, column):
    table = write(ROWS, drop=[column])
    options = ["--member", "Foo-8B", "--oracle", "Big-70B", "--out", tmp_path / "run"]
    line = refused([table, *options], capsys, tmp_path)
    assert f"missing {column}; found source" in line


def test_a_missing_and_an_empty_table(write, tmp_path, capsys):
    options = ["--member", "Foo-8B", "--oracle", "Big-70B", "--out", tmp_path / "run"]
    assert "no such file" in refused([tmp_path / "no.parquet", *options], capsys, tmp_path)
    path = write(ROWS)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert "empty table" in refused([path, *options], capsys, tmp_path)


def test_an_error_while_writing_leaves_nothing(write, tmp_path, monkeypatch):
    table = write(ROWS)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(import_module, "write_manifest", full)
    with pytest.raises(OSError, match="No space"):
        import_recorded([table], members=["Foo-8B"], oracle="Big-70B", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == [table]


def test_where_no_folder_can_be(write, tmp_path):
    table = write(ROWS)
    with pytest.raises(RunFolderError, match="can't make a folder there"):
        import_recorded([table], members=["Foo-8B"], oracle="Big-70B", out=table / "run")


def test_an_unknown_grader_is_an_error_of_configuration(import_rows):
    with pytest.raises(ConfigError, match="unknown grader"):
        import_rows(ROWS, grader_name="guess")


# The recorded answers of real models.

REAL = {
    "recorded/zeroeval": (
        ["Meta-Llama-3-8B-Instruct", "Qwen2-7B-Instruct", "gemma-2-9b-it"],
        "gpt-4o-2024-08-06",
        [],
        "gsm8k",
        869,
    ),
    "recorded_other/math-l5": (
        ["Qwen2-7B-Instruct", "gemma-2-27b-it", "Meta-Llama-3-70B-Instruct"],
        "o1-mini-2024-09-12",
        ["--grader", "math-verify"],
        "math-verify",
        489,
    ),
    "recorded_other/crux": (
        ["Qwen2-7B-Instruct", "gemma-2-27b-it", "Meta-Llama-3-70B-Instruct"],
        "o1-mini-2024-09-12",
        [],
        "python-literal",
        522,
    ),
}


@pytest.mark.parametrize("table", REAL)
def test_recorded_answers_of_real_models(shared_data, tmp_path, capsys, table):
    members, oracle, options, grader, questions = REAL[table]
    path, out = shared_data / f"{table}.parquet", tmp_path / "run"
    arguments = ["import", str(path), "--oracle", oracle, "--out", str(out), *options]
    for member in members:
        arguments += ["--member", member]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert f"{questions} of {questions} questions" in captured.err
    assert "estimates" in captured.err
    assert captured.out == f"run: {out}\n"
    run = read_labelled_run(out)
    assert run.manifest.grader == grader
    assert run.manifest.counts["queries"] == questions
    assert run.manifest.counts["generations"] == 4 * questions
    assert run.manifest.tokens_estimated
    recorded = pq.read_table(path, columns=["model", "correct"])
    for name in [*members, oracle]:
        own = recorded.filter(pc.equal(recorded["model"], name))["correct"]
        accuracy = sum(row.correct for row in run.generations[name]) / questions
        assert accuracy == pytest.approx(pc.mean(own.cast(pa.float64())).as_py(), abs=0.01)
        assert all(row.cost_usd > 0 for row in run.generations[name])
    costs = [sum(row.cost_usd for row in run.generations[name]) for name in [*members, oracle]]
    assert max(costs[:-1]) < costs[-1]
    shares = {query.split for query in run.queries}
    assert shares == {"train", "validation", "calibration", "test"}
    train = len(run.of_split("train")) / questions
    assert 0.42 < train < 0.58
