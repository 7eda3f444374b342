"""The model card of an embedded model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyramid_moa.data_prep.word_problems import SCENARIOS

if TYPE_CHECKING:
    from recipes import Recipe

__all__ = ["card"]

CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A language model of {parameters:,} parameters that solves grade-school word problems of one
generator (`pyramid_moa.data_prep.word_problems`) and nothing else. It is part of the embedded
pyramid, with which Pyramid MoA can be tried and tested without downloading anything.

| | |
| --- | --- |
| Architecture | {architecture}: width {width}, {layers} layers, {heads} heads of {head_size}, \
feed-forward {feed_forward}, tied embeddings, context 512 |
| Parameters | {parameters:,} |
| Weights | bfloat16, SHA-256 `{sha256}` |
| Licence | Apache-2.0 |

## Training

```
python scripts/embedded/train.py --model {name} --out build/embedded --compile
python scripts/embedded/export.py --model {name} --runs build/embedded
python scripts/embedded/measure.py --runs build/embedded
```

{tokens:,} tokens in {steps:,} steps of at most {tokens_per_batch:,} tokens, padding included;
{cpu_seconds:,} CPU-seconds on one thread. Loss on the solution only; Muon (rate {muon_lr}) for
matrices, AdamW (rate {adamw_lr}) for the rest; {warmup_steps} steps of warm-up, then constant,
then linear decay to zero over the last {decay:.0%} of the shards.
{last_leg}
Data: problems of the split "train", fresh in each of {shards} shards of {problems_per_shard:,}.
{thinned}

Seed {seed} sets the initial weights, which problems are drawn and the order of batches. It does
not pin the last bits of floating-point sums, which depend on the processor, the version of torch
and whether the blocks were compiled: a retraining gives the same accuracy within noise, not the
same bytes.

## Accuracy

{questions:,} questions of the split "test" in the natural mix of steps (seed {measured_seed}),
none of which shares scenario and numbers with a training question; greedy decoding in float32.
**{accuracy:.3f}** in all.

| steps | {step_names} |
| --- | {step_rule} |
| accuracy | {step_values} |

| scenario | accuracy |
| --- | --- |
{scenarios}

## Use

The chat template has a user turn (the question) and an assistant turn (one equation a line, then
`#### answer`); a system message is left out. A greeting gets nonsense.
"""


def card(
    recipe: Recipe,
    entry: dict[str, Any],
    training: dict[str, Any],
    *,
    questions: int,
    seed: int,
) -> str:
    """Return the card's Markdown.

    Args:
        recipe: what was trained.
        entry: the model's entry of ``models.json``.
        training: tokens, steps and CPU-seconds, as ``train.py`` wrote them.
        questions: how many questions the accuracy was measured on.
        seed: seed of those questions.
    """
    fields = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
    by_steps, by_scenario = entry["accuracy_by_steps"], entry["accuracy_by_scenario"]
    kept = ", ".join(f"{name} {weight:.0%}" for name, weight in recipe.weights.items())
    return CARD.format(
        **{**fields, "shards": recipe.all_shards},
        **{name: entry[name] for name in ("parameters", "sha256", "accuracy")},
        **training,
        last_leg=_last_leg(recipe),
        thinned=f"Scenarios of which only a share was kept: {kept}."
        if kept
        else "All scenarios have the same share.",
        questions=questions,
        measured_seed=seed,
        step_names=" | ".join(by_steps),
        step_rule=" | ".join("---" for _ in by_steps),
        step_values=" | ".join(f"{value:.3f}" for value in by_steps.values()),
        scenarios="\n".join(f"| {name} | {value:.3f} |" for name, value in by_scenario.items()),
    )


def _last_leg(recipe: Recipe) -> str:
    """Describe the last leg of the training, if there is one."""
    polish = recipe.polish
    if polish is None:
        return ""
    start = recipe.shards
    whole = " and ".join(name for name in SCENARIOS if name not in polish.weights)
    shares = sorted({f"{weight:.0%}" for weight in polish.weights.values()})
    return (
        f"That is for the first {start} shards; a last leg of {polish.shards} goes from\n"
        f"{polish.rate:.0%} of the peak rates linearly to zero once more, on {', '.join(shares)} of"
        f" the problems of\nall scenarios but {whole}, which are kept whole.\n"
    )
