"""Features that no answer had in training, or that are new where another router is started from."""

import torch
from torch import Tensor

from pyramid_moa.router_model.known_statistics import known_statistics
from pyramid_moa.router_model.network import RouterNetwork

__all__ = ["fit_new_inputs", "ignore_never_known"]


def fit_new_inputs(network: RouterNetwork, answers: Tensor) -> None:
    """Take the statistics of features that were never known to what was started from.

    Args:
        network: with another's statistics.
        answers: [n, M, A], NaN where unknown.
    """
    new = _never_known(network)
    mean, scale = known_statistics(answers.flatten(0, -2))
    network.answer_mean.copy_(torch.where(new, mean, network.answer_mean))
    network.answer_scale.copy_(torch.where(new, scale, network.answer_scale))


def ignore_never_known(network: RouterNetwork, answers: Tensor) -> None:
    """Make features that no answer had in training say nothing of answers that have them.

    Their weights are as they were drawn. That they are unknown, which was always so, moves into
    the offset: what is said of answers without them stays the same.

    Args:
        network: fitted.
        answers: those of the training, [n, M, A], NaN where unknown.
    """
    never = _never_known(network) & answers.isnan().flatten(0, -2).all(0)  # [A]
    features = network.shape.answer_features
    # As `NetworkShape.answer_inputs` has them: values, whether unknown, against the habit.
    unknown = slice(features, 2 * features)
    with torch.no_grad():
        weight, offset = network.read.weight, network.read.offset
        offset.add_((weight[:, unknown] * never[:, None]).sum(1, keepdim=True))
        for first in range(0, 3 * features, features):
            weight[:, first : first + features].mul_(~never[:, None])


def _never_known(network: RouterNetwork) -> Tensor:
    """As `known_statistics` leaves mean and scale of nothing; also those of a constant 0."""
    return (network.answer_mean == 0.0) & (network.answer_scale == 1.0)
