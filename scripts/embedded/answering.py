"""Answer word problems greedily with a model folder: batched, left-padded, with a KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyramid_moa.data_prep.word_problems import WordProblem

__all__ = ["answers"]

BATCH = 250
LONGEST = 128
"""New tokens; the longest solution has 75."""


@torch.inference_mode()
def answers(folder: Path, problems: Sequence[WordProblem]) -> list[str]:
    """Return the text behind ``####`` for every problem, empty where there is none."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for problem in problems
    ]
    # Prompts of like length share a batch, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer(
            [prompts[i] for i in rows],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        texts = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(rows, texts, strict=True):
            found[i] = text.rpartition("####")[2].strip() if "####" in text else ""
    return found
