"""The votes of a batch as tensors: who agrees with whom, and what shape the vote has.

Shapes: B queries, M places for members, C = M places where an answer may begin.
"""

import torch
from torch import Tensor

__all__ = [
    "QUERY_FIGURES",
    "VOTE_FIGURES",
    "query_figures",
    "same_answers",
    "stands_behind",
    "vote_figures",
    "vote_places",
]

# Numbers that describe the votes behind one answer, and those of a whole query.
VOTE_FIGURES = 12
QUERY_FIGURES = 8

_TINY = 1e-6
# Counts and log-odds are brought to about one.
_MANY = 5.0
_SKILLED = 3.0


def same_answers(clusters: torch.Tensor) -> torch.Tensor:
    """Number clusters anew, by the first place among those that are left.

    Args:
        clusters: [B, P], equal where answers are; negative ones stay as they are.

    Returns:
        [B, P], as in ``Evidence``.
    """
    equal = clusters[:, :, None] == clusters[:, None, :]
    first = equal.to(torch.uint8).argmax(2)
    return torch.where(clusters < 0, clusters, first)


def vote_places(clusters: Tensor) -> Tensor:
    """Place of the majority's answer, the first of those with as many votes: int [B]."""
    places = clusters.shape[1]
    count = stands_behind(clusters).sum(1)  # [B, C]
    # The first of equals, whatever the library makes of ties.
    return (count * places - torch.arange(places)).argmax(1)


def stands_behind(clusters: Tensor) -> Tensor:
    """Who stands behind which answer: bool [B, M, C]; those without an answer behind none."""
    return clusters[..., None] == torch.arange(clusters.shape[1])


def vote_figures(votes: Tensor, total: Tensor, skills: Tensor, behind: Tensor) -> Tensor:
    """How many stand behind an answer, and how good they are: [B, C, 12]."""
    largest, second = _two_largest(votes)
    rival = torch.where(votes == largest, torch.where(_tied(votes), largest, second), largest)
    behind_skill = (skills[:, None] @ behind)[:, 0]
    every_skill = skills.sum(1, keepdim=True)
    different = (votes > 0).to(votes.dtype).sum(1, keepdim=True)
    figures = [
        votes / total,
        rival / total,
        (votes - rival) / total,
        votes / _MANY,
        (total / _MANY).expand_as(votes),
        (different / _MANY).expand_as(votes),
        (votes == total).to(votes.dtype),
        behind_skill / _SKILLED,
        (every_skill - behind_skill) / _SKILLED,
        behind_skill / votes.clamp(min=1.0),
        (votes == 1).to(votes.dtype),
        (votes > total / 2).to(votes.dtype),
    ]
    return torch.stack(figures, dim=-1)


def query_figures(votes: Tensor, total: Tensor, skills: Tensor) -> Tensor:
    """The shape of the vote: [B, 8]."""
    largest, second = _two_largest(votes)
    share = votes / total
    entropy = -(share * share.clamp(min=_TINY).log()).sum(1, keepdim=True)
    figures = [
        largest / total,
        second / total,
        entropy,
        (votes > 0).to(votes.dtype).sum(1, keepdim=True) / _MANY,
        total / _MANY,
        (largest == total).to(votes.dtype),
        skills.sum(1, keepdim=True) / total,
        votes.sum(1, keepdim=True) / total,
    ]
    return torch.cat(figures, dim=1)


def _two_largest(votes: Tensor) -> tuple[Tensor, Tensor]:
    """Most votes, and the second most: [B, 1] each."""
    padded = torch.cat([votes, torch.zeros_like(votes[:, :1])], dim=1)
    top = padded.topk(2, dim=1).values
    return top[:, :1], top[:, 1:]


def _tied(votes: Tensor) -> Tensor:
    return (votes == votes.amax(1, keepdim=True)).sum(1, keepdim=True) > 1
