"""How often answers may differ from the oracle's while a promise is kept."""

import numpy as np
import pytest

from pyramid_moa.training.audit_bound import most_that_differ
from pyramid_moa.training.targets import Target


def bound(kind, value, rng, n, *, lost, gained, both, reference="gold"):
    """The bound from n questions of which such shares are lost, gained, or wrong twice over."""
    draw = rng.choice(4, n, p=[1 - lost - gained - both, lost, gained, both])
    return most_that_differ(
        [Target(kind=kind, value=value)],
        correct=(draw == 0) | (draw == 2),
        oracle_correct=(draw == 0) | (draw == 1),
        may_differ=np.ones(n, dtype=bool),
        reference=reference,
    )


@pytest.mark.parametrize(
    ("lost", "gained", "both"), [(0.02, 0.01, 0.01), (0.01, 0.0, 0.0), (0.05, 0.04, 0.02)]
)
def test_a_promise_that_is_just_kept_differs_no_more_often_than_it_may(lost, gained, both):
    rng = np.random.default_rng(4)
    drop, differ = lost - gained, lost + gained + both
    bounds = [
        bound("max_drop", drop, rng, 300, lost=lost, gained=gained, both=both) for _ in range(100)
    ]
    assert np.mean(np.array(bounds) < differ) <= 0.025 + 2 * (0.025 * 0.975 / 100) ** 0.5


def test_an_accuracy_is_held_against_the_oracles_own():
    rng = np.random.default_rng(5)
    shares = {"lost": 0.03, "gained": 0.01, "both": 0.02}
    accuracy, differ = 1 - shares["lost"] - shares["both"], sum(shares.values())
    bounds = [bound("target_accuracy", accuracy, rng, 300, **shares) for _ in range(100)]
    assert np.mean(np.array(bounds) < differ) <= 0.025 + 2 * (0.025 * 0.975 / 100) ** 0.5


def test_more_questions_say_it_more_sharply():
    few, many = (
        bound("max_drop", 0.01, np.random.default_rng(1), n, lost=0.01, gained=0.01, both=0.01)
        for n in (200, 20_000)
    )
    assert 0.01 + 0.03 < many < few < 0.2
    assert many == pytest.approx(0.04, abs=0.01)


def test_where_the_oracle_is_the_reference_no_difference_is_harmless():
    rng = np.random.default_rng(2)
    shares = {"lost": 0.02, "gained": 0.0, "both": 0.0, "reference": "oracle"}
    assert bound("max_drop", 0.03, rng, 100, **shares) == 0.03
    assert bound("target_accuracy", 0.96, rng, 100, **shares) == pytest.approx(0.04)


@pytest.mark.parametrize("kind", ["target_cost_ratio", "max_usd_per_1000"])
def test_costs_are_nothing_that_differences_speak_to(kind):
    rng = np.random.default_rng(3)
    assert bound(kind, 0.5, rng, 50, lost=0.0, gained=0.0, both=0.0) is None


def test_a_drop_of_everything_lets_everything_differ():
    rng = np.random.default_rng(3)
    assert bound("max_drop", 1.0, rng, 50, lost=0.1, gained=0.1, both=0.1) == 1.0


def test_of_several_the_one_that_allows_least():
    rng = np.random.default_rng(6)
    drawn = {
        "correct": rng.random(500) < 0.9,
        "oracle_correct": rng.random(500) < 0.95,
        "may_differ": np.ones(500, dtype=bool),
        "reference": "gold",
    }
    drop, accuracy = (
        Target(kind="max_drop", value=0.02),
        Target(kind="target_accuracy", value=0.8),
    )
    cost = Target(kind="max_usd_per_1000", value=1.0)
    alone = most_that_differ([drop], **drawn)
    assert alone < most_that_differ([accuracy], **drawn)
    assert most_that_differ([drop, cost], **drawn) == alone
    # Both have a share of the level, which makes the bound a little wider.
    assert alone < most_that_differ([accuracy, drop], **drawn) < alone + 0.03
    assert most_that_differ([cost], **drawn) is None
