"""Hidden states that stay in their files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pyramid_moa.data_prep.mapped_rows import MappedRows, RowsFile, find_widths
from pyramid_moa.errors import RunFolderError

KEY = "layer-1/answer_mean"


@pytest.fixture
def whole():
    """Twelve rows, those from 5 to 7 of failed generations."""
    values = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float16)
    values[5:8] = 0
    return values


@pytest.fixture
def rows(tmp_path, whole):
    files = []
    for first, last in ((0, 4), (4, 5), (5, 8), (8, 12)):
        path = tmp_path / f"{first}.safetensors" if first != 5 else None
        if path is not None:
            save_file({"other": np.zeros((2, 2)), KEY: whole[first:last]}, path)
        files.append(RowsFile(path=path, rows=last - first))
    return MappedRows(KEY, files, 6)


def test_it_looks_like_one_array(rows, whole):
    assert rows.shape == whole.shape
    assert len(rows) == 12
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows[:], whole)
    np.testing.assert_array_equal(np.stack(list(rows)), whole)


@pytest.mark.parametrize(
    "index",
    [
        0, 4, 6, 11, -1, -12, np.int64(9), slice(2, 9), slice(3, 3), slice(20, 30), slice(-3, None),
        slice(None, None, 5), slice(None, None, -1), np.array([11, 0, 6, 4, 4, -2]),
        np.array([], np.int64), [8, 3],
    ],
)  # fmt: skip
def test_rows_are_those_of_the_array(rows, whole, index):
    found = rows[index]
    np.testing.assert_array_equal(found, whole[index])
    assert found.dtype == np.float16
    assert found.shape == whole[index].shape


@pytest.mark.parametrize("index", [12, -13, np.array([0, 12]), np.array([-13])])
def test_rows_that_are_not_there(rows, index):
    with pytest.raises(IndexError, match="rows from 0 to 11"):
        rows[index]


def test_what_is_read_is_a_copy(rows, whole):
    found = rows[0:4]
    found[:] = 1
    np.testing.assert_array_equal(rows[0:4], whole[0:4])


def test_no_rows_at_all():
    assert MappedRows(KEY, [], 6)[:].shape == (0, 6)


def test_a_file_that_is_gone_or_damaged_after_it_was_checked(rows, tmp_path, whole):
    (tmp_path / "0.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"0\.safetensors: damaged"):
        rows[0]
    content = (tmp_path / "8.safetensors").read_bytes()
    (tmp_path / "8.safetensors").write_bytes(content[:-1])
    with pytest.raises(RunFolderError, match=r"8\.safetensors: damaged.*resume"):
        rows[9]
    np.testing.assert_array_equal(rows[4], whole[4])


def test_widths_of_a_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros((3, 4), np.float16), "b": np.zeros((3, 7), np.float16)}, path)
    assert find_widths(path, rows=3) == {"a": 4, "b": 7}
    with pytest.raises(RunFolderError, match=r"expected 2 float16 rows.*shape \(3, [47]\)"):
        find_widths(path, rows=2)
    with pytest.raises(RunFolderError, match="damaged"):
        find_widths(tmp_path / "none.safetensors", rows=3)


HELD = """
import os, re, sys
from pathlib import Path
import numpy as np
from pyramid_moa.data_prep.mapped_rows import MappedRows, RowsFile

def held():
    status = Path("/proc/self/status").read_text()
    anonymous = int(re.search(r"RssAnon:\\s+([0-9]+) kB", status)[1])
    mapped = Path("/proc/self/maps").read_text().count(".safetensors")
    return anonymous, len(os.listdir("/proc/self/fd")), mapped

files = [RowsFile(path=path, rows=512) for path in sorted(Path(sys.argv[1]).iterdir())]
rows = MappedRows("a", files, 2048)
rows[0:512]
before = held()
pieces = (rows[first : first + 512] for first in range(0, len(rows), 512))
total = sum(float(piece.sum(dtype=np.float64)) for piece in pieces)
after = held()
print(after[0] - before[0], after[1] - before[1], after[2], total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_files_and_mappings_do_not_grow(tmp_path):
    values = np.ones((512, 2048), np.float16)
    for number in range(40):  # 80 MB
        save_file({"a": values}, tmp_path / f"{number:02d}.safetensors")
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    kilobytes, opened, mapped, total = (float(word) for word in out)
    assert kilobytes < 16_000
    assert opened == 0
    assert 1 <= mapped <= 2
    assert total == 40 * 512 * 2048
