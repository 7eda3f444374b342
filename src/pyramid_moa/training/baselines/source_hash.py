"""A hash of source files, so that a cached result of other code is not taken for this one's."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["source_hash"]


def source_hash(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
