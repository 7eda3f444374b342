"""A private folder for the hidden states of an engine that this process has started."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

__all__ = ["EngineStorage"]

_PREFIX = "pyramid-moa-engine-"
# Between a folder's making and its lock lie microseconds; this is plenty.
_YOUNG_S = 60.0


class EngineStorage:
    """A folder, in memory where there is such a thing, that lasts as long as this process at most.

    It is locked while it is in use. The lock ends with the process, however that ended, so that
    whoever makes the next one knows which folders nobody uses any more, and removes them.

    Attributes:
        folder: where the engine leaves its files; it is made by the engine.
    """

    def __init__(self) -> None:
        """Make the folder, and remove those that processes of this user have left behind."""
        memory = Path("/dev/shm")
        usable = memory.is_dir() and os.access(memory, os.W_OK | os.X_OK)
        parent = memory if usable else Path(tempfile.gettempdir())
        _remove_leftovers(parent)
        self._directory = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent)
        self._lock = os.open(self._directory.name, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = Path(self._directory.name, "states")

    def close(self) -> None:
        """Remove it and all that is in it; to be called once."""
        try:
            self._directory.cleanup()
        finally:
            os.close(self._lock)


def _remove_leftovers(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        # Another process may be removing it, or closing its own, at the same moment.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            status = path.lstat()
            if (
                stat.S_ISDIR(status.st_mode)
                and status.st_uid == os.geteuid()
                and time.time() - status.st_mtime > _YOUNG_S
            ):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(descriptor)
