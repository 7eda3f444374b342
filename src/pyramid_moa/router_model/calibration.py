"""From logits to probabilities that mean what they say."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["fit_platt"]

# Pull towards "as it is", worth about this many questions: with few labels, or only one kind of
# them, the data alone would run away.
_PRIOR_QUESTIONS = 10.0


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Fit slope and offset of ``sigmoid(slope * logit + offset)`` by log-loss.

    Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines"), with a
    quadratic pull towards slope 1 and offset 0. A slope is never negative, so the ranking stays.

    Args:
        logits: [n], of queries that the network was not fitted on.
        labels: [n], 0 or 1.

    Returns:
        Slope and offset.
    """
    logits, labels = logits.detach().double(), labels.double()
    log_slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_slope, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        fit = binary_cross_entropy_with_logits(
            log_slope.exp() * logits + offset, labels, reduction="sum"
        )
        value: Tensor = fit + _PRIOR_QUESTIONS * 0.5 * (log_slope.square() + offset.square())
        value.backward()
        return value

    optimiser.step(loss)
    return float(log_slope.detach().exp()), float(offset.detach())
