"""Routers that come with the package, for a start: ``pretrained:NAME`` wherever one is read.

Each folder here is an ordinary checkpoint, trained by ``benchmarks/pretrain.py`` on recorded
answers whose licence allows it; the README beside this file says what they know.
"""

from importlib.resources import files
from pathlib import Path

from pyramid_moa.errors import CheckpointError

__all__ = ["PRETRAINED", "checkpoint_folder", "is_pretrained"]

PRETRAINED = {
    "numeric": "answers are numbers, as with the grader gsm8k",
    "general": "any other answers: LaTeX, Python literals, text",
}
"""Names, and the answers that each reads."""

_PREFIX = "pretrained:"


def is_pretrained(text: str | Path) -> bool:
    """Whether a router is named that comes with the package."""
    return str(text).startswith(_PREFIX)


def checkpoint_folder(text: str | Path) -> Path:
    """The folder of a checkpoint, which may be one that comes with the package.

    Args:
        text: a folder, or ``pretrained:NAME``.

    Raises:
        CheckpointError: none of that name comes with the package.
    """
    if not is_pretrained(text):
        return Path(text)
    name = str(text).removeprefix(_PREFIX)
    if name not in PRETRAINED:
        raise CheckpointError(f"expected one of {_names()}, found {text}")
    return Path(str(files(__name__) / name))


def _names() -> str:
    return ", ".join(f"{_PREFIX}{name}" for name in PRETRAINED)
