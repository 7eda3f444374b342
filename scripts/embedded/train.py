"""Train one model of the embedded pyramid.

    python scripts/embedded/train.py --model member-a --out build/embedded

Leaves in ``<out>/<model>`` ``last.ckpt`` (written after every shard; ``--resume`` goes on from
it), the loss as CSV, and at the end ``weights.safetensors``, of which ``export.py`` makes a model,
and ``training.json`` with tokens and seconds.
One thread is enough, and OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE is fastest on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lightning
import torch
from data import Problems
from learning import Learning
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from recipes import RECIPES
from safetensors.torch import save_model
from tokenizer import train_tokenizer

if TYPE_CHECKING:
    from recipes import Recipe

__all__ = ["train"]


class Lines(lightning.Callback):
    """Writes a line a shard where there is no terminal for a progress bar."""

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Say how far the training is."""
        values = {name: round(float(v), 3) for name, v in trainer.callback_metrics.items()}
        sys.stdout.write(f"shard {trainer.current_epoch + 1}/{trainer.max_epochs} {values}\n")
        sys.stdout.flush()


def train(recipe: Recipe, out: Path, *, resume: bool, compiled: bool) -> None:
    """Train a model and leave its checkpoint in ``out``.

    Args:
        recipe: what to train.
        out: folder for the checkpoint and the log.
        resume: go on from the folder's ``last.ckpt``.
        compiled: compile the blocks, which needs a C++ compiler and saves a third of the time.

    Raises:
        FileNotFoundError: there is nothing to resume from.
    """
    last = out / "last.ckpt"
    if resume and not last.exists():
        raise FileNotFoundError(f"nothing to resume: {last} does not exist; leave out --resume")
    lightning.seed_everything(recipe.seed)
    tokenizer = train_tokenizer()
    module = Learning(recipe.build(tokenizer), recipe)
    if compiled:
        module.model.base_model.compile(dynamic=True)
    saver = ModelCheckpoint(
        dirpath=out,
        filename="last",
        save_top_k=1,
        enable_version_counter=False,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=recipe.all_shards,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[saver, TQDMProgressBar() if sys.stdout.isatty() else Lines()],
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        logger=CSVLogger(out, name="", version=""),
        log_every_n_steps=20,
    )
    started = time.process_time()
    trainer.fit(
        module, Problems(recipe, tokenizer), ckpt_path=last if resume else None, weights_only=True
    )
    aside = out / "weights.safetensors.part"
    save_model(module.model, str(aside))
    aside.replace(out / "weights.safetensors")
    facts = {
        "tokens": int(module.seen_tokens),
        "steps": int(module.steps_done),
        "cpu_seconds": round(time.process_time() - started),
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(RECIPES), required=True)
    parser.add_argument("--out", type=Path, default=Path("build/embedded"))
    parser.add_argument("--resume", action="store_true", help="go on from the last shard")
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        RECIPES[arguments.model],
        arguments.out / arguments.model,
        resume=arguments.resume,
        compiled=arguments.compile,
    )


if __name__ == "__main__":
    main()
