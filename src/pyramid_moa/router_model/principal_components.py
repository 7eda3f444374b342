"""Principal components of hidden states that are read piece by piece.

Shapes: n rows, H hidden size, K components kept, Q directions searched in.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyramid_moa.router_model.hidden_rows import HiddenRows, float_rows, spans

__all__ = ["projected", "whitened_components"]

# In standard deviations: beyond it a value says "far out" and no more.
_FAR = 4.0
# Up to here, both ways, all rows are decomposed exactly: that takes a second.
_EXACT = 1024
# Directions searched in beyond those kept, and passes over the rows that turn them towards the
# largest: as many as make the error of Halko, Martinsson and Tropp's algorithm 4.4 small where
# singular values fall off slowly.
_OVERSAMPLED = 8
_TURNS = 4


def projected(states: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Components of hidden states, [B, K]: nothing where there are none, and never far out.

    Args:
        states: [B, H]; a row of zeros stands for none.
        mean: [H].
        directions: [H, K].
    """
    present = (states != 0).any(dim=1, keepdim=True)
    return torch.where(present, (states - mean) @ directions, 0.0).clamp(-_FAR, _FAR)


def whitened_components(
    states: HiddenRows, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean and leading principal directions of the rows that are not zero.

    Rows are gone over a few times and never held together. Where they are many or wide, the
    directions come from subspace iteration (Halko, Martinsson and Tropp 2011, "Finding structure
    with randomness", algorithm 4.4, on the covariance), summed up in float64.

    Args:
        states: [n, H]; a row of zeros stands for none.
        count: K.
        generator: draws where the search begins.

    Returns:
        Mean [H] and directions [H, K], scaled to unit variance, float32; zeros where there are
        fewer directions than K.
    """
    width = states.shape[1]
    directions = torch.zeros(width, count, dtype=torch.float64)
    present, mean = _mean(states)
    number = int(present.sum())
    if number < 2:
        return torch.zeros(width), directions.float()
    rank = min(count, number - 1, width)
    if max(number, width) <= _EXACT:
        together = torch.cat(list(_pieces(states, present))).double()
        _, values, right = torch.linalg.svd(together - mean, full_matrices=False)
        values, right = values[:rank], right[:rank].T
    else:
        values, right = _leading(states, present, mean.float(), rank, generator)
    scale = values / (number - 1) ** 0.5
    keep = scale > 1e-6 * scale.max().clamp(min=1e-12)
    directions[:, :rank] = torch.where(keep, right / scale.clamp(min=1e-12), 0.0)
    return mean.float(), directions.float()


def _mean(states: HiddenRows) -> tuple[Tensor, Tensor]:
    """Which rows are not zero [n], and their mean [H] in float64."""
    present = torch.zeros(states.shape[0], dtype=torch.bool)
    total = torch.zeros(states.shape[1], dtype=torch.float64)
    for span in spans(states.shape[0]):
        rows = float_rows(states, span)
        present[span] = rows.any(dim=1)
        total += rows.sum(dim=0)
    return present, total / present.sum().clamp(min=1)


def _pieces(states: HiddenRows, present: Tensor) -> Iterator[Tensor]:
    """The rows that are not zero, float32 [m, H], piece by piece."""
    for span in spans(states.shape[0]):
        rows, own = float_rows(states, span), present[span]
        yield rows if bool(own.all()) else rows[own]


def _leading(
    states: HiddenRows, present: Tensor, mean: Tensor, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors [H, rank] of the centred rows, largest first."""
    width = states.shape[1]
    searched = min(rank + _OVERSAMPLED, int(present.sum()), width)
    basis = torch.randn(width, searched, generator=generator, dtype=torch.float64)  # [H, Q]
    basis = torch.linalg.qr(basis).Q
    for _ in range(_TURNS):
        turned = torch.zeros_like(basis)
        for rows in _pieces(states, present):
            centred = rows - mean
            turned += centred.T @ (centred @ basis.float())
        basis = torch.linalg.qr(turned).Q
    covariance = torch.zeros(searched, searched, dtype=torch.float64)
    for rows in _pieces(states, present):
        reduced = ((rows - mean) @ basis.float()).double()
        covariance += reduced.T @ reduced
    variances, inside = torch.linalg.eigh(covariance)  # smallest first
    values = variances.flip(0)[:rank].clamp(min=0.0).sqrt()
    return values, basis @ inside.flip(1)[:, :rank]
