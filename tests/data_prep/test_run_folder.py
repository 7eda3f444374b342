import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.run_tables import (
    Label,
    generations_from_table,
    generations_to_table,
)
from pyramid_moa.errors import RunFolderError
from pyramid_moa.records import Generation, LogprobStatistics, Query, question_hash

KEYS = ("layer-1/answer_mean", "layer2/last_prompt")


def generation(number, *, error=None, width=3):
    states = {key: np.full(width, number + at, np.float16) for at, key in enumerate(KEYS)}
    return Generation(
        query_id=f"q{number}",
        model="m",
        response=None if error else f"answer {number}",
        error=error,
        logprobs=None if error else LogprobStatistics(mean=-1.0 * number),
        hidden_states=None if error else states,
    )


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create([Query(query_id=f"q{n}", question=f"{n}?", split="test") for n in range(6)])
    return folder


def test_queries_come_back_with_their_hashes(tmp_path):
    queries = [
        Query(query_id="a", question="Größe?", gold="4", split="train"),
        Query(query_id="b", question="x" * 100_000, split="mine"),
    ]
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(queries)
    assert folder.read_queries() == queries
    table = pq.read_table(folder.path / "queries.parquet")
    assert table["question_hash"].to_pylist() == [question_hash(q.question) for q in queries]


texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.none() | st.floats(allow_nan=False)


@given(
    st.lists(
        st.builds(
            Generation,
            query_id=st.text(st.characters(codec="utf-8"), max_size=4),
            model=st.just("m"),
            variant=st.sampled_from(["", "greedy"]),
            sample=st.integers(0, 9),
            response=texts,
            answer=texts,
            correct=st.none() | st.booleans(),
            finish_reason=texts,
            error=texts,
            can_retry=st.booleans(),
            prompt_tokens=st.none() | st.integers(0, 2**40),
            completion_tokens=st.none() | st.integers(0, 2**40),
            tokens_estimated=st.booleans(),
            latency_s=numbers,
            cost_usd=numbers,
            confidence=numbers,
            logprobs=st.none()
            | st.builds(
                LogprobStatistics,
                mean=st.floats(allow_nan=False),
                minimum=numbers,
                tail_mean=numbers,
                answer_mean=numbers,
                answer_minimum=numbers,
            ),
        ),
        max_size=4,
    )
)
def test_generations_survive_the_way_through_a_table(rows):
    assert generations_from_table(generations_to_table(rows)) == rows


def test_labels_come_back(folder):
    labels = [
        Label(query_id="q0", vote_answer=None, vote_share=0.0, vote_correct=False,
              oracle_answer="4", oracle_correct=True, reference="gold")
    ]  # fmt: skip
    folder.write_labels(labels)
    assert folder.read_labels() == labels


def test_hidden_states_stay_with_their_rows(folder):
    rows = [generation(0), generation(1, error="too long"), generation(2)]
    folder.write_part(1, 0, rows)
    found = folder.read_part(1, 0)
    assert found == rows
    for row, expected in zip(found, rows, strict=True):
        assert (row.hidden_states is None) == (expected.hidden_states is None)
        for key, vector in (expected.hidden_states or {}).items():
            np.testing.assert_array_equal(row.hidden_states[key], vector)
            assert row.hidden_states[key].dtype == np.float16
    plain = folder.read_part(1, 0, hidden_states=False)
    assert plain == rows
    assert all(row.hidden_states is None for row in plain)
    assert folder.read_part(0, 0) is None
    assert folder.read_part(1, 1) is None


def test_parts_are_put_together_in_order_whatever_failed(folder):
    # Written out of order, with a part in which every row failed in front and one in the middle.
    folder.write_part(0, 2, [generation(4), generation(5)])
    folder.write_part(0, 0, [generation(0, error="x")])
    folder.write_part(0, 1, [generation(1, error="x"), generation(2), generation(3)])
    folder.write_part(1, 0, [generation(9)])
    assert [row.query_id for row in folder.read_generations(0)] == [f"q{n}" for n in range(6)]
    found = folder.read_hidden_states(0)
    assert sorted(found) == sorted(KEYS)
    np.testing.assert_array_equal(found[KEYS[0]][:][:, 0], [0, 0, 2, 3, 4, 5])
    np.testing.assert_array_equal(found[KEYS[1]][:][:, 2], [0, 0, 3, 4, 5, 6])
    assert found[KEYS[0]].dtype == np.float16
    assert folder.read_hidden_states(2) == {}


def test_a_run_without_hidden_states(folder):
    row = Generation(query_id="q0", model="m", response="x")
    folder.write_part(0, 0, [row])
    assert folder.read_hidden_states(0) == {}
    assert folder.read_part(0, 0) == [row]
    assert list(folder.hidden_states_path.iterdir()) == []


def test_a_missing_part_of_hidden_states_is_no_row_of_zeros(folder):
    folder.write_part(0, 0, [generation(0)])
    folder.write_part(0, 1, [generation(1)])
    (folder.hidden_states_path / "m00-000000.safetensors").unlink()
    with pytest.raises(RunFolderError, match="or one is missing"):
        folder.read_hidden_states(0)


def test_parts_of_different_size_do_not_fit(folder):
    folder.write_part(0, 0, [generation(0)])
    folder.write_part(0, 1, [generation(1, width=4)])
    with pytest.raises(RunFolderError, match="differ in their hidden states"):
        folder.read_hidden_states(0)


def test_a_part_is_there_whole_or_not_at_all(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyramid_moa.data_prep.run_folder.pq.write_table", full)
    with pytest.raises(OSError, match="No space"):
        folder.write_part(0, 0, [generation(0)])
    assert folder.read_part(0, 0) is None
    assert list(folder.generations_path.iterdir()) == []
    # Its hidden states are there already: they belong to nothing and go.
    assert len(list(folder.hidden_states_path.iterdir())) == 1
    folder.clean()
    assert list(folder.hidden_states_path.iterdir()) == []


def test_leftovers_of_a_killed_process_go_and_the_rest_stays(folder):
    folder.write_part(0, 0, [generation(0)])
    kept = sorted(folder.path.rglob("*"))
    for place in (folder.path, folder.generations_path, folder.hidden_states_path):
        (place / ".partial-123-x.parquet").write_bytes(b"half")
    save_file({"a": np.zeros(1)}, folder.hidden_states_path / "m00-000001.safetensors")
    folder.clean()
    assert sorted(folder.path.rglob("*")) == kept


@pytest.mark.parametrize("name", ["queries", "labels", "generations/m00-000000"])
@pytest.mark.parametrize("damage", ["cut", "bytes", "absent", "other"])
def test_a_damaged_table_is_an_error_of_the_run_folder(folder, name, damage):
    folder.write_part(0, 0, [generation(0)])
    folder.write_labels([])
    path = folder.path / f"{name}.parquet"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bytes":
        path.write_bytes(b"not parquet at all")
    elif damage == "absent":
        path.unlink()
        (folder.path / "generations" / "m00-000000.parquet").unlink(missing_ok=True)
    else:
        pq.write_table(pa.table({"query_id": ["q0"]}), path)
    readers = {
        "queries": folder.read_queries,
        "labels": folder.read_labels,
        "generations/m00-000000": lambda: folder.read_generations(0),
    }
    if name.startswith("generations") and damage == "absent":
        assert readers[name]() == []
        return
    with pytest.raises(RunFolderError, match=path.name):
        readers[name]()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": np.zeros((2, 3), np.float16)}, "expected 1 float16 rows of a"),
        ({"a": np.zeros((1, 3), np.float32)}, "float32"),
        ({"a": np.zeros((1,), np.float16)}, "shape"),
        (None, "damaged.*resume"),
    ],
)
def test_damaged_hidden_states(folder, tensors, says):
    folder.write_part(0, 0, [generation(0)])
    path = folder.hidden_states_path / "m00-000000.safetensors"
    if tensors is None:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        save_file(tensors, path)
    for read in (lambda: folder.read_part(0, 0), lambda: folder.read_hidden_states(0)):
        with pytest.raises(RunFolderError, match=says):
            read()


HOLD = """
import sys, time
from pathlib import Path
from pyramid_moa.data_prep.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_run(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match="another process is writing"), folder.locked():
            pass
        # A killed process holds nothing.
        process.kill()
        process.wait(timeout=30)
        with folder.locked():
            pass
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_two_opens_in_one_process_exclude_each_other_too(folder):
    with folder.locked(), pytest.raises(RunFolderError), folder.locked():
        pass


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_where_no_folder_can_be(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(RunFolderError, match="expected a folder"),
        RunFolder(tmp_path / name).locked(),
    ):
        pass


def test_discarding_takes_only_what_is_the_runs_own(folder):
    with folder.locked():
        (folder.path / "notes.txt").write_text("mine")
        folder.discard()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_discarding_takes_the_folder_with_it(folder):
    # What a killed process had begun is no part.
    (folder.generations_path / ".partial-1-m00-000000.parquet").write_bytes(b"half")
    assert not folder.has_parts()
    folder.discard()
    assert not folder.path.exists()


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path):
    folder = RunFolder(tmp_path / "seed=1")
    queries = [Query(query_id="a", question="?", split="test")]
    folder.create(queries)
    assert folder.read_queries() == queries


def test_a_part_replaced_on_resume_is_replaced_in_one_step(folder):
    folder.write_part(0, 0, [generation(0, error="busy")])
    part = folder.generations_path / "m00-000000.parquet"
    before = part.stat().st_ino
    folder.write_part(0, 0, [generation(0)])
    assert part.stat().st_ino != before
    assert folder.read_part(0, 0)[0].hidden_states is not None
