import numpy as np
import pytest

from pyramid_moa.training.decision_kinds import KINDS, kind_masks, pick


@pytest.fixture
def ten(changed, simulated):
    """A query of every kind, in the order of the kinds, whatever the whole ensemble says."""
    rows = simulated(10)
    both = ((*rows.members[:1], "oracle"),)
    held = [1, 0, 0, 0, 1, 1, 0, 1, 0, 0]
    final = [1, 0, 0, 1, 1, 0, 0, 1, 0, 1]
    oracle = [0, 1, 0, 1, 1, 0, 0, 0, 1, 1]
    return changed(
        rows,
        models_called=(rows.members[:1],) * 3 + both * 6 + (("oracle",),),
        escalated=np.arange(10) >= 3,
        held_correct=np.array(held, dtype=np.bool_),
        final_correct=np.array(final, dtype=np.bool_),
        oracle_correct=np.array(oracle, dtype=np.bool_),
        ensemble_correct=~np.array(held, dtype=np.bool_),
        policy="sequential",
    )


def test_each_kind_by_hand(ten):
    masks = kind_masks(ten)
    assert list(masks) == [kind.key for kind in KINDS]
    found = {key: np.flatnonzero(mask).tolist() for key, mask in masks.items()}
    assert found == {kind.key: [row] for row, kind in enumerate(KINDS)}


def test_picked_ones_are_of_their_kind(ten):
    assert pick(ten, per_kind=2) == {kind.key: [row] for row, kind in enumerate(KINDS)}
    assert all(rows == [] for rows in pick(ten, per_kind=0).values())


def test_all_at_once_the_ensemble_is_what_was_held(simulated):
    rows = simulated(300)
    masks = kind_masks(rows)
    kept = ~rows.escalated
    assert masks["wrongly_trusted"].sum() == (
        (kept & ~rows.ensemble_correct & rows.oracle_correct).sum()
    )
    assert not masks["asked_first"].any()
    assert sum(mask.astype(int) for mask in masks.values()).tolist() == [1] * 300
