"""What is trained, and how: one recipe a model of the embedded pyramid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems import SCENARIOS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["RECIPES", "Polish", "Recipe"]

CONTEXT = 512


@dataclass(frozen=True, kw_only=True)
class Polish:
    """A last leg after the learning rate has reached zero: a warm restart on other proportions.

    Attributes:
        shards: how many more shards.
        rate: share of the peak rates at which the leg starts, to fall linearly to zero.
        weights: share of problems that is kept, by scenario, as in `Recipe.weights`.
    """

    shards: int
    rate: float
    weights: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shape, data and schedule of one model.

    Attributes:
        name: folder of the finished model.
        architecture: "llama" or "qwen3", the Hugging Face model type.
        width: size of the residual stream.
        layers: number of transformer blocks.
        heads: attention heads, each of size ``head_size``; no grouped keys.
        feed_forward: inner width of the gated feed-forward part.
        seed: of the initial weights, the order of batches and the choice of problems.
        shards: the training runs over that many shards of fresh problems, each seen once.
        problems_per_shard: drawn from the generator before any scenario is thinned out.
        tokens_per_batch: upper bound of a batch, padding included.
        muon_lr: peak learning rate of the matrices.
        adamw_lr: peak learning rate of embeddings and norms.
        warmup_steps: linear rise at the start.
        decay: share of the training at the end in which the rates fall linearly to zero.
        weights: share of problems that is kept, by scenario; those not named are kept whole.
            Members differ in what they have seen little of, and so in what they get wrong.
        polish: a last leg of the training, or None.
    """

    name: str
    architecture: str
    width: int
    layers: int
    heads: int
    head_size: int = 64
    feed_forward: int
    seed: int
    shards: int
    problems_per_shard: int = 10_000
    tokens_per_batch: int = 4032
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    warmup_steps: int = 60
    decay: float = 0.5
    weights: dict[str, float] = field(default_factory=dict)
    polish: Polish | None = None

    @property
    def all_shards(self) -> int:
        """Number of shards with those of the last leg."""
        return self.shards + (self.polish.shards if self.polish else 0)

    def weights_of(self, shard: int) -> dict[str, float]:
        """Return the share of problems kept in a shard, by scenario."""
        return self.polish.weights if self.polish and shard >= self.shards else self.weights

    def build(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """Make the untrained model; the weights depend on torch's global seed."""
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

        kinds = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        }
        config_class, model_class = kinds[self.architecture]
        config = config_class(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.head_size,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
        return model_class(config)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="member-a",
            architecture="qwen3",
            width=128,
            layers=4,
            heads=2,
            feed_forward=384,
            seed=11,
            shards=7,
            weights={"compare": 0.15, "ages": 0.15, "sale": 0.15, "farm": 0.15},
        ),
        Recipe(
            name="member-b",
            architecture="llama",
            width=128,
            layers=5,
            heads=2,
            feed_forward=320,
            seed=22,
            shards=10,
            weights={"garden": 0.2, "backward": 0.2, "factory": 0.2, "school": 0.2},
        ),
        Recipe(
            name="member-c",
            architecture="qwen3",
            width=128,
            layers=5,
            heads=2,
            feed_forward=256,
            seed=33,
            shards=6,
            weights={"travel": 0.15, "wage": 0.15, "game": 0.15, "reading": 0.15},
        ),
        Recipe(
            name="oracle",
            architecture="qwen3",
            width=256,
            layers=5,
            heads=4,
            feed_forward=640,
            seed=44,
            shards=18,
            adamw_lr=2e-3,
            # The hardest two of all scenarios: their facts may be told out of order.
            polish=Polish(
                shards=6,
                rate=0.4,
                weights={name: 0.5 for name in SCENARIOS if name not in ("compare", "ages")},
            ),
        ),
    )
}
