"""Letting many queries take their best steps at once, at every setting of the dial.

Legend: K settings of the dial, n queries, M members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.router_model.state_values import StateValues, reachable_sets
from pyramid_moa.training.outcomes import BoolArray
from pyramid_moa.training.state_fit import SetEvidence

__all__ = ["Walk", "joined_walks", "walk"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """What became of n queries at K settings.

    Attributes:
        called: which members, and in column M whether the oracle was asked, bool [K, n, M + 1].
        answer: whose answer is given, M for the oracle's, int [K, n].
        held: whose answer there was before the oracle was asked, if it was, -1 for nobody's,
            int [K, n].
        together: which groups were asked at once, bool [G, K, n].
    """

    called: BoolArray
    answer: NDArray[np.int64]
    held: NDArray[np.int64]
    together: BoolArray


def walk(values: StateValues, evidence: SetEvidence) -> Walk:
    """Let every query take its best steps, at every setting."""
    members, n = evidence.members, len(evidence.answer(0))
    shape = (len(values.dial), n)
    state = np.zeros(shape, dtype=np.int64)
    called = np.zeros((*shape, members + 1), dtype=bool)
    answer = np.full(shape, members)
    held = np.full(shape, -1)
    together = np.zeros((len(values.groups), *shape), dtype=bool)
    going = np.ones(shape, dtype=bool)
    for subset in reachable_sets(values.groups):
        here = going & (state == subset)
        if not here.any():
            continue
        own = evidence.answer(subset)
        step = values.step(evidence.columns(subset), own >= 0, subset)
        best = step.values.argmax(axis=0)  # [K, n]
        stops = here & (best == 0)
        answer[stops] = np.broadcast_to(own, shape)[stops]
        goes_up = here & (best == 1)
        called[goes_up, members] = True
        held[goes_up] = np.broadcast_to(own, shape)[goes_up]
        going &= ~(here & (best < 2))
        for place, group in enumerate(step.groups):
            goes = here & (best == 2 + place)
            asked = [member for member in range(members) if values.groups[group] >> member & 1]
            for member in asked:
                called[goes, member] = True
            together[group] |= goes
            state[goes] |= values.groups[group]
    return Walk(called=called, answer=answer, held=held, together=together)


def joined_walks(parts: Sequence[tuple[NDArray[np.int64], Walk]]) -> Walk:
    """Put walks of left-out parts into the order of all queries."""
    order = np.argsort(np.concatenate([held for held, _ in parts]))
    return Walk(
        called=np.concatenate([part.called for _, part in parts], axis=1)[:, order],
        answer=np.concatenate([part.answer for _, part in parts], axis=1)[:, order],
        held=np.concatenate([part.held for _, part in parts], axis=1)[:, order],
        together=np.concatenate([part.together for _, part in parts], axis=2)[..., order],
    )
