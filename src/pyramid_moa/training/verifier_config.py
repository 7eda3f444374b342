"""How a verifier is trained, as one YAML file."""

import math
from dataclasses import dataclass, field

from pyramid_moa.errors import ConfigError

__all__ = ["VerifierConfig"]


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """How a verifier is trained.

    Attributes:
        pairs: answers that are learned from, at most, half by each of the two encoders.
        tokens: of question and answer together; of a longer answer the end is read.
        question_tokens: of the question; of a longer one beginning and end are read.
        tuned_layers: the encoder's last layers that are fine-tuned; what those below say is
            computed once.
        rank: of the low-rank updates (LoRA) of their weights.
        learning_rate: of AdamW.
        batch_size: answers a step.
        max_epochs: the most epochs.
        patience: epochs without a better validation loss before it stops.
        cache_mb: memory for what the lower layers say; fewer answers are learned from where it
            does not suffice.
        splits: of the run's questions that are learned from.
        without: models of the run whose answers are left out, such as those that a router is to be
            measured on as strangers.
        seed: of everything that is drawn at random.
    """

    pairs: int = 2000
    tokens: int = 128
    question_tokens: int = 56
    tuned_layers: int = 2
    rank: int = 16
    learning_rate: float = 1e-3
    batch_size: int = 16
    max_epochs: int = 3
    patience: int = 1
    cache_mb: int = 1024
    splits: list[str] = field(default_factory=lambda: ["train", "validation"])
    without: list[str] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        """Report all problems together.

        Raises:
            ConfigError: with each value that is out of range.
        """
        checks = {
            "pairs: 40 or more": self.pairs >= 40,
            "question_tokens: 1 or more": self.question_tokens >= 1,
            "tokens: 32 or more, and question_tokens at most half of them": self.tokens >= 32
            and 2 * self.question_tokens <= self.tokens,
            "tuned_layers: 1 or more": self.tuned_layers >= 1,
            "rank: 1 or more": self.rank >= 1,
            "learning_rate: more than 0, finite": 0 < self.learning_rate < math.inf,
            "batch_size: 1 or more": self.batch_size >= 1,
            "max_epochs: 1 or more": self.max_epochs >= 1,
            "patience: 1 or more": self.patience >= 1,
            "cache_mb: 1 or more": self.cache_mb >= 1,
            "splits: one or more": bool(self.splits),
            "seed: from 0 to 2**63 - 1": 0 <= self.seed < 2**63,
        }
        if wrong := [expected for expected, good in checks.items() if not good]:
            raise ConfigError("expected " + "; ".join(wrong))
