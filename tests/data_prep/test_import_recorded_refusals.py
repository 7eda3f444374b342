"""Recordings that no run can be made of: one clear line, and nothing is left."""

import pyarrow.parquet as pq
import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep import import_recorded as import_module
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.errors import ConfigError, DataError, RunFolderError
from recorded_rows import ROWS, row


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
