"""A checkpoint as a folder to hand on, with a model card; and its way to the Hugging Face Hub."""

import shutil
import tempfile
from pathlib import Path

from pyramid_moa.errors import CheckpointError, PyramidError
from pyramid_moa.inference.model_card import model_card
from pyramid_moa.router_model.checkpoint import CheckpointFiles
from pyramid_moa.router_model.pretrained import checkpoint_folder
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.verifier_files import copy_verifier

__all__ = ["HubError", "export_folder", "push_to_hub"]


class HubError(PyramidError):
    """The Hugging Face Hub refused or could not be reached."""


def export_folder(checkpoint: str | Path, out: str | Path) -> None:
    """Copy a checkpoint that has been checked, and write its model card.

    Args:
        checkpoint: the checkpoint folder.
        out: a new folder.

    Raises:
        CheckpointError: the checkpoint is damaged, or ``out`` is there already.
    """
    router, target = Router.load(checkpoint), Path(out)
    if target.exists():
        raise CheckpointError(f"{target}: exists already; expected the name of a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    files = CheckpointFiles(checkpoint_folder(checkpoint))
    aside = Path(tempfile.mkdtemp(prefix=f".partial-{target.name}-", dir=target.parent))
    try:
        shutil.copyfile(files.card, aside / files.card.name)
        shutil.copyfile(files.weights, aside / files.weights.name)
        if router.verifier is not None:
            copy_verifier(files.verifier, CheckpointFiles(aside).verifier)
        (aside / "README.md").write_text(model_card(router.card), encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def push_to_hub(checkpoint: str | Path, repository: str) -> str:
    """Push a checkpoint with its model card; a repository that is not there is made, private.

    The token is huggingface_hub's own affair: HF_TOKEN, or what ``hf auth login`` has stored.

    Args:
        checkpoint: the checkpoint folder.
        repository: ``owner/name``.

    Returns:
        Address of the commit.

    Raises:
        HubError: the Hub refused or could not be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "router"
        export_folder(checkpoint, folder)
        api = HfApi()
        try:
            api.create_repo(repository, private=True, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Router checkpoint of pyramid-moa",
            )
        except Exception as error:  # its own, and those of whichever HTTP library it brings
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise HubError(
                f"could not push to {repository!r}: {lines[0][:300]}; expected owner/name, a token "
                "that may write there (HF_TOKEN), and a hub that can be reached"
            ) from error
    return str(commit.commit_url)
