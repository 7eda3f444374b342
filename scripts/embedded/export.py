"""Turn trained weights into a Hugging Face folder with bf16 weights.

    python scripts/embedded/export.py --model member-a --runs build/embedded

The model card and ``models.json`` are written by ``measure.py``, which knows the accuracy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from recipes import RECIPES
from safetensors.torch import load_model
from tokenizer import train_tokenizer
from transformers import GenerationConfig

if TYPE_CHECKING:
    from recipes import Recipe

__all__ = ["export"]

DESTINATION = Path("src/pyramid_moa/embedded")

MOST_NEW_TOKENS = 128
"""The longest solution has 75 tokens."""


def export(recipe: Recipe, weights: Path, out: Path) -> None:
    """Write config, weights and tokenizer of a trained model to ``out``.

    Args:
        recipe: what was trained.
        weights: the ``weights.safetensors`` that ``train.py`` left.
        out: folder of the model; one that is there is replaced.

    Raises:
        FileNotFoundError: the weights do not exist.
    """
    if not weights.exists():
        raise FileNotFoundError(f"{weights} does not exist; run train.py --model {recipe.name}")
    tokenizer = train_tokenizer()
    model = recipe.build(tokenizer)
    load_model(model, weights)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=MOST_NEW_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as aside:
        folder = Path(aside) / out.name
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        _name_class(folder / "tokenizer_config.json")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def _name_class(path: Path) -> None:
    """Name the tokenizer's class as every version of transformers knows it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the arguments and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(RECIPES), required=True)
    parser.add_argument("--runs", type=Path, default=Path("build/embedded"))
    parser.add_argument("--out", type=Path, default=DESTINATION)
    arguments = parser.parse_args()
    weights = arguments.runs / arguments.model / "weights.safetensors"
    export(RECIPES[arguments.model], weights, arguments.out / arguments.model)


if __name__ == "__main__":
    main()
