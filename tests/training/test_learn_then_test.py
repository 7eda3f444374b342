"""Promises on questions whose true risk is known."""

import numpy as np
import pytest

from pyramid_moa.training.drop_test import DropTest
from pyramid_moa.training.learn_then_test import (
    Plan,
    cheapest_within_drop,
    most_accurate,
    proven_accurate,
    proven_within_cost,
)

N, K = 400, 60
LEVEL = 0.1
# The share accepted at each setting; what is accepted last is wrong most often.
ACCEPTED = np.linspace(0, 1, K)
LOST, GAINED = 0.12 * ACCEPTED**3, 0.02 * ACCEPTED
ACCURACY = 0.9 + GAINED - LOST


@pytest.fixture
def plan():
    """What 300 other questions say."""
    lost, gained, _ = counts(np.random.default_rng(9), 300)
    return Plan(
        accuracy=0.9 + (gained - lost) / 300, lost=lost / 300, gained=gained / 300, questions=300
    )


def counts(rng, n):
    """Numbers lost, gained and right at every setting, on n questions."""
    ease = rng.random(n)
    lost_at = rng.random(n) < 0.36 * ease**2
    gained_at = ~lost_at & (rng.random(n) < 0.02 / (1 - 0.36 * ease**2))
    taken = ease <= ACCEPTED[:, None]
    same_right = rng.random(n) < (0.9 - 0.36 * ease**2) / (0.98 - 0.36 * ease**2)
    oracle = lost_at | (~gained_at & same_right)
    lost, gained = (taken & lost_at).sum(axis=1), (taken & gained_at).sum(axis=1)
    return lost, gained, oracle.sum() + gained - lost


def test_the_risks_are_what_is_said():
    lost, gained, right = counts(np.random.default_rng(0), 400_000)
    assert lost / 400_000 == pytest.approx(LOST, abs=2e-3)
    assert gained / 400_000 == pytest.approx(GAINED, abs=2e-3)
    assert right / 400_000 == pytest.approx(ACCURACY, abs=4e-3)


def broken(choose, bad, draws=1500):
    """Share of draws in which a bad setting is chosen, and in which one is."""
    rng = np.random.default_rng(1)
    chosen = [choose(*counts(rng, N)) for _ in range(draws)]
    rate = np.mean([place is not None and bad[place] for place in chosen])
    return rate, np.mean([place is not None for place in chosen])


def test_a_drop_is_kept_to(plan):
    drop = 0.02
    test = DropTest(n=N, drop=drop, level=LEVEL)
    bad = drop < LOST - GAINED
    rate, found = broken(lambda a, b, _: cheapest_within_drop(a, b, plan, test), bad)
    assert rate <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 1500)
    assert found > 0.9
    # The one that does best on these very questions breaks it every other time.
    measured, _ = broken(lambda a, b, _: int(np.flatnonzero(a - b <= drop * N)[-1]), bad)
    assert measured > 0.35


def test_an_accuracy_is_kept_to(plan):
    accuracy = 0.87
    bad = accuracy > ACCURACY
    rate, found = broken(
        lambda _a, _b, right: max(proven_accurate(right, N, plan, accuracy, LEVEL), default=None),
        bad,
    )
    assert rate <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 1500)
    assert found > 0.5
    measured, _ = broken(
        lambda _a, _b, right: int(np.flatnonzero(right >= accuracy * N).max(initial=0)), bad
    )
    assert measured > 0.35


def test_a_wrong_order_proves_less_but_nothing_false():
    """The worst plan there is: it takes the settings that lose most for the best."""
    lost = np.linspace(0.3, 0.0, K)
    upside_down = Plan(accuracy=-ACCURACY, lost=lost, gained=0 * lost, questions=10_000)
    test = DropTest(n=N, drop=0.02, level=LEVEL)
    rate, found = broken(
        lambda a, b, _: cheapest_within_drop(a, b, upside_down, test), LOST - GAINED > 0.02, 500
    )
    assert rate <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 500)
    assert found < 0.2


def test_a_cost_is_kept_to(plan):
    """Cost 0.2 and 1 more for the oracle; at most 0.6 in the mean."""
    rng = np.random.default_rng(2)
    true = 0.2 + 1 - ACCEPTED
    chosen = []
    for _ in range(300):
        spent = 0.2 + (rng.random(N) > ACCEPTED[:, None])
        chosen.append(most_accurate(proven_within_cost(spent - 0.6, 0.6, LEVEL), plan))
    assert None not in chosen
    assert np.mean(true[chosen] > 0.6) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 300)
    # Of those within it the plan's most accurate, which here is the dearest.
    assert np.mean(true[chosen]) > 0.4


def test_nothing_is_proven_of_what_comes_after_a_failure(plan):
    lost, gained = np.zeros(K, dtype=int), np.zeros(K, dtype=int)
    test = DropTest(n=N, drop=0.02, level=LEVEL)
    assert cheapest_within_drop(lost, gained, plan, test) == K - 1
    start = plan.start_within_drop(N, 0.02)
    lost[start + 5] = 300
    assert cheapest_within_drop(lost, gained, plan, test) == start + 4
    lost[start] = 300
    assert cheapest_within_drop(lost, gained, plan, test) is None
    excess = np.full((K, 50), -0.5)
    excess[K - 4] = 0.5
    best = most_accurate(proven_within_cost(excess, 1.0, LEVEL), plan)
    assert best in range(K - 3, K)
    excess[K - 1] = 0.5
    assert most_accurate(proven_within_cost(excess, 1.0, LEVEL), plan) is None
