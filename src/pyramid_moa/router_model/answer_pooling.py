"""What is pooled over those who stand behind an answer, and over the others.

Shapes: B queries, M places for members, C different answers, R relations of two answers, E size of
an answer's code, S networks side by side. ``behind`` [B, M, C] is 1 where a member stands behind an
answer.
"""

from torch import Tensor

__all__ = ["among", "between", "pooled_codes"]


def pooled_codes(codes: Tensor, behind: Tensor, votes: Tensor, total: Tensor) -> list[Tensor]:
    """Mean and largest code of those behind an answer, mean of the others: [S, B, C, E] each."""
    sums = behind.transpose(1, 2) @ codes
    own = sums / votes.clamp(min=1.0)[..., None]
    others = (codes.sum(2, keepdim=True) - sums) / (total - votes).clamp(min=1.0)[..., None]
    largest = (codes[:, :, :, None] * behind[..., None]).amax(2)
    return [own, others, largest]


def among(known: Tensor, present: Tensor, behind: Tensor) -> Tensor:
    """How alike those behind an answer are: [B, C, R]."""
    return _mean_of_pairs(known, behind[:, :, None] * behind[:, None] * present[..., None])


def between(known: Tensor, present: Tensor, behind: Tensor) -> Tensor:
    """How alike those behind an answer and the others are: [B, C, R]."""
    return _mean_of_pairs(known, behind[:, :, None] * (1.0 - behind)[:, None] * present[..., None])


def _mean_of_pairs(known: Tensor, pairs: Tensor) -> Tensor:
    """Mean of what pairs of members have in common: [B, C, R] from 0 and 1 in [B, M, M, C]."""
    flat = pairs.flatten(1, 2)  # [B, M * M, C]
    return flat.transpose(1, 2) @ known.flatten(1, 2) / flat.sum(1).clamp(min=1.0)[..., None]
