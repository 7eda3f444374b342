"""From logits to probabilities that mean what they say."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["AS_IT_IS", "Prior", "fit_platt"]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What a calibration is pulled towards: few labels alone would run away with it.

    Attributes:
        slope: more than 0.
        offset: of the log-odds.
        questions: about how many labels it is worth.
    """

    slope: float
    offset: float
    questions: float


AS_IT_IS = Prior(slope=1.0, offset=0.0, questions=10.0)


def fit_platt(logits: Tensor, labels: Tensor, prior: Prior = AS_IT_IS) -> tuple[float, float]:
    """Fit slope and offset of ``sigmoid(slope * logit + offset)`` by log-loss.

    Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines"), with a
    quadratic pull towards a prior. A slope is never negative, so the ranking stays.

    Args:
        logits: [n], of queries that the network was not fitted on.
        labels: [n], 0 or 1.
        prior: what is believed without labels.

    Returns:
        Slope and offset.
    """
    logits, labels = logits.detach().double(), labels.double()
    believed = math.log(prior.slope)
    log_slope = torch.tensor(believed, dtype=torch.float64, requires_grad=True)
    offset = torch.tensor(prior.offset, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_slope, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        fit = binary_cross_entropy_with_logits(
            log_slope.exp() * logits + offset, labels, reduction="sum"
        )
        away = (log_slope - believed).square() + (offset - prior.offset).square()
        value: Tensor = fit + prior.questions * 0.5 * away
        value.backward()
        return value

    optimiser.step(loss)
    return float(log_slope.detach().exp()), float(offset.detach())
