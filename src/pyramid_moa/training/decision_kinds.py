"""Kinds of decision, and a few queries of each to look at."""

from dataclasses import dataclass

import numpy as np

from pyramid_moa.training.outcomes import BoolArray, Outcomes

__all__ = ["KINDS", "Kind", "kind_masks", "pick"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of decision.

    Attributes:
        key: name in code and JSON.
        title: name for readers.
        meaning: what happened, in one sentence.
    """

    key: str
    title: str
    meaning: str


KINDS = (
    Kind(
        key="rightly_trusted",
        title="Rightly trusted",
        meaning="The oracle was not asked, and the ensemble was right.",
    ),
    Kind(
        key="wrongly_trusted",
        title="Wrongly trusted",
        meaning="The oracle was not asked, and the ensemble was wrong.",
    ),
    Kind(
        key="rightly_escalated",
        title="Rightly escalated",
        meaning="The ensemble was wrong, and the oracle put it right.",
    ),
    Kind(
        key="needlessly_escalated",
        title="Needlessly escalated",
        meaning="The oracle was asked although the ensemble was right.",
    ),
    Kind(
        key="escalated_in_vain",
        title="Escalated in vain",
        meaning="The ensemble was wrong, and so was the oracle.",
    ),
)


def kind_masks(outcomes: Outcomes) -> dict[str, BoolArray]:
    """Which queries are of which kind, bool [n] by key; each query is of exactly one kind."""
    asked, right = outcomes.escalated, outcomes.ensemble_correct
    return {
        "rightly_trusted": ~asked & right,
        "wrongly_trusted": ~asked & ~right,
        "rightly_escalated": asked & ~right & outcomes.oracle_correct,
        "needlessly_escalated": asked & right,
        "escalated_in_vain": asked & ~right & ~outcomes.oracle_correct,
    }


def pick(outcomes: Outcomes, *, per_kind: int, seed: int = 0) -> dict[str, list[int]]:
    """Draw queries of each kind at random, so that they are typical and not chosen.

    Args:
        outcomes: the evaluated queries.
        per_kind: how many of each kind at most.
        seed: of the draw.

    Returns:
        Rising row numbers by key.
    """
    rng = np.random.default_rng(seed)
    picked = {}
    for key, mask in kind_masks(outcomes).items():
        rows = np.flatnonzero(mask)
        drawn = rng.choice(rows, size=min(per_kind, len(rows)), replace=False)
        picked[key] = sorted(int(row) for row in drawn)
    return picked
