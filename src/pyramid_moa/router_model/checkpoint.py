"""The checkpoint folder: ``router.json``, ``router.safetensors``, and a verifier where one is read.

Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.card import RouterCard
from pyramid_moa.router_model.known_questions import KnownQuestions
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.step_policy import StepPolicy
from pyramid_moa.router_model.verifier_files import CARD as VERIFIER_CARD
from pyramid_moa.router_model.verifier_files import copy_verifier

__all__ = ["CheckpointFiles", "check_checkpoint_folder", "read_checkpoint", "write_checkpoint"]

# Before the names of what further steps are worth.
_STEPS = "steps/"
# Before those of what is known of the questions of training.
_KNOWN = "known/"
# A router of many 8192-wide members is a few tens of megabytes.
_LARGEST = {"router.json": 256 << 20, "router.safetensors": 4 << 30}


@dataclass(frozen=True)
class CheckpointFiles:
    """Names of the files.

    Attributes:
        folder: the checkpoint.
    """

    folder: Path

    @property
    def card(self) -> Path:
        """Everything but the weights."""
        return self.folder / "router.json"

    @property
    def weights(self) -> Path:
        """The weights."""
        return self.folder / "router.safetensors"

    @property
    def verifier(self) -> Path:
        """The folder of the verifier, where the router reads one."""
        return self.folder / "verifier"


def write_checkpoint(
    folder: Path,
    card: RouterCard,
    network: RouterNetwork,
    *,
    verifier: Path | None = None,
    steps: StepPolicy | None = None,
    known: KnownQuestions | None = None,
) -> RouterCard:
    """Write a checkpoint aside, then rename it.

    Where only the card is new, as for another operating point, it alone is replaced, in one step.

    Args:
        folder: its final name; a checkpoint that is there is replaced, other files beside it stay.
        card: what to say of it; the hash of the weights, and what to say of ``known``, are filled
            in.
        network: the weights.
        verifier: folder of the verifier to copy, where the card names one.
        steps: what further steps are worth, beside the weights in their file.
        known: what the questions of training look like, likewise.

    Returns:
        The card as written.

    Raises:
        CheckpointError: the folder holds something else.
    """
    folder = folder.resolve()  # a link to a checkpoint stays a link
    check_checkpoint_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    if steps is not None:
        own = steps.tensors().items()
        tensors |= {f"{_STEPS}{name}": torch.from_numpy(value) for name, value in own}
    if known is not None:
        kept = known.tensors().items()
        tensors |= {f"{_KNOWN}{name}": torch.from_numpy(value) for name, value in kept}
    weights = save(tensors)
    card = replace(
        card,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        known_questions=None if known is None else known.told(),
    )
    files = CheckpointFiles(folder)
    if files.card.is_file() and _same(files.weights, weights) and _has(files, card):
        write_text_atomically(files.card, card.to_json())
        return card
    aside = Path(tempfile.mkdtemp(prefix=f".partial-{folder.name}-", dir=folder.parent))
    try:
        written = CheckpointFiles(aside)
        written.weights.write_bytes(weights)
        if verifier is not None:
            copy_verifier(verifier, written.verifier)
        written.card.write_text(card.to_json(), encoding="utf-8")
        aside.chmod(0o755)
        _swap(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return card


def check_checkpoint_folder(folder: Path) -> None:
    """Refuse a place where a checkpoint would overwrite something else.

    Args:
        folder: where a checkpoint is to go; may be missing, empty, or a checkpoint.

    Raises:
        CheckpointError: it is anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a folder for the checkpoint, found a file")
    if not CheckpointFiles(folder).card.is_file() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder}: expected a new folder or a checkpoint to replace, found other files"
        )


def read_checkpoint(
    folder: Path,
) -> tuple[RouterCard, RouterNetwork, StepPolicy | None, KnownQuestions | None]:
    """Read a checkpoint and check all of it.

    Args:
        folder: the checkpoint.

    Returns:
        The card, the network ready to score, and, where the checkpoint says so, what further steps
        are worth and what the questions of training look like.

    Raises:
        CheckpointError: a file is missing, damaged, of another format or version, or no
            safetensors.
    """
    files = CheckpointFiles(folder)
    missing = [path.name for path in (files.card, files.weights) if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: expected router.json and router.safetensors, missing {', '.join(missing)}"
        )
    for path in (files.card, files.weights):
        if path.stat().st_size > _LARGEST[path.name]:
            raise CheckpointError(f"{path}: larger than any router; not read")
    try:
        text = files.card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{files.card}: damaged: not UTF-8 text") from error
    card = RouterCard.from_json(text, source=str(files.card))
    weights = files.weights.read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{files.weights}: damaged or not this checkpoint's: its SHA-256 is not the one in "
            "router.json; take another copy, or train again"
        )
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"{files.weights}: expected safetensors, found something else"
        ) from error
    steps, known = _taken(tensors, _STEPS), _taken(tensors, _KNOWN)
    network = _network(card, tensors, files.weights)
    source = str(files.weights)
    policy = None
    if steps:
        policy = StepPolicy.from_tensors(
            steps,
            members=card.member_names,
            oracle=card.oracle,
            question_features=card.network.question_features,
            source=source,
        )
    if (card.known_questions is None) != (not known):
        raise CheckpointError(f"{source}: damaged: known_questions stand in one file alone")
    questions = None
    if card.known_questions is not None:
        questions = KnownQuestions.from_checkpoint(card.known_questions, known, source=source)
    return card, network, policy, questions


def _taken(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, NDArray[Any]]:
    """Take out the tensors of one kind, by their names without its prefix."""
    return {
        name.removeprefix(prefix): _array(tensors.pop(name))
        for name in list(tensors)
        if name.startswith(prefix)
    }


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """As numpy has it; of a type that numpy lacks, as one that no step has."""
    known = tensor.dtype in (torch.float64, torch.int64)
    return (tensor if known else tensor.to(torch.float32)).numpy()


def _network(card: RouterCard, tensors: dict[str, torch.Tensor], path: Path) -> RouterNetwork:
    # A shape alone takes no memory: the card is believed once the weights bear it out.
    try:
        with torch.device("meta"):
            network = RouterNetwork(card.network)
    except (RuntimeError, TypeError) as error:  # numbers too large for any tensor
        raise CheckpointError(f"{path}: no network has the shape in router.json") from error
    expected = {name: _form(value) for name, value in network.state_dict().items()}
    found = {name: _form(value) for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        raise CheckpointError(
            f"{path}: tensors do not fit router.json: "
            + "; ".join(
                f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}"
                for name in wrong[:8]
            )
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise CheckpointError(f"{path}: damaged: expected finite weights")
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network.eval()


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _has(files: CheckpointFiles, card: RouterCard) -> bool:
    """Whether the verifier that a card names, if any, is there already."""
    path = files.verifier / VERIFIER_CARD
    if card.verifier_sha256 is None:
        return True
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == card.verifier_sha256


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _swap(aside: Path, folder: Path) -> None:
    """Put the new folder under the final name; the old one, if any, is kept until then.

    Other files beside the old checkpoint, such as those of a git clone, move over; a verifier that
    was the old one's, and that the new one does not read, does not.
    """
    if not folder.exists():
        aside.rename(folder)
        return
    old = folder.with_name(f".replaced-{os.getpid()}-{folder.name}")
    folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    gone = {path.name for path in folder.iterdir()}
    if _names_its_verifier(CheckpointFiles(old)):
        gone.add(CheckpointFiles(old).verifier.name)
    for entry in old.iterdir():
        if entry.name not in gone:
            entry.rename(folder / entry.name)
    shutil.rmtree(old)


def _names_its_verifier(files: CheckpointFiles) -> bool:
    """Whether the verifier beside a card, of whatever version, is the one that it names."""
    card = files.verifier / VERIFIER_CARD
    try:
        stated = json.loads(files.card.read_bytes()).get("verifier_sha256")
        return bool(hashlib.sha256(card.read_bytes()).hexdigest() == stated)
    except (OSError, ValueError, AttributeError):  # no verifier, or no card that can be read
        return False
