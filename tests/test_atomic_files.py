import subprocess
import sys

import pytest

from pyramid_moa.atomic_files import (
    remove_leftovers,
    temporary_mark,
    write_text_atomically,
    written_aside,
)


def test_a_file_is_written_under_its_name(tmp_path):
    path = tmp_path / "manifest.json"
    write_text_atomically(path, "Größe €")
    assert path.read_bytes() == "Größe €".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_until_it_is_whole_the_old_one_stands(tmp_path):
    path = tmp_path / "part"
    path.write_text("old")
    with written_aside(path) as aside:
        assert aside.parent == tmp_path
        aside.write_text("new, half")
        assert path.read_text() == "old"
        aside.write_text("new")
    assert path.read_text() == "new"


def test_after_an_error_the_old_one_stands_and_nothing_is_left(tmp_path):
    path = tmp_path / "part"
    path.write_text("old")

    def fail():
        with written_aside(path) as aside:
            aside.write_text("new")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_anything_was_written(tmp_path):
    with pytest.raises(RuntimeError, match="early"), written_aside(tmp_path / "part"):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "kept").write_text("kept")
    program = (
        "import os, sys; from pathlib import Path\n"
        "from pyramid_moa.atomic_files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "part")], check=False, timeout=60
    )
    assert done.returncode == -9
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert names[0].startswith(".partial-")
    assert "part" not in names
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_to_remove(tmp_path):
    remove_leftovers(tmp_path / "no such folder")


def test_two_writers_do_not_write_to_one_name(tmp_path):
    # Not even processes with the same id, on two machines that share the folder.
    path = tmp_path / "part"
    with written_aside(path) as one, written_aside(path) as other:
        assert one != other
        one.write_text("x")
        other.write_text("y")
    assert path.read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_mark_has_a_name_of_its_own_and_goes(tmp_path):
    with temporary_mark(tmp_path) as one, temporary_mark(tmp_path) as other:
        assert {one, other} == set(tmp_path.iterdir())
        # What a killed process leaves of it is removed with the rest.
        remove_leftovers(tmp_path)
        assert not one.exists()
    assert list(tmp_path.iterdir()) == []
