"""The folder of an engine's hidden states goes with its process, or when the next one is made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyramid_moa.backends import engine_storage
from pyramid_moa.backends.engine_storage import EngineStorage

HOLDER = """
import sys
from pyramid_moa.backends.engine_storage import EngineStorage
storage = EngineStorage()
storage.folder.mkdir()
(storage.folder / "left.safetensors").write_bytes(b"left")
print(storage.folder.parent, flush=True)
sys.stdin.read()
"""


def make_old(folder: Path) -> None:
    before = time.time() - 2 * engine_storage._YOUNG_S
    os.utime(folder, (before, before))


def test_folders_of_dead_processes_are_removed_and_no_others() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        make_old(folder)
        EngineStorage().close()
        assert list(folder.iterdir()), "its process lives"
        process.send_signal(signal.SIGKILL)
    assert folder.is_dir()
    EngineStorage().close()
    assert not folder.exists()


def test_what_is_young_or_a_link_or_has_another_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    parent = tmp_path / "parent"
    parent.mkdir()
    young, old, other, link = (
        parent / name
        for name in (
            "pyramid-moa-engine-young",
            "pyramid-moa-engine-old",
            "pyramid-moa-1000",
            "pyramid-moa-engine-link",
        )
    )
    for folder in (young, old, other):
        folder.mkdir()
    link.symlink_to(elsewhere)
    for folder in (old, other, elsewhere):
        make_old(folder)
    engine_storage._remove_leftovers(parent)
    assert sorted(parent.iterdir()) == sorted([young, other, link])
    assert (elsewhere / "kept").exists()
    # And not what somebody else has made there.
    make_old(young)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    engine_storage._remove_leftovers(parent)
    assert young.exists()


def test_it_is_removed_when_it_is_closed() -> None:
    storage = EngineStorage()
    storage.folder.mkdir()
    assert storage.folder.parent.stat().st_mode & 0o077 == 0
    storage.close()
    assert not storage.folder.parent.exists()
