"""Training data: fresh problems for every shard, tokenised and bucketed by length."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import lightning
import torch
from torch.utils.data import DataLoader

from pyramid_moa.data_prep.word_problems import WordProblem, make_problems

if TYPE_CHECKING:
    from recipes import Recipe
    from transformers import PreTrainedTokenizerFast

__all__ = ["IGNORED", "Problems", "encode"]

IGNORED = -100
"""Label of positions that the loss leaves out, as in torch's cross entropy."""

Example = tuple[list[int], int]
"""Token ids of a whole conversation, and how many of them are the prompt."""


def encode(problem: WordProblem, tokenizer: PreTrainedTokenizerFast) -> Example:
    """Tokenise a problem as a conversation of a question and its solution."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.question}],
        add_generation_prompt=True,
        tokenize=False,
    )
    question = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    solution = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
    return [*question, *solution, tokenizer.eos_token_id], len(question)


class Problems(lightning.LightningDataModule):
    """Gives the trainer one shard of new problems an epoch.

    A shard depends on the recipe's seed and its own number only, so a run that is resumed at the
    start of a shard sees what an unbroken one would have seen.
    """

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        """Keep what the shards are made from."""
        super().__init__()
        self.recipe = recipe
        self.tokenizer = tokenizer

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
        """Make the shard of the trainer's current epoch."""
        assert self.trainer is not None
        batches = self.shard(self.trainer.current_epoch)
        return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]  # a list is a dataset

    def shard(self, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the batches of a shard: token ids and labels, each (batch, length)."""
        seed = self.recipe.seed * 1000 + number
        rng = Random(seed)
        weights = self.recipe.weights_of(number)
        problems = [
            problem
            for problem in make_problems(
                split="train", count=self.recipe.problems_per_shard, seed=seed
            )
            if rng.random() < weights.get(problem.scenario, 1.0)
        ]
        examples = [encode(problem, self.tokenizer) for problem in problems]
        examples.sort(key=lambda example: (len(example[0]), rng.random()))
        batches = [self._collate(part) for part in self._parts(examples)]
        rng.shuffle(batches)
        return batches

    def _parts(self, examples: list[Example]) -> list[list[Example]]:
        """Cut sorted examples so that no part, once padded, exceeds the recipe's tokens."""
        parts: list[list[Example]] = [[]]
        for example in examples:
            if (len(parts[-1]) + 1) * len(example[0]) > self.recipe.tokens_per_batch:
                parts.append([])
            parts[-1].append(example)
        return parts

    def _collate(self, part: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad on the right; a position's label is the token that follows it."""
        length = max(len(ids) for ids, _ in part)
        tokens = torch.full((len(part), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(part), length), IGNORED)
        for row, (ids, prompt) in enumerate(part):
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, prompt - 1 : len(ids) - 1] = torch.tensor(ids[prompt:])
        return tokens, labels
