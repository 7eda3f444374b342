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
        where_any: whether readers are told of it only where there is one.
    """

    key: str
    title: str
    meaning: str
    where_any: bool = False


KINDS = (
    Kind(
        key="rightly_trusted",
        title="Rightly trusted",
        meaning="The oracle was not asked, and the answer was right.",
    ),
    Kind(
        key="wrongly_trusted",
        title="Wrongly trusted",
        meaning="The oracle was not asked, the answer was wrong, and the oracle's is right.",
    ),
    Kind(
        key="wrong_either_way",
        title="Wrong either way",
        meaning="The oracle was not asked, the answer was wrong, and the oracle's is wrong too.",
    ),
    Kind(
        key="rightly_escalated",
        title="Rightly escalated",
        meaning="The answer was wrong until the oracle put it right.",
    ),
    Kind(
        key="needlessly_escalated",
        title="Needlessly escalated",
        meaning="The oracle was asked although the answer was right; so is the oracle's.",
    ),
    Kind(
        key="harmfully_escalated",
        title="Harmfully escalated",
        meaning="The answer was right until the oracle was asked, whose answer is wrong.",
    ),
    Kind(
        key="escalated_in_vain",
        title="Escalated in vain",
        meaning="The answer was wrong, and so is the oracle's.",
    ),
    Kind(
        key="rightly_outvoted",
        title="Rightly kept against the oracle",
        meaning="The oracle gave another answer or failed; the one that was kept is right.",
        where_any=True,
    ),
    Kind(
        key="wrongly_outvoted",
        title="Wrongly kept against the oracle",
        meaning="The oracle's answer is right, and another one was kept.",
        where_any=True,
    ),
    Kind(
        key="asked_first",
        title="Oracle asked first",
        meaning="Nobody was asked before the oracle.",
        where_any=True,
    ),
)


def kind_masks(outcomes: Outcomes) -> dict[str, BoolArray]:
    """Which queries are of which kind, bool [n] by key; each query is of exactly one kind.

    The answer that is judged is the one that was held before the oracle was asked, or when the
    query ended without it: step by step that is not the answer of the whole ensemble.
    """
    first = outcomes.asked_nobody_before
    kept = ~outcomes.escalated
    asked = outcomes.escalated & ~first
    held, final, oracle = outcomes.held_correct, outcomes.final_correct, outcomes.oracle_correct
    return {
        "rightly_trusted": kept & held,
        "wrongly_trusted": kept & ~held & oracle,
        "wrong_either_way": kept & ~held & ~oracle,
        "rightly_escalated": asked & ~held & oracle & final,
        "needlessly_escalated": asked & held & oracle,
        "harmfully_escalated": asked & held & ~oracle & ~final,
        "escalated_in_vain": asked & ~held & ~oracle,
        "rightly_outvoted": asked & held & ~oracle & final,
        "wrongly_outvoted": asked & ~held & oracle & ~final,
        "asked_first": first,
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
