"""The network of a verifier: an encoder of texts, and one number read off what it says."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pyramid_moa.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["VerifierEncoder", "encoder_layers"]


class VerifierEncoder(nn.Module):
    """P(this answer is right) and an embedding of it, in one pass."""

    def __init__(self, encoder: "PreTrainedModel") -> None:
        """Put a head on an encoder; it says 0 until it is fitted."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Read a batch as ``verifier_text.padded`` makes it.

        Returns:
            Logits [B] of "this answer is right", and the mean of the encoder's states over the
            tokens of the answer, [B, H].
        """
        states = self.encoder(**self.inputs(batch)).last_hidden_state  # [B, T, H]
        answer = batch["answer"][..., None].to(states.dtype)
        embedding = (states * answer).sum(1) / answer.sum(1).clamp(min=1.0)
        return self.head(embedding)[:, 0], embedding

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's arguments; only some architectures tell question and answer apart."""
        named = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
        if getattr(self.encoder.config, "type_vocab_size", 0) > 1:
            named["token_type_ids"] = batch["types"]
        return named


def encoder_layers(encoder: nn.Module, count: int) -> nn.ModuleList:
    """The stack of an encoder's layers, whatever its architecture calls it.

    Args:
        encoder: of transformers.
        count: of its layers.

    Raises:
        ConfigError: it has none.
    """
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError(
        f"expected an encoder with a list of {count} layers, found a {type(encoder).__name__}, "
        "which has none; choose another --model"
    )
