import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyramid_moa.data_prep.recorded_table import find_recording, read_recordings
from pyramid_moa.errors import DataError


def row(number, model="m", **fields):
    return {
        "question_id": number,
        "question": f"{number} apples?",
        "model": model,
        "answer": str(number),
        **fields,
    }


@pytest.fixture
def write(tmp_path):
    def write(rows, name="table.parquet", **columns):
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        for column, values in columns.items():
            table = table.set_column(table.column_names.index(column), column, values)
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    return write


def test_rows_are_put_together_by_recording(write):
    rows = [
        row(1, variant="greedy", sample=0, source="s"),
        row(1, variant="sampled", sample=0, source="s"),
        row(1, variant="sampled", sample=1, source="s"),
        row(2, variant="greedy", sample=0, source="s"),
        row(1, "other", source="s"),
    ]
    found = read_recordings([write(rows)])
    assert [(r.title, list(r.rows)) for r in found] == [
        ("m::greedy::0", [("", "1"), ("", "2")]),
        ("m::sampled::0", [("", "1")]),
        ("m::sampled::1", [("", "1")]),
        ("other::::0", [("", "1")]),
    ]


def test_columns_that_are_not_there_have_stand_ins(write):
    (found,) = read_recordings([write([row(1)])])
    values = found.rows["", "1"]
    assert values["question_id"] == "1"
    assert values["answer"] == "1"
    for name in ("gold", "response", "prompt_tokens", "cost_usd", "latency_s", "confidence"):
        assert values[name] is None
    assert (values["source"], values["split"], values["variant"], values["sample"]) == ("",) * 3 + (
        0,
    )


def test_a_table_that_was_never_searched_for_answers_has_none(write):
    plain = [{key: value for key, value in row(1).items() if key != "answer"} | {"response": "1"}]
    (found,) = read_recordings([write(plain)])
    assert "answer" not in found.rows["", "1"]


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("answer", pa.array([18, None]), ["18", None]),
        ("answer", pa.array([18.0, float("nan")]), ["18", None]),
        ("answer", pa.array(["a", None]).dictionary_encode(), ["a", None]),
        ("prompt_tokens", pa.array([3.0, float("nan")]), [3, None]),
        ("cost_usd", pa.array([1, None]), [1.0, None]),
        ("sample", pa.array([0.0, None]), [0, 0]),
        ("gold", pa.array([7, 8]), ["7", "8"]),
    ],
)
def test_columns_as_other_libraries_write_them(write, column, values, found):
    rows = [row(n, prompt_tokens=1, cost_usd=0.5, sample=0, gold="1") for n in range(2)]
    (recording,) = read_recordings([write(rows, **{column: values})])
    assert [values[column] for values in recording.rows.values()] == found


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("prompt_tokens", pa.array(["many", "few"]), "column prompt_tokens: expected int64"),
        ("prompt_tokens", pa.array([1.5, 2.0]), "column prompt_tokens: expected int64"),
        ("latency_s", pa.array(["1s", "2s"]), "column latency_s: expected double, found string"),
        ("answer", pa.array([[1], [2]]), "column answer: expected string, found list"),
        ("question", pa.array(["?", None]), "column question: expected a value in every row"),
        ("model", pa.array([None, "m"]), "column model: expected a value in every row"),
        ("question_id", pa.array([1.0, float("nan")]), "column question_id: expected a value"),
    ],
)
def test_columns_that_hold_something_else(write, column, values, says):
    rows = [row(n, prompt_tokens=1, latency_s=0.5) for n in range(2)]
    with pytest.raises(DataError, match=rf"table\.parquet: {says}"):
        read_recordings([write(rows, **{column: values})])


def test_a_table_of_something_else(write):
    with pytest.raises(DataError, match=r"missing question_id, model; found question, text"):
        read_recordings([write([{"question": "?", "text": "x"}])])


def test_answers_or_texts_must_be_there(write):
    rows = [{"question_id": 1, "question": "?", "model": "m"}]
    with pytest.raises(DataError, match="missing answer or response"):
        read_recordings([write(rows)])


def test_an_empty_table(write):
    with pytest.raises(DataError, match="found an empty table"):
        read_recordings([write(pa.Table.from_pylist([row(1)]).slice(0, 0))])


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        read_recordings([tmp_path / "absent.parquet"])


@pytest.mark.parametrize("content", [b"", b"question,model\n", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_file_that_is_no_table(tmp_path, content):
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.parquet: not a parquet table"):
        read_recordings([path])


def test_text_that_is_not_utf8(write):
    table = pa.Table.from_pylist([row(1)])
    bad = pa.array([b"Gr\xf6\xdfe"]).view(pa.string())
    with pytest.raises(DataError, match=r"table\.parquet: .*(UTF-?8|not UTF)"):
        read_recordings([write(table, question=bad)])


def test_one_answer_twice(write):
    with pytest.raises(DataError, match=r"m::::0 to a question, found two to question 1; give"):
        read_recordings([write([row(1), row(2), row(1)])])


def test_one_answer_in_two_tables(write):
    tables = [write([row(1)]), write([row(1)], name="again.parquet")]
    with pytest.raises(DataError, match=r"again\.parquet: .*found two"):
        read_recordings(tables)


@pytest.fixture
def recordings(write):
    rows = [
        row(1, "a", variant="greedy", sample=0),
        row(1, "a", variant="hot", sample=0),
        row(1, "a", variant="hot", sample=1),
        row(1, "b", variant="", sample=0),
    ]
    return read_recordings([write(rows)])


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("b", "b::::0"),
        ("a::greedy", "a::greedy::0"),
        ("a::hot::1", "a::hot::1"),
        ("a::hot::0", "a::hot::0"),
        ("b::", "b::::0"),
        ("b::::0", "b::::0"),
    ],
)
def test_a_name_that_fits_one(recordings, name, title):
    assert find_recording(recordings, name).title == title


def test_a_name_that_fits_several_is_refused_with_the_list(recordings):
    with pytest.raises(DataError, match=r"'a' fits 3 recordings: .* name one of") as caught:
        find_recording(recordings, "a")
    for title in ("a::greedy::0", "a::hot::0", "a::hot::1"):
        assert title in str(caught.value)
    with pytest.raises(DataError, match="'a::hot' fits 2"):
        find_recording(recordings, "a::hot")


def test_recordings_that_differ_only_in_their_source(write):
    found = read_recordings([write([row(1, source="x"), row(1, source="y")])])
    with pytest.raises(DataError, match=r"fits 2 .*give fewer tables: .*source x.*source y"):
        find_recording(found, "m::::0")


def test_unknown_names_are_refused_with_what_there_is(recordings):
    with pytest.raises(DataError, match=r"no recording fits 'c'; found models: 'a', 'b'"):
        find_recording(recordings, "c")
    for name in ("a::cold", "a::::1"):  # an empty variant is one of its own
        with pytest.raises(DataError, match=r"found of that model: 'a::greedy::0', 'a::hot::0'"):
            find_recording(recordings, name)


def test_long_lists_are_cut(write):
    found = read_recordings([write([row(1, f"m{n}") for n in range(60)])])
    with pytest.raises(DataError, match="and 20 more"):
        find_recording(found, "c")


def test_whole_names_come_first(write):
    rows = [
        row(1, "m", variant="", sample=0),
        row(1, "m", variant="hot", sample=0),
        row(1, "m::hot", variant="x::y", sample=3),
    ]
    found = read_recordings([write(rows)])
    for name, number in (
        ("m::::0", 0), ("m::", 0), ("m::hot::0", 1), ("m::hot", 2), ("m::hot::x::y", 2),
        ("m::hot::x::y::3", 2),
    ):  # fmt: skip
        assert find_recording(found, name) is found[number]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sample", -1),
        ("sample", 2**31),
        ("prompt_tokens", -1),
        ("completion_tokens", 2**31),
        ("cost_usd", -0.5),
        ("cost_usd", float("inf")),
        ("latency_s", float("-inf")),
    ],
)
def test_numbers_that_cannot_be(write, column, value):
    with pytest.raises(DataError, match=rf"table\.parquet: column {column}: .*found {value}"):
        read_recordings([write([row(1, **{column: value}), row(2, **{column: None})])])


def test_columns_of_nulls_alone(write):
    (found,) = read_recordings([write([row(1, sample=None, cost_usd=None)])])
    assert (found.sample, found.rows["", "1"]["cost_usd"]) == (0, None)
