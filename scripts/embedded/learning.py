"""The Lightning module: next-token loss on the solution, Muon for matrices, AdamW for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning
import torch
from data import IGNORED
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from recipes import Recipe
    from transformers import PreTrainedModel

__all__ = ["Learning", "rate"]

CLIP = 1.0


def rate(step: int, shards: float, recipe: Recipe) -> float:
    """Return the share of the peak learning rate.

    Linear rise, constant, linear fall to zero; where the recipe has a last leg, a fall from that
    leg's rate to zero once more.

    Args:
        step: optimiser steps done so far.
        shards: shards done so far, the current one in part.
        recipe: gives the number of warm-up steps, the share of decay, and the last leg.
    """
    if recipe.polish and shards >= recipe.shards:
        return recipe.polish.rate * (1 - (shards - recipe.shards) / recipe.polish.shards)
    rise = (step + 1) / recipe.warmup_steps
    fall = (1 - shards / recipe.shards) / recipe.decay
    return max(0.0, min(rise, 1.0, fall))


class Learning(lightning.LightningModule):
    """Trains a causal language model on batches of token ids and labels."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Take the untrained model; two optimisers need Lightning's manual mode."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.recipe = recipe
        self.register_buffer("seen_tokens", torch.zeros((), dtype=torch.long))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Give the matrices of the blocks to Muon, embeddings and norms to AdamW."""
        matrices, others = [], []
        for name, parameter in self.model.named_parameters():
            inside = parameter.ndim == 2 and "embed" not in name
            (matrices if inside else others).append(parameter)
        return [
            torch.optim.Muon(matrices, lr=self.recipe.muon_lr, weight_decay=0.05),
            torch.optim.AdamW(others, lr=self.recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy over solution tokens.

        Rows are padded on the right, so under a causal mask no real token can see the padding.
        The logits are computed for labelled positions only.

        Args:
            tokens: (batch, length) token ids.
            labels: (batch, length) the following token, or ``IGNORED``.
        """
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        known = labels != IGNORED
        logits = self.model.get_output_embeddings()(hidden[known])  # (known, vocabulary)
        return cross_entropy(logits.float(), labels[known])

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """Do one step of both optimisers."""
        tokens, labels = batch
        loss = self.loss(tokens, labels)
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        shards = self.current_epoch + batch_index / float(self.trainer.num_training_batches)
        share = rate(int(self.steps_done), shards, self.recipe)
        peaks = (self.recipe.muon_lr, self.recipe.adamw_lr)
        for optimizer, peak in zip(self.optimizers(), peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        self.seen_tokens += tokens.numel()
        self.steps_done += 1
        self.log("loss", loss, prog_bar=True)
        self.log("rate", share, prog_bar=True)
        self.log("mtok", self.seen_tokens.float() / 1e6, prog_bar=True)
