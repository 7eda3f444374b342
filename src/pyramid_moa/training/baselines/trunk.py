"""Several networks with one trunk and two heads, trained side by side (SharedTrunkNet-like).

Legend: S seeds, n queries, d inputs.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["Trunks", "train_trunks"]

_UNITS = (256, 128)
_DROPOUT = (0.3, 0.2)
_RATE, _DECAY = 1e-3, 1e-4
_PATIENCE, _MOST_EPOCHS, _BATCH = 15, 200, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Trunks:
    """Trained networks.

    Attributes:
        weights: of three layers, [S, in, out] each.
        biases: [S, 1, out] each.
        loss: on the queries that each had left out, [S].
    """

    weights: list[Tensor]
    biases: list[Tensor]
    loss: Tensor

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Give each network's probabilities of its heads, [S, n, heads]."""
        with torch.no_grad():
            return torch.sigmoid(_forward(self.weights, self.biases, inputs, None))


def train_trunks(inputs: Tensor, labels: Tensor, held_out: Tensor, *, seed: int) -> Trunks:
    """Train S networks, each stopped by the queries that it leaves out.

    Args:
        inputs: [n, d].
        labels: 0 or 1, [n, heads].
        held_out: which queries each network leaves out, bool [n, S].
        seed: of weights, batches and dropout.
    """
    draw = torch.Generator().manual_seed(seed)
    seeds = held_out.shape[1]
    weights, biases = _start([inputs.shape[1], *_UNITS, labels.shape[1]], seeds, draw)
    best = [weight.detach().clone() for weight in (*weights, *biases)]
    loss, since = torch.full((seeds,), torch.inf), torch.zeros(seeds)
    adam = torch.optim.Adam([*weights, *biases], lr=_RATE, weight_decay=_DECAY)
    for _ in range(_MOST_EPOCHS):
        order = torch.randperm(len(inputs), generator=draw)
        for batch in order.split(_BATCH):
            adam.zero_grad()
            logits = _forward(weights, biases, inputs[batch], draw)
            _losses(logits, labels[batch], ~held_out[batch]).sum().backward()
            adam.step()
        with torch.no_grad():
            now = _losses(_forward(weights, biases, inputs, None), labels, held_out)
            better = now < loss
            loss, since = torch.where(better, now, loss), torch.where(better, 0, since + 1)
            for kept, current in zip(best, (*weights, *biases), strict=True):
                kept[better] = current[better]
        if bool((since >= _PATIENCE).all()):
            break
    layers = len(weights)
    return Trunks(weights=best[:layers], biases=best[layers:], loss=loss)


def _start(
    widths: list[int], seeds: int, draw: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    weights, biases = [], []
    for into, out in pairwise(widths):
        bound = into**-0.5
        weights.append((torch.rand(seeds, into, out, generator=draw) * 2 - 1) * bound)
        biases.append((torch.rand(seeds, 1, out, generator=draw) * 2 - 1) * bound)
    return [w.requires_grad_() for w in weights], [b.requires_grad_() for b in biases]


def _forward(
    weights: list[Tensor], biases: list[Tensor], inputs: Tensor, draw: torch.Generator | None
) -> Tensor:
    """Logits [S, n, heads]; with dropout where a generator is given."""
    values = inputs.expand(len(weights[0]), *inputs.shape)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = torch.baddbmm(bias, values, weight)
        if layer < len(_DROPOUT):
            values = torch.relu(values)
            if draw is not None:
                keep = torch.rand(values.shape, generator=draw) >= _DROPOUT[layer]
                values = values * keep / (1 - _DROPOUT[layer])
    return values


def _losses(logits: Tensor, labels: Tensor, used: Tensor) -> Tensor:
    """Mean log-loss of each network over the queries it uses, [S]."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels.expand(logits.shape), reduction="none"
    ).mean(dim=2)  # [S, n]
    mask = used.T.float()
    return (each * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
