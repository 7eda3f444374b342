"""Generations of parts that are not whole yet: on disk the moment they are there.

A journal holds the rows of one part, a line each, in the order in which they came. It is gone when
the part is written. What a killed process was writing when it died is a line that can't be read,
and counts as not there.
"""

import base64
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa.data_prep.run_tables import generation_from_row, generation_to_row
from pyramid_moa.records import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["append_to_journal", "read_journal"]

_VECTORS = "hidden_states"


def append_to_journal(path: Path, row: Generation) -> None:
    """Put a row on disk; a new journal begins with it.

    Args:
        path: the journal's file.
        row: an answer to one of its part's queries.

    Raises:
        OSError: the disk is full, or the file can't be written; earlier rows stay.
    """
    line = json.dumps({**generation_to_row(row), _VECTORS: _encoded(row.hidden_states)})
    # It starts on a line of its own, whatever the one before came to.
    data = f"\n{line}\n".encode("ascii")
    path.parent.mkdir(exist_ok=True)
    # Unbuffered: when this returns the row is with the operating system and survives the process.
    with path.open("ab", buffering=0) as file:
        written = file.write(data)
    if written != len(data):
        # The system takes what still fits and reports no error.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_journal(path: Path) -> dict[str, Generation]:
    """Read the rows of a journal by query; of several to one query the last counts.

    Args:
        path: its file; where there is none, there are no rows.
    """
    if not path.is_file():
        return {}
    rows = (_row(line) for line in path.read_bytes().split(b"\n"))
    return {row.query_id: row for row in rows if row is not None}


def _row(line: bytes) -> Generation | None:
    try:
        content = json.loads(line)
    except ValueError:
        # Blank, or cut off when its process died: the generation has to be made again.
        return None
    return generation_from_row(content | {_VECTORS: _decoded(content[_VECTORS])})


def _encoded(vectors: "Mapping[str, NDArray[np.float16]] | None") -> dict[str, str] | None:
    if not vectors:
        return None
    return {
        key: base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")
        for key, vector in vectors.items()
    }


def _decoded(content: dict[str, Any] | None) -> "dict[str, NDArray[np.float16]] | None":
    if content is None:
        return None
    return {
        key: np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float16)
        for key, text in content.items()
    }
