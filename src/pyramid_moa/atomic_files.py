"""Files that are either whole or not there: written aside, then renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["remove_leftovers", "temporary_mark", "write_text_atomically", "written_aside"]

_MARK = ".partial-"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; rename it to ``path`` when all went well.

    Args:
        path: the final name; a file there is replaced in one step.

    Yields:
        The name to write to, in the same folder.
    """
    # Not the process's id: processes of two machines that share the folder may have the same one.
    aside = path.with_name(f"{_MARK}{secrets.token_hex(6)}-{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def temporary_mark(folder: Path) -> Iterator[Path]:
    """Put an empty file with a name of its own into a folder, as long as the context lasts.

    Another machine that finds it under that name sees this very folder, not one of the same name
    on a disk of its own.
    """
    mark = folder / f"{_MARK}{secrets.token_hex(16)}"
    mark.touch(exist_ok=False)
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text under its final name in one step."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write in a folder."""
    for path in folder.glob(f"{_MARK}*"):
        path.unlink(missing_ok=True)
