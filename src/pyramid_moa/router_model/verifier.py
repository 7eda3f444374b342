"""The verifier: a fine-tuned text encoder that reads a question and one answer to it.

Two encoders of one base, each fitted on one half of the questions: a question that was among them
is scored by the encoder of the other half, which has not seen it. So a router may learn from, and
be measured on, the very questions that the verifier was fitted on.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation, question_hash
from pyramid_moa.router_model.verifier_encoder import VerifierEncoder
from pyramid_moa.router_model.verifier_files import (
    BASE,
    CONFIG,
    HALVES,
    TOKENIZER,
    VerifierCard,
    read_verifier,
)
from pyramid_moa.router_model.verifier_text import PairTokenizer, answer_text, padded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["VERIFIER_RELATIONS", "VERIFIER_SIGNS", "Verifier", "VerifierSigns", "half_of"]

VERIFIER_SIGNS = ("logit",)
VERIFIER_RELATIONS = ("similarity",)


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifierSigns:
    """What a verifier says of M answers to one question; NaN where there is no text.

    Attributes:
        answers: logit of "this answer is right", float32 [M, 1].
        relations: cosine of the embeddings of two answers, float32 [M, M, 1], symmetric; the
            diagonal is NaN.
    """

    answers: NDArray[np.float32]
    relations: NDArray[np.float32]


def half_of(hashed: str) -> int:
    """Which half a question belongs to, 0 or 1; it follows from its hash alone.

    Args:
        hashed: of the question, as ``question_hash`` gives it.
    """
    # A hash of its own, so that halves have nothing to do with splits or folds.
    return hashlib.sha256(f"half of the verifier {hashed}".encode()).digest()[0] & 1


class Verifier:
    """A trained verifier."""

    def __init__(
        self,
        card: VerifierCard,
        encoders: Sequence[VerifierEncoder],
        tokenizer: PairTokenizer,
        *,
        folder: Path,
        sha256: str,
    ) -> None:
        """Put it together; ``load`` reads it from a folder.

        Args:
            card: what it says of itself.
            encoders: one fitted on either half.
            tokenizer: makes tokens of pairs.
            folder: where its files are, to be copied from.
            sha256: of its card, which stands for all of it.
        """
        self.card, self.folder, self.sha256 = card, folder, sha256
        self._encoders = [encoder.eval() for encoder in encoders]
        self._tokenizer = tokenizer
        self._seen = frozenset(card.seen_questions)

    @classmethod
    def load(cls, folder: str | Path, *, sha256: str | None = None) -> Self:
        """Read a verifier's folder; nothing in it is run or unpickled.

        Args:
            folder: as ``train-verifier`` writes it.
            sha256: expected of its card, where a checkpoint states it.

        Raises:
            CheckpointError: it is missing, damaged, or does not fit together.
        """
        folder = Path(folder)
        card, contents, found = read_verifier(folder, sha256=sha256)
        tokenizer = PairTokenizer(
            contents[TOKENIZER].decode("utf-8", "replace"),
            tokens=card.tokens,
            question_tokens=card.question_tokens,
            source=str(folder / TOKENIZER),
        )
        config = _config(contents[CONFIG], folder / CONFIG)
        base = _tensors(contents[BASE], folder / BASE)
        encoders = [
            _encoder(config, base | _tensors(contents[name], folder / name), folder / name)
            for name in HALVES
        ]
        return cls(card, encoders, tokenizer, folder=folder, sha256=found)

    def signs(self, question: str, generations: Sequence[Generation | None]) -> VerifierSigns:
        """Read M answers to a question.

        Every answer is read by itself, unpadded: padding and company change how sums are rounded,
        and a decision must hang on neither.

        Args:
            question: its text.
            generations: one a member, None for one that was not asked.
        """
        count = len(generations)
        logits = np.full((count, 1), np.nan, dtype=np.float32)
        similarity = np.full((count, count, 1), np.nan, dtype=np.float32)
        chosen = self._chosen(question)
        embeddings: dict[int, list[Tensor]] = {}
        for place, generation in enumerate(generations):
            text = answer_text(generation)
            if text is not None:
                batch = padded([self._tokenizer.pair(question, text)])
                with torch.inference_mode():
                    said = [encoder(batch) for encoder in chosen]
                logits[place, 0] = math.fsum(float(logit) for logit, _ in said) / len(said)
                embeddings[place] = [_unit(embedding[0]) for _, embedding in said]
        for one, other in itertools.combinations(embeddings, 2):
            cosines = [
                float(a @ b) for a, b in zip(embeddings[one], embeddings[other], strict=True)
            ]
            similarity[one, other] = similarity[other, one] = math.fsum(cosines) / len(cosines)
        return VerifierSigns(answers=logits, relations=similarity)

    def _chosen(self, question: str) -> list[VerifierEncoder]:
        """The encoder that has not seen a question; both where neither has."""
        hashed = question_hash(question)
        if hashed[:16] in self._seen:
            return [self._encoders[1 - half_of(hashed)]]
        return self._encoders


def _unit(vector: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vector, dim=0)


def _config(content: bytes, path: Path) -> "PretrainedConfig":
    from transformers import AutoConfig

    try:
        values = json.loads(content)
        # By its type alone: code that a configuration may name is never looked at.
        values.pop("auto_map", None)
        # An implementation of attention may be named that is fetched from elsewhere.
        for name in ("attn_implementation", "_attn_implementation"):
            values.pop(name, None)
        return AutoConfig.for_model(**values)
    except Exception as error:  # whatever an architecture makes of wrong values
        raise CheckpointError(
            f"{path}: expected the configuration of an encoder that transformers knows: {error}"
        ) from error


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected safetensors, found something else") from error


def _encoder(
    config: "PretrainedConfig", tensors: Mapping[str, Tensor], path: Path
) -> VerifierEncoder:
    """An encoder with its head; the configuration is believed once the weights bear it out."""
    layers = getattr(config, "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > len(tensors):
        raise CheckpointError(
            f"{path}: no encoder has the shape in {CONFIG}: {layers} layers, but "
            f"{len(tensors)} tensors"
        )
    try:
        with torch.device("meta"):
            shape = VerifierEncoder(_of_config(config))
    except Exception as error:  # whatever an architecture makes of wrong values
        raise CheckpointError(f"{path}: no encoder has the shape in {CONFIG}: {error}") from error
    expected = {name: (value.dtype, value.shape) for name, value in shape.state_dict().items()}
    found = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise CheckpointError(f"{path}: tensors do not fit {CONFIG}: {', '.join(wrong[:8])}")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise CheckpointError(f"{path}: damaged: expected finite weights")
    with torch.random.fork_rng(devices=[]):
        encoder = VerifierEncoder(_of_config(config))
    encoder.load_state_dict(dict(tensors))
    return encoder


def _of_config(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModel

    base: PreTrainedModel = AutoModel.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )
    return base
