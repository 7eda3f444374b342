"""The graders against answers of real models, as recorded with their marks."""

import pytest

from pyramid_moa.grading import load_grader

TABLES = [
    ("recorded/abel", "gsm8k", 3, 1.0, 0.995),
    ("recorded/anytime", "gsm8k", 10, 1.0, 0.97),
    ("recorded/chain_selfcheck", "gsm8k", 3, 1.0, 0.995),
    ("recorded/cot_uq", "gsm8k", 8, 1.0, 0.97),
    ("recorded/modelswitch", "gsm8k", 3, 1.0, 0.995),
    ("recorded/openai_examples", "gsm8k", 4, 1.0, 0.99),
    ("recorded/re2", "gsm8k", 10, 1.0, 0.995),
    ("recorded/routellm", "gsm8k", 2, 1.0, 0.98),
    ("recorded/tora", "gsm8k", 2, 1.0, 0.99),
    ("recorded/zeroeval", "gsm8k", 17, 1.0, 0.99),
    # Where these differ, the table counts as wrong what a model wrote without quotes, such as 6,8,8
    # for the string '6,8,8', or a string with white space around.
    ("recorded_other/crux", "python-literal", 7, 0.985, 0.99),
    ("recorded_other/math-l5", "math-verify", 120, 0.99, 0.97),
]


@pytest.mark.parametrize(("table", "name", "step", "marks", "answers"), TABLES)
def test_agreement(shared_data, table, name, step, marks, answers):
    import pyarrow.parquet as pq

    path = shared_data / f"{table}.parquet"
    rows = pq.read_table(path, columns=["gold", "answer", "correct", "response"]).to_pylist()
    rows = rows[::step]
    grader = load_grader(name)
    same_mark = same_answer = 0
    for row in rows:
        recorded = row["answer"]
        mark = recorded is not None and grader.equal(row["gold"], recorded)
        same_mark += mark == row["correct"]
        found = grader.extract(row["response"])
        if found is None or recorded is None:
            same_answer += found is None and recorded is None
        else:
            same_answer += grader.equal(found.answer, recorded)
            assert 0 <= found.start <= found.end <= len(row["response"])
    assert same_mark >= marks * len(rows)
    assert same_answer >= answers * len(rows)
