"""Hidden states of one answer as a file: how an engine hands them to whoever asked for them.

A request opts in by a name that it makes up; the engine pools, and leaves one small safetensors
file of that name in a folder that both know. The file appears whole, and whoever reads it removes
it. Heavy libraries stay out of here: the engine's workers and the HTTP client both read this.
"""

import os
import re
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "WAIT_S",
    "make_private_folder",
    "new_name",
    "opt_in",
    "read_states",
    "remove_forgotten",
    "requested_name",
    "states_path",
    "to_float16",
    "write_states",
]

# A file follows its answer within a step or two of the engine; a step that fills long prompts in
# takes seconds.
WAIT_S = 30.0

_FIELD = "pyramid_moa_hidden_states"
_NAME = re.compile(r"[0-9a-f]{32}")
_SUFFIX = ".safetensors"
_PARTIAL = ".partial-"
_LARGEST_BYTES = 64 << 20
_FORGOTTEN_S = 3600.0


def new_name() -> str:
    """Make up a name that nobody can guess."""
    return secrets.token_hex(16)


def opt_in(name: str) -> dict[str, str]:
    """What a request carries as ``kv_transfer_params`` to be given hidden states."""
    return {_FIELD: name}


def requested_name(parameters: object) -> str | None:
    """The name in a request's ``kv_transfer_params``; None where it did not opt in.

    Nothing else is taken as a name, so that no request can name a path.
    """
    name = parameters.get(_FIELD) if isinstance(parameters, Mapping) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def states_path(folder: Path, name: str) -> Path:
    """Where the hidden states of that name appear."""
    return folder / f"{name}{_SUFFIX}"


def make_private_folder(folder: Path) -> None:
    """Make a folder that nobody else can write to, or check that an existing one is such.

    Raises:
        BackendError: it is a link, or somebody else's, or others may write to it or replace it.
    """
    try:
        if not folder.parent.exists():
            # mkdir would give parents that it makes the mode of any folder.
            make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in (folder, folder.parent):
            if problem := _why_not_private(path, may_be_sticky=path != folder):
                raise BackendError(
                    f"{path}: expected a folder of this user that nobody else can write to, for "
                    f"hidden states; found {problem}; remove it or choose another folder"
                )
    except OSError as error:
        raise BackendError(
            f"{folder}: a folder for hidden states can't be made there ({error.strerror})"
        ) from error


def write_states(path: Path, vectors: "Mapping[str, NDArray[np.float32]]") -> None:
    """Write vectors [H] by key; the file appears under its name when it is whole."""
    from safetensors.numpy import save

    aside = path.with_name(f"{_PARTIAL}{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        # No fsync: after a power cut nobody is waiting for it any more.
        with os.fdopen(os.open(aside, flags, 0o600), "wb") as file:
            file.write(save(dict(vectors)))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_states(path: Path, keys: Sequence[str]) -> "dict[str, NDArray[np.float16]] | None":
    """Read vectors and remove the file; None where it is not there yet.

    Args:
        path: the file.
        keys: the vectors wanted of it.

    Returns:
        Vectors [H] by key.

    Raises:
        BackendError: the file does not hold them, or they do not fit into float16.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendError(f"hidden states in {path} can't be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        path.unlink(missing_ok=True)
        content = file.read(_LARGEST_BYTES + 1)
    try:
        if len(content) > _LARGEST_BYTES:
            raise ValueError(f"more than {_LARGEST_BYTES >> 20} MiB")
        found = load(content)
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"no {', '.join(missing)} among {', '.join(sorted(found))}")
        vectors = {key: found[key] for key in keys}
        sizes = {(vector.ndim, vector.shape, str(vector.dtype)) for vector in vectors.values()}
        if len(sizes) > 1 or any(ndim != 1 or kind != "float32" for ndim, _, kind in sizes):
            raise ValueError(f"tensors {sorted(sizes)}")
    except (SafetensorError, ValueError) as error:
        raise BackendError(
            f"expected float32 vectors of one size as hidden states, found {error}"
        ) from error
    return {key: to_float16(vector) for key, vector in vectors.items()}


def remove_forgotten(folder: Path) -> None:
    """Remove what nobody has fetched for an hour, such as after a client was killed."""
    oldest = time.time() - _FORGOTTEN_S
    for path in folder.glob(f"*{_SUFFIX}"):
        name = path.name.removeprefix(_PARTIAL).removesuffix(_SUFFIX)
        try:
            if _NAME.fullmatch(name) and path.lstat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # fetched in this moment


def to_float16(vector: "NDArray[np.float32]") -> "NDArray[np.float16]":
    """Cast a hidden state, shape [H], for storing and for the router alike.

    Raises:
        BackendError: a value does not fit into float16.
    """
    largest = float(np.abs(vector).max(initial=0.0))
    if not largest <= float(np.finfo(np.float16).max):
        raise BackendError(
            f"a hidden state does not fit into float16: expected values up to 65504, found "
            f"{largest:g}; choose another layer in hidden_states.layers"
        )
    return vector.astype(np.float16)


def _why_not_private(path: Path, *, may_be_sticky: bool) -> str | None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "a link" if stat.S_ISLNK(status.st_mode) else "a file"
    if status.st_uid not in ({os.geteuid(), 0} if may_be_sticky else {os.geteuid()}):
        return "somebody else's"
    # What stands above it may be shared with a group, as many systems have it, or be a /tmp.
    others = 0o002 if may_be_sticky else 0o022
    if status.st_mode & others and not (may_be_sticky and status.st_mode & stat.S_ISVTX):
        return f"mode {stat.S_IMODE(status.st_mode):o}"
    return None
