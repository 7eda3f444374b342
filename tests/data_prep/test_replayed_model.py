"""``label`` with models that replay a table of recorded answers."""

import pyarrow.parquet as pq
import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from synthetic import MEMBERS, ORACLE


def write_pyramid(path, table, *, oracle=ORACLE, price=""):
    entries = [
        f'  - {{name: {name}, backend: recorded, model: "{table}::{recording}"{price}}}\n'
        for name, recording in [*((name, name) for name in MEMBERS), ("o", oracle)]
    ]
    path.write_text(f"members:\n{''.join(entries[:-1])}oracles:\n{entries[-1]}")
    return path


@pytest.fixture
def questions(tmp_path, recorded_table):
    """The table's questions under other ids, one of them twice, and one that it does not have."""
    table = pq.read_table(recorded_table, columns=["question", "gold", "model"]).to_pylist()
    rows = [row for row in table if row["model"] == ORACLE][:6]
    lines = ["id,question,answer"]
    lines += [f"r{n},{row['question']},{row['gold']}" for n, row in enumerate([*rows, rows[0]])]
    lines.append("r7,How far is the moon?,384400")
    path = tmp_path / "questions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_label(questions, pyramid, out):
    arguments = ["label", "--dataset", str(questions), "--pyramid", str(pyramid)]
    return main([*arguments, "--out", str(out)])


def test_answers_are_found_by_their_question(tmp_path, questions, recorded_table):
    pyramid = write_pyramid(tmp_path / "p.yaml", recorded_table)
    assert run_label(questions, pyramid, tmp_path / "run") == 0
    run = read_labelled_run(tmp_path / "run")
    assert [query.query_id for query in run.queries] == [f"r{n}" for n in range(8)]
    recorded = {
        (row["model"], row["question"]): row for row in pq.read_table(recorded_table).to_pylist()
    }
    for name in MEMBERS:
        for query, row in zip(run.queries[:7], run.generations[name], strict=False):
            twin = recorded[name, query.question]
            assert row.query_id == query.query_id
            assert (row.response, row.answer) == (twin["response"], twin["answer"])
            assert row.correct == (twin["answer"] == twin["gold"])
            assert row.completion_tokens == twin["completion_tokens"]
        assert run.generations[name][7].error == f"no recorded answer of {name}"
    assert run.generations["o"][0].model == "o"
    assert run.manifest.counts["failed"] == 4
    assert run.manifest.counts["retryable"] == 0


def test_the_table_is_found_beside_the_pyramid_and_is_part_of_what_the_run_is(
    tmp_path, questions, recorded_table
):
    (tmp_path / "answers.parquet").write_bytes(recorded_table.read_bytes())
    pyramid = write_pyramid(tmp_path / "p.yaml", "answers.parquet")
    assert run_label(questions, pyramid, tmp_path / "run") == 0
    before = load_pyramid(pyramid).identity()
    pq.write_table(pq.read_table(recorded_table).slice(8), tmp_path / "answers.parquet")
    assert load_pyramid(pyramid).identity() != before


def test_a_price_of_the_pyramids_counts(tmp_path, questions, recorded_table):
    pyramid = write_pyramid(
        tmp_path / "p.yaml", recorded_table, price=", price: {input: 1, output: 2}"
    )
    assert run_label(questions, pyramid, tmp_path / "run") == 0
    row = read_labelled_run(tmp_path / "run").generations["o"][0]
    assert row.cost_usd == pytest.approx((row.prompt_tokens + 2 * row.completion_tokens) / 1e6)


@pytest.mark.parametrize(
    ("table", "oracle", "says"),
    [
        (None, "nobody", "no recording fits 'nobody'"),
        ("nowhere.parquet", ORACLE, "nowhere.parquet: no such file"),
        ("", ORACLE, "expected model: TABLE.parquet::MODEL"),
    ],
)
def test_what_can_not_be_replayed(tmp_path, questions, recorded_table, capsys, table, oracle, says):
    named = recorded_table if table is None else table
    pyramid = write_pyramid(tmp_path / "p.yaml", named, oracle=oracle)
    assert run_label(questions, pyramid, tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert says in error


def test_the_gate_says_that_a_table_answers_no_new_questions(
    tmp_path, questions, recorded_table, capsys
):
    pyramid = write_pyramid(tmp_path / "p.yaml", recorded_table)
    arguments = ["answer", "--input", str(questions), "--output", str(tmp_path / "a.jsonl")]
    assert main([*arguments, "--pyramid", str(pyramid)]) == 2
    assert "backend 'recorded' has no model to run" in capsys.readouterr().err
