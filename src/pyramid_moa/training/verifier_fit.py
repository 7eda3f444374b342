"""Fine-tuning of a verifier's encoder: LoRA on its upper layers, over a cache of the lower ones."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyramid_moa.errors import ConfigError, import_extra
from pyramid_moa.progress import Progress
from pyramid_moa.router_model.verifier_encoder import VerifierEncoder, encoder_layers
from pyramid_moa.router_model.verifier_text import TokenPair, padded
from pyramid_moa.training.verifier_config import VerifierConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["Labelled", "fit_encoder", "fitting_pairs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A pair of texts to learn from.

    Attributes:
        tokens: of question and answer.
        right: whether the answer is.
    """

    tokens: TokenPair
    right: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cached:
    """A pair, its label and what the lower layers say of it, float16 [T, H]."""

    pair: Labelled
    states: Tensor


def fitting_pairs(config: VerifierConfig, hidden_size: int) -> int:
    """How many pairs one encoder learns from: as configured, and as the cache has room for."""
    room = (config.cache_mb << 20) // (2 * config.tokens * hidden_size)
    return min(config.pairs // 2, room)


def fit_encoder(
    base: "PreTrainedModel",
    fitted_on: Sequence[Labelled],
    held_out: Sequence[Labelled],
    config: VerifierConfig,
    *,
    what: str,
) -> tuple[VerifierEncoder, dict[str, float]]:
    """Fine-tune an encoder.

    The layers below the tuned ones are frozen: what they say of every pair is computed once and
    kept in float16. Updates are of low rank (LoRA, Hu et al. 2021, arXiv 2106.09685) and merged
    into the weights in the end. Training stops by the log-loss on the held-out pairs.

    Args:
        base: an encoder of transformers, which is changed.
        fitted_on: pairs to learn from.
        held_out: pairs of other questions.
        config: how.
        what: is being fitted, for the progress bar.

    Returns:
        The encoder, merged, and figures on the held-out pairs.

    Raises:
        ConfigError: the encoder has too few layers, or training diverged.
        MissingExtraError: peft is not installed.
    """
    count = base.config.num_hidden_layers
    layers = encoder_layers(base, count)
    frozen = count - config.tuned_layers
    if frozen < 0:
        raise ConfigError(f"tuned_layers: expected {count} at most, found {config.tuned_layers}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = VerifierEncoder(base).eval()
        lower = _Lower(model, layers, frozen)
        with Progress(f"{what}: lower layers", total=len(fitted_on) + len(held_out)) as progress:
            cached = [[lower.cached(p, progress) for p in ps] for ps in (fitted_on, held_out)]
        adapted = _with_lora(base, layers[frozen:], config)
        figures = _Fit(model, lower, config).run(*cached, what=what)
        adapted.merge_and_unload()
    return model.eval(), figures


class _Lower:
    """The frozen layers: computed once, then stood in for by what they said."""

    def __init__(self, model: VerifierEncoder, layers: nn.ModuleList, frozen: int) -> None:
        self._model, self._layers, self._frozen = model, layers, frozen
        self._more: int | None = None

    def cached(self, pair: Labelled, progress: Progress) -> _Cached:
        """What they say of one pair."""
        states = torch.zeros(0)
        if self._frozen:
            said: list[Any] = []

            def stop(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ANN401 - torch's
                said.append(output)
                raise _EnoughError

            hook = self._layers[self._frozen - 1].register_forward_hook(stop)
            try:
                # What the layers above would say is not wanted yet.
                with torch.no_grad(), suppress(_EnoughError):
                    self._model(padded([pair.tokens]))
            finally:
                hook.remove()
            # Some architectures' layers say more than their states; nobody reads it here.
            self._more = len(said[0]) - 1 if isinstance(said[0], tuple) else None
            states = (said[0] if self._more is None else said[0][0])[0].half()
        progress.advance()
        return _Cached(pair=pair, states=states)

    @contextmanager
    def replaced(self, batch: Sequence[_Cached]) -> Iterator[None]:
        """Let the model run as if the lower layers had just said what was kept."""
        if not self._frozen:
            yield
            return
        states = nn.utils.rnn.pad_sequence([one.states.float() for one in batch], batch_first=True)
        output = states if self._more is None else (states, *[None] * self._more)
        with _in_place_of(self._layers[: self._frozen], lambda *inputs, **named: output):
            yield


@contextmanager
def _in_place_of(layers: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let layers do something else; they keep the attributes that their encoder looks at."""
    changed = list(layers)
    for layer in changed:
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["forward"]


class _EnoughError(Exception):
    """A layer has spoken that no other need follow."""


class _Fit:
    """The loop over epochs."""

    def __init__(self, model: VerifierEncoder, lower: _Lower, config: VerifierConfig) -> None:
        self._model, self._lower, self._config = model, lower, config
        model.head.requires_grad_(requires_grad=True)
        self._tuned = [value for value in model.parameters() if value.requires_grad]
        self._optimiser = torch.optim.AdamW(self._tuned, lr=config.learning_rate)

    def run(
        self, fitted_on: Sequence[_Cached], held_out: Sequence[_Cached], *, what: str
    ) -> dict[str, float]:
        """Fit, and keep the best weights."""
        best, best_loss, waited = self._weights(), math.inf, 0
        figures: dict[str, float] = {}
        generator = torch.Generator().manual_seed(self._config.seed)
        steps = self._config.max_epochs * -(-len(fitted_on) // self._config.batch_size)
        with Progress(f"{what}: steps", total=steps) as progress:
            for epoch in range(self._config.max_epochs):
                order = torch.randperm(len(fitted_on), generator=generator)
                for index in order.split(self._config.batch_size):
                    self._step([fitted_on[place] for place in index.tolist()])
                    progress.advance(note=f"validation loss {best_loss:.4f}")
                now = self._figures(held_out)
                if now["log_loss"] < best_loss - 1e-4:
                    best, best_loss, waited = self._weights(), now["log_loss"], 0
                    figures = {**now, "epoch": float(epoch + 1)}
                else:
                    waited += 1
                    if waited >= self._config.patience:
                        break
        if not figures:
            raise ConfigError(
                "the verifier's training diverged: the validation loss was never finite; expected "
                f"a lower learning_rate than {self._config.learning_rate:g}"
            )
        with torch.no_grad():
            for value, kept in zip(self._tuned, best, strict=True):
                value.copy_(kept)
        return figures

    def _step(self, batch: Sequence[_Cached]) -> None:
        self._model.train()
        loss = binary_cross_entropy_with_logits(self._logits(batch), _labels(batch))
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._tuned, 1.0)
        self._optimiser.step()

    def _figures(self, held_out: Sequence[_Cached]) -> dict[str, float]:
        self._model.eval()
        size = self._config.batch_size
        with torch.no_grad():
            parts = [
                self._logits(held_out[first : first + size])
                for first in range(0, len(held_out), size)
            ]
        logits, labels = torch.cat(parts), _labels(held_out)
        metrics = import_extra("sklearn.metrics", extra="train", purpose="training a verifier")
        finite = bool(logits.isfinite().all())
        return {
            "pairs": float(len(held_out)),
            "log_loss": float(binary_cross_entropy_with_logits(logits, labels))
            if finite
            else math.inf,
            "auroc": float(metrics.roc_auc_score(labels.numpy(), logits.numpy()))
            if finite
            else math.nan,
        }

    def _logits(self, batch: Sequence[_Cached]) -> Tensor:
        with self._lower.replaced(batch):
            logits: Tensor = self._model(padded([one.pair.tokens for one in batch]))[0]
        return logits

    def _weights(self) -> list[Tensor]:
        return [value.detach().clone() for value in self._tuned]


def _labels(batch: Sequence[_Cached]) -> Tensor:
    return torch.tensor([float(one.pair.right) for one in batch])


def _with_lora(
    base: "PreTrainedModel", layers: Iterable[nn.Module], config: VerifierConfig
) -> "PeftModel":
    """Freeze an encoder and put updates of low rank beside every matrix of some layers."""
    peft = import_extra("peft", extra="train", purpose="training a verifier")
    tuned = {
        id(module)
        for layer in layers
        for module in layer.modules()
        if isinstance(module, nn.Linear)
    }
    names = [name for name, module in base.named_modules() if id(module) in tuned]
    if not names:
        raise ConfigError(
            f"expected an encoder whose layers have linear maps (nn.Linear), found a "
            f"{type(base).__name__} without; choose another --model"
        )
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank,
        lora_dropout=0.05,
        target_modules=names,
    )
    adapted: PeftModel = peft.get_peft_model(base, lora)
    return adapted
