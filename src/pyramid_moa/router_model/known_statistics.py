"""Mean and scale of what is known of each feature."""

import torch
from torch import Tensor

__all__ = ["known_statistics"]


def known_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of known values [n, F]; a constant stays zero whatever it is divided by."""
    known = ~values.isnan()
    count = known.sum(0).clamp(min=1)
    mean = torch.where(known, values, 0.0).sum(0) / count
    variance = torch.where(known, (values - mean).square(), 0.0).sum(0) / count
    return mean, torch.where(variance > 1e-12, variance.sqrt(), 1.0)
