"""The folder of a verifier: what it holds, written once and checked whenever it is read."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pyramid_moa.errors import CheckpointError

__all__ = [
    "BASE",
    "CARD",
    "CONFIG",
    "HALVES",
    "TOKENIZER",
    "VerifierCard",
    "check_new",
    "copy_verifier",
    "read_card",
    "read_verifier",
    "write_verifier",
]

CARD = "verifier.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
BASE = "base.safetensors"
HALVES = ("half-a.safetensors", "half-b.safetensors")
_FILES = (CONFIG, TOKENIZER, BASE, *HALVES)
_LARGEST = {CARD: 256 << 20, CONFIG: 1 << 20, TOKENIZER: 256 << 20}
_LARGEST_WEIGHTS = 16 << 30
_FORMAT, _FORMAT_VERSION = "pyramid-moa verifier", 1


@dataclass(frozen=True, kw_only=True)
class VerifierCard:
    """What a verifier says of itself: ``verifier.json``.

    Attributes:
        base: name of the encoder that was fine-tuned.
        tokens: of a pair, at most.
        question_tokens: of its question, at most.
        seen_questions: first 16 hexadecimal digits of the hash of every question whose answers one
            of its two encoders may have been fitted or stopped on.
        trained_on: data set, its hash, models and configuration.
        validation: of each of the two encoders, figures on questions that it was stopped by.
        files: SHA-256 of every other file.
    """

    base: str
    tokens: int
    question_tokens: int
    seen_questions: list[str]
    trained_on: dict[str, Any]
    validation: list[dict[str, float]]
    files: dict[str, str]

    def to_json(self) -> str:
        """The text of ``verifier.json``."""
        content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **asdict(self)}
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_verifier(folder: Path, card: VerifierCard, contents: Mapping[str, bytes]) -> None:
    """Write a folder aside, then give it its name.

    Args:
        folder: its final name.
        card: what to say of it; the hashes of the files are filled in.
        contents: of every other file, by name.

    Raises:
        CheckpointError: the folder is there already.
    """
    check_new(folder)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".partial-{folder.name}-", dir=folder.parent))
    try:
        for name, content in contents.items():
            (aside / name).write_bytes(content)
        text = VerifierCard(**{**asdict(card), "files": hashes}).to_json()
        (aside / CARD).write_text(text, encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        CheckpointError: it is, and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists already; expected the name of a new folder")


def read_verifier(
    folder: Path, *, sha256: str | None = None
) -> tuple[VerifierCard, dict[str, bytes], str]:
    """Read a folder and check all of it.

    Args:
        folder: of the verifier.
        sha256: expected of ``verifier.json``; None takes any.

    Returns:
        The card, the content of every other file by name, and the SHA-256 of the card, which
        stands for all of it.

    Raises:
        CheckpointError: a file is missing, damaged, too large or of another format.
    """
    _check_files(folder, (CARD, *_FILES))
    card, found = read_card(folder)
    if sha256 is not None and found != sha256:
        raise CheckpointError(
            f"{folder / CARD}: damaged or not this checkpoint's: its SHA-256 is not the one in "
            "router.json; take another copy, or train again"
        )
    contents = {name: (folder / name).read_bytes() for name in _FILES}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != card.files.get(name):
            raise CheckpointError(
                f"{folder / name}: damaged or not this verifier's: its SHA-256 is not the one in "
                f"{CARD}; take another copy, or train again"
            )
    return card, contents, found


def read_card(folder: Path) -> tuple[VerifierCard, str]:
    """Read what a verifier says of itself, and the SHA-256 of it.

    Raises:
        CheckpointError: it is missing, damaged, too large or of another format.
    """
    _check_files(folder, (CARD,))
    text = (folder / CARD).read_bytes()
    return _card(text, folder / CARD), hashlib.sha256(text).hexdigest()


def _check_files(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: expected a verifier, missing {', '.join(missing)}")
    for name in names:
        if (folder / name).stat().st_size > _LARGEST.get(name, _LARGEST_WEIGHTS):
            raise CheckpointError(f"{folder / name}: larger than any verifier's; not read")


def copy_verifier(source: Path, target: Path) -> None:
    """Copy the files of a verifier, and nothing that may lie beside them."""
    target.mkdir()
    for name in (CARD, *_FILES):
        shutil.copyfile(source / name, target / name)


def _card(text: bytes, path: Path) -> VerifierCard:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{path}: expected the card of a {_FORMAT}, found another file")
    version = content.pop("format_version", None)
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format version {_FORMAT_VERSION}, found {version}; train again"
        )
    expected = {item.name for item in fields(VerifierCard)}
    if set(content) != expected:
        raise CheckpointError(
            f"{path}: missing keys {sorted(expected - set(content))}, unknown keys "
            f"{sorted(set(content) - expected)}"
        )
    card = VerifierCard(**content)
    if problems := _problems(card):
        raise CheckpointError(f"{path}: expected " + "; expected ".join(problems))
    return card


def _problems(card: VerifierCard) -> list[str]:
    numbers: list[Any] = [card.tokens, card.question_tokens]
    seen: Any = card.seen_questions
    files: Any = card.files
    checks = {
        "whole numbers of tokens, of a pair at least those of its question and 8": all(
            type(number) is int for number in numbers
        )
        and 1 <= card.question_tokens <= card.tokens - 8,
        "hashes of seen questions": isinstance(seen, list)
        and all(isinstance(text, str) for text in seen),
        "hashes of files": isinstance(files, dict),
    }
    return [expected for expected, good in checks.items() if not good]
