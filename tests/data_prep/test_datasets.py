import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyramid_moa.data_prep import datasets, table_files
from pyramid_moa.data_prep.dataset_spec import DatasetSpec, parse_spec
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.table_files import open_table
from pyramid_moa.errors import ConfigError, DataError, MissingExtraError
from pyramid_moa.records import Query

ROWS = [
    {"qid": "a", "prompt": "What is 1 + 1?", "target": "2", "fold": "train"},
    {"qid": "b", "prompt": "Name it, {please}.", "target": "Ünïcode", "fold": "test"},
]
MAPPING = "question=prompt&answer=target&id=qid&split=fold"
QUERIES = (
    Query(query_id="a", question="What is 1 + 1?", gold="2", split="train"),
    Query(query_id="b", question="Name it, {please}.", gold="Ünïcode", split="test"),
)


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
def test_every_kind_of_file_with_named_columns(tmp_path, suffix):
    path = tmp_path / f"questions{suffix}"
    data = load_queries(f"{write(path, ROWS)}?{MAPPING}")
    assert tuple(data.queries) == QUERIES
    assert tuple(data.queries) == QUERIES  # read anew
    assert data.name == path.name
    assert data.count == 2
    assert data.has_gold
    assert data.has_test


def test_the_fingerprint_is_of_the_content(tmp_path):
    prints = {
        load_queries(f"{write(tmp_path / f'q{suffix}', ROWS)}?{MAPPING}").fingerprint
        for suffix in (".jsonl", ".csv", ".parquet")
    }
    assert len(prints) == 1
    spec = DatasetSpec(source=str(tmp_path / "q.csv"), options={"question": "prompt"})
    prints.add(load_queries(spec).fingerprint)
    prints.add(load_queries(spec, limit=1).fingerprint)
    assert len(prints) == 3
    assert all(len(fingerprint) == 64 for fingerprint in prints)


@pytest.mark.parametrize(
    ("row", "query_id", "gold"),
    [
        ({"question": "Q?"}, "0", None),
        ({"question": "Q?", "answer": None}, "0", None),
        ({"question": "Q?", "answer": "x", "id": 7}, "7", "x"),
        ({"question": "Q?", "answer": "given", "gold": "true one", "query_id": "k"}, "k",
         "true one"),
        ({"question": "Q?", "answer": 3, "question_id": 2.0}, "2", "3"),
        ({"question": "Q?", "answer": 2.5}, "0", "2.5"),
        ({"question": "Q?", "answer": True}, "0", "True"),
        ({"question": "Q?", "answer": "so 5.\n#### 1,234"}, "0", "1234"),
        ({"question": "Q?", "answer": "#### 1\n#### 2 "}, "0", "2"),
    ],
)  # fmt: skip
def test_default_columns(tmp_path, row, query_id, gold):
    data = load_queries(write(tmp_path / "q.jsonl", [row]))
    assert tuple(data.queries) == (Query(query_id=query_id, question="Q?", gold=gold),)
    assert data.has_gold is (gold is not None)


def test_an_empty_csv_field_is_no_gold(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('question,gold,split\n"a, b\nc",,\n\nd,1,test\n')
    first, second = load_queries(str(path)).queries
    assert first == Query(query_id="0", question="a, b\nc")
    assert second == Query(query_id="1", question="d", gold="1", split="test")
    assert not load_queries(str(path)).has_gold


def test_limit(tmp_path):
    spec = f"{write(tmp_path / 'q.jsonl', ROWS)}?{MAPPING}"
    assert tuple(load_queries(spec, limit=1).queries) == QUERIES[:1]
    assert tuple(load_queries(spec, limit=9).queries) == QUERIES
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        load_queries(spec, limit=0)


def test_gsm8k_as_its_authors_give_it(shared_data):
    data = load_queries(str(shared_data / "gsm8k" / "test.jsonl"))
    queries = list(data.queries)
    assert len(queries) == data.count == 1319
    assert queries[0].gold == "18"
    assert all(query.gold and "," not in query.gold for query in queries)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("q.jsonl", "", "found none: the data set is empty"),
        ("q.json", "", "found none"),
        ("q.csv", "question,answer\n", "found none"),
        ("q.json", '{"question": "Q"}', "expected a JSON list of objects, found an object"),
        ("q.json", "[1]", "item 1: expected an object with a question, found a number"),
        ("q.jsonl", '{"question": "Q"}\n\n{"question": }\n', "line 3 is not JSON.*column 14"),
        ("q.json", '[\n{"question": }]', "line 2 is not JSON"),
        ("q.jsonl", "[" * 100_000, "line 1 cannot be read as JSON"),
        ("q.jsonl", "null", "found null"),
        ("q.jsonl", '"text"', "found a string"),
        ("q.jsonl", '{"prompt": "Q", "b": 1}', r"a column 'question' for the question; the file "
         r"has 'prompt', 'b': name columns as in q.jsonl\?question=COLUMN"),
        ("q.jsonl", '{"question": "Q"}\n{"other": "Q"}', "line 2: expected a text.*found nothing"),
        ("q.jsonl", '{"question": 5}', "line 1: expected a text.*'question', found int 5"),
        ("q.jsonl", '{"question": " \\n"}', "line 1: the question is blank"),
        ("q.jsonl", '{"question": "Q", "answer": [1]}', r"number in column 'answer'.*\[1\]"),
        ("q.jsonl", '{"question": "Q", "id": null}', "no id in column 'id'"),
        ("q.jsonl", '{"question": "Q", "id": " "}', "no id in column 'id'"),
        ("q.jsonl", "".join(f'{{"question": "Q", "id": {n // 2}}}\n' for n in range(14)),
         "found '0', '1', '2', '3', '4' and 2 more several times"),
        ("q.csv", "question,answer\na,b,c\n", "line 2: expected 2 fields.*found 3"),
        ("q.csv", 'question\n"open', "line 2 is not CSV"),
        ("q.parquet", "no parquet", "expected a Parquet file"),
        ("q.txt", "Q", "unknown data set.*expected gsm8k"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises((DataError, ConfigError), match=f"(?s){found}"):
        load_queries(str(path))


def test_missing_file_folder_and_other_kinds(tmp_path):
    with pytest.raises(DataError, match=r"ending in \.jsonl"):
        open_table(tmp_path / "q.xls", wanted=())
    with pytest.raises(DataError, match="does not exist"):
        load_queries(str(tmp_path / "none.jsonl"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        load_queries(str(tmp_path / "folder.csv"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_bytes_that_are_not_utf8(tmp_path, suffix):
    path = tmp_path / f"q{suffix}"
    path.write_bytes(b'{"question": "a"}\n{"question": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"byte 0xe9 at offset 35 \(line 2\)"):
        load_queries(str(path))


def test_all_missing_columns_are_named(tmp_path):
    path = write(tmp_path / "q.parquet", ROWS)
    with pytest.raises(DataError, match=r"'p' for the question and 'g' for the answer; .*'prompt"):
        load_queries(f"{path}?question=p&answer=g&id=qid")
    with pytest.raises(DataError, match=r"'question' for the question; .*'prompt'"):
        load_queries(path)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("", "expected NAME-OR-FILE"),
        ("q.csv?question", "expected NAME-OR-FILE"),
        ("q.csv?id=a&id=b", "given twice"),
        ("q.csv?prompt=x&gold=y", "unknown option 'gold', 'prompt'; it takes answer, id"),
        ("gsm8k?seed=1", "unknown option 'seed'; it takes none"),
        ("gsm9k", "unknown data set 'gsm9k': expected gsm8k"),
        ("word-problems?train=-1", "train must be a whole number"),
        ("word-problems?seed=99999999", "seed must be"),
        ("word-problems?steps=1", "unknown option 'steps'"),
    ],
)
def test_bad_specs(spec, found):
    with pytest.raises(ConfigError, match=found):
        load_queries(spec)


def test_spec_decodes_and_takes_a_file_of_that_very_name(tmp_path):
    assert parse_spec("q.csv?question=the%20question").options == {"question": "the question"}
    path = tmp_path / "really?.jsonl"
    path.write_text('{"question": "Q"}')
    assert [query.question for query in load_queries(str(path)).queries] == ["Q"]


def test_word_problems():
    data = load_queries("word-problems?train=6&test=3&seed=4")
    assert data.name == "word-problems?train=6&test=3&seed=4"
    assert [query.query_id for query in data.queries] == [
        *(f"train-{n:05d}" for n in range(6)),
        *(f"test-{n:05d}" for n in range(3)),
    ]
    assert [query.split for query in data.queries] == [None] * 6 + ["test"] * 3
    assert data.has_gold
    assert data == load_queries("word-problems?seed=4&test=3&train=6")
    assert data.fingerprint != load_queries("word-problems?train=6&test=3&seed=5").fingerprint


@pytest.fixture
def hub(monkeypatch):
    def load_dataset(name, config, *, split):
        assert (name, config) == ("openai/gsm8k", "main")
        if isinstance(module.failure, Exception):
            raise module.failure
        return [{"question": f"{split}?", "answer": "x\n#### 1,000"}]

    module = ModuleType("datasets")
    module.failure = None
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


@pytest.mark.usefixtures("hub")
def test_gsm8k_from_the_hub():
    train = Query(query_id="train-00000", question="train?", gold="1000")
    test = Query(query_id="test-00000", question="test?", gold="1000", split="test")
    assert load_queries("gsm8k").queries == (train, test)
    assert load_queries("gsm8k:train").queries == (train,)
    assert load_queries("gsm8k:test").queries == (test,)


@pytest.mark.parametrize("failure", [ConnectionError("no route\nto host"), ValueError()])
def test_gsm8k_without_a_hub(hub, failure):
    hub.failure = failure
    with pytest.raises(DataError, match=r"could not be loaded from the hub.*give its JSONL file"):
        load_queries("gsm8k:test")


def test_gsm8k_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pyramid-moa\[train\]"):
        load_queries("gsm8k")


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_parquet_column_that_is_not_utf8(tmp_path, dictionary):
    column = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    table = pa.table({"question": column.dictionary_encode() if dictionary else column})
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q\.parquet: column 'question': .*not UTF-8"):
        load_queries(str(tmp_path / "q.parquet"))


def test_a_parquet_column_with_values_beyond_python(tmp_path):
    day = pa.array([2**30], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({"question": ["Q?"], "gold": day}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q\.parquet: column 'gold'"):
        load_queries(str(tmp_path / "q.parquet"))


@pytest.mark.parametrize("gold", ["NaN", '""', '"  "', '"#### "', "null"])
def test_golds_that_are_none(tmp_path, gold):
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"question": "Q?", "answer": {gold}}}\n')
    data = load_queries(str(path))
    assert [query.gold for query in data.queries] == [None]
    assert not data.has_gold


def test_a_column_twice(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,gold,gold\nQ?,1,2\n")
    with pytest.raises(DataError, match=r"q\.csv: expected every column once, found 'gold' sev"):
        load_queries(str(path))
    table = pa.Table.from_arrays([pa.array(["Q?"])] * 2, names=["question", "question"])
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"q\.parquet: expected every column once"):
        load_queries(str(tmp_path / "q.parquet"))


def test_columns_without_a_name_may_repeat(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,,\nQ?,1,2\n")
    assert list(load_queries(str(path)).queries) == [Query(query_id="0", question="Q?")]


def test_long_questions_in_csv(tmp_path, monkeypatch):
    before = csv.field_size_limit()
    row = {"question": "x" * 200_000}
    (query,) = load_queries(write(tmp_path / "q.csv", [row])).queries
    assert query.question == row["question"]
    monkeypatch.setattr(table_files, "_LONGEST_FIELD", 1000)
    with pytest.raises(DataError, match="line 2 is not CSV: field larger"):
        load_queries(str(tmp_path / "q.csv"))
    assert csv.field_size_limit() == before


def test_a_file_that_changes_between_passes(tmp_path):
    path = tmp_path / "q.jsonl"
    write(path, [{"question": f"Q{n}?"} for n in range(3)])
    data = load_queries(str(path))
    assert len(list(data.queries)) == 3
    begun = iter(data.queries)
    next(begun)
    with path.open("a") as file:
        file.write('{"question": "Q3?"}\n')
    for passing in (begun, data.queries):
        with pytest.raises(DataError, match=r"q\.jsonl: expected the file as it was.*has changed"):
            list(passing)
    path.unlink()
    with pytest.raises(DataError, match="has changed"):
        list(data.queries)


def test_a_file_of_the_same_size_that_takes_its_place(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question\nQ1?\n")
    data = load_queries(str(path))
    (tmp_path / "new.csv").write_text("question\nQ2?\n")
    (tmp_path / "new.csv").replace(path)
    with pytest.raises(DataError, match="has changed"):
        list(data.queries)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_columns_of_json_are_those_of_any_row(tmp_path, suffix):
    rows = [{"question": "Q?", "answer": "a"}, {"question": "Q!", "gold": "b", "id": "x"}]
    path = write(tmp_path / f"q{suffix}", rows)
    with pytest.raises(DataError, match="1: no id in column 'id'"):
        load_queries(path)
    # The column of the golds is gold, as it is there, also where the row that has it is left out.
    (query,) = load_queries(
        write(tmp_path / f"r{suffix}", [rows[0], {"gold": "b"}]), limit=1
    ).queries
    assert query.gold is None


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_limit_looks_at_no_question_beyond_it(tmp_path, suffix):
    rows = [{"question": "Q?", "id": "a"}, {"question": " ", "id": "a"}]
    path = write(tmp_path / f"q{suffix}", rows)
    assert load_queries(path, limit=1).count == 1
    with pytest.raises(DataError, match="blank"):
        load_queries(path)


def test_ids_of_equal_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "hash", lambda text: len(text), raising=False)
    rows = [{"question": "Q?", "id": name} for name in ("aa", "bb", "c", "dd")]
    assert load_queries(write(tmp_path / "q.jsonl", rows)).count == 4
    with pytest.raises(DataError, match="found 'bb' several times"):
        load_queries(write(tmp_path / "r.jsonl", [*rows, rows[1]]))


def test_a_byte_order_mark_counts_where_a_byte_stands(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a"}\n{"question": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"byte 0xe9 at offset 38 \(line 2\)"):
        load_queries(str(path))


def test_carriage_returns_alone_end_the_lines_of_csv(tmp_path):
    path = tmp_path / "q.csv"
    path.write_bytes(b"question,answer\rQ?,1\r\rR?,2\r")
    assert [query.gold for query in load_queries(str(path)).queries] == ["1", "2"]


def test_parquet_without_any_column_that_is_wanted(tmp_path):
    path = write(tmp_path / "q.parquet", [{"prompt": "Q?"}])
    with pytest.raises(DataError, match="a column 'question' for the question; the file has 'pro"):
        load_queries(path)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="the data set is empty"):
        load_queries(str(tmp_path / "e.parquet"))


def test_passes_over_csv_do_not_meet_in_the_length_of_a_field(tmp_path):
    path = write(tmp_path / "q.csv", [{"question": letter * 200_000} for letter in "abc"])
    data = load_queries(path)
    first, second = iter(data.queries), iter(data.queries)
    next(first), next(second)
    assert len(list(first)) == 2
    assert len(list(second)) == 2


PEAK = """
import re, sys
from pathlib import Path
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.splits import assign_splits
data = load_queries(sys.argv[1])
assert sum(1 for _ in assign_splits(data.queries, has_test=data.has_test)) == data.count
print(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
"""


def write_many(path, count):
    rows = [{"question": f"{n} " + "x" * 300, "id": f"q{n}"} for n in range(count)]
    return write(path, rows)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    peaks = []
    for count in (20_000, 120_000):
        path = write_many(tmp_path / f"{count}{suffix}", count)
        command = [sys.executable, "-c", PEAK, path]
        peaks.append(
            int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        )
    # In kB, for 100,000 more ids at some tens of bytes; their text alone would be 30,000.
    assert peaks[1] - peaks[0] < 20_000
