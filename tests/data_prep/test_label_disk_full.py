"""``label`` on a disk that is full: one clear line, what is there stays whole, resume goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from check_skips import can_mount
from label_case import write_questions
from pyramid_moa.cli import main

NAMESPACE = ["unshare", "--map-root-user", "--mount"]
QUESTIONS = 1200


@pytest.fixture
def case(tmp_path):
    """Questions and a pyramid whose models replay a table: nothing else needs the disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pyramid_moa.data_prep.datasets import load_queries

    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    queries = list(load_queries(str(questions)).queries)
    rows = [
        {
            "question_id": query.query_id,
            "question": query.question,
            "model": model,
            # Texts that hardly shrink when they are packed.
            "response": " ".join(str(hash((model, query.query_id, n))) for n in range(6)),
            "answer": query.gold,
        }
        for model in ("a", "o")
        for query in queries
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "answers.parquet")
    (tmp_path / "pyramid.yaml").write_text(
        'members: [{name: a, backend: recorded, model: "answers.parquet::a"}]\n'
        'oracles: [{name: o, backend: recorded, model: "answers.parquet::o"}]\n'
    )
    return tmp_path


@pytest.mark.timeout(240)
def test_a_full_disk_loses_nothing(case):
    if not can_mount():
        pytest.skip("no small disk: mount namespaces are not allowed here")
    (case / "disk").mkdir()
    arguments = ["--dataset", str(case / "questions.jsonl")]
    arguments += ["--pyramid", str(case / "pyramid.yaml"), "--out", str(case / "unbroken")]
    assert main(["label", *arguments]) == 0
    script = Path(__file__).with_name("label_on_a_small_disk.py")
    names = ("disk", "questions.jsonl", "pyramid.yaml", "unbroken")
    command = [*NAMESPACE, sys.executable, str(script), *(str(case / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
