"""The exact test of a drop: its size to the last digit, its strength, its order."""

import time

import numpy as np
import pytest
from scipy.stats import multinomial

from pyramid_moa.training.drop_test import DropTest, evidence_of_drop
from pyramid_moa.training.risk_bounds import mean_below_p_value

LEVEL = 0.05


def outcomes(n):
    """All that n questions can come to: numbers lost and gained."""
    lost, gained = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = lost + gained <= n
    return lost[possible], gained[possible]


def sizes(n, drop, proves, *, beyond=0.0):
    """Probability of a proof by the share that gains, where the true drop is ``drop + beyond``."""
    lost, gained = outcomes(n)
    proven = np.array([proves(int(a), int(b)) for a, b in zip(lost, gained, strict=True)])
    counts = np.column_stack([lost, gained, n - lost - gained])[proven]
    found = []
    for share in (0.0, 0.001, 0.01, 0.03, 0.1, 0.2, (1 - drop - beyond) / 2):
        chances = [share + drop + beyond, share, 1 - drop - beyond - 2 * share]
        found.append(multinomial(n, np.clip(chances, 0, 1)).pmf(counts).sum())
    return np.array(found)


@pytest.mark.parametrize(("n", "drop"), [(40, 0.1), (60, 0.05), (90, 0.03), (50, 0.0)])
def test_a_proof_is_wrong_with_no_more_than_the_level(n, drop):
    """By adding up the probabilities of everything that can happen."""
    found = sizes(n, drop, DropTest(n=n, drop=drop, level=LEVEL).proves)
    assert found.max() <= LEVEL
    assert sizes(n, drop, DropTest(n=n, drop=drop, level=LEVEL).proves, beyond=0.02).max() <= LEVEL


def test_what_was_measured_proves_nothing():
    """The same sum finds out a rule that takes what it measured for the truth."""
    assert sizes(60, 0.05, lambda lost, gained: lost - gained <= 60 * 0.05).max() > 0.4
    evidence = sizes(
        60, 0.05, lambda a, b: evidence_of_drop(np.array(a), np.array(b), 60, 0.05) > 1
    )
    assert evidence.max() > 2 * LEVEL


def test_it_uses_most_of_the_level_where_there_are_many_questions():
    rng = np.random.default_rng(0)
    test = DropTest(n=5000, drop=0.01, level=LEVEL)
    drawn = rng.multinomial(5000, [0.03, 0.02, 0.95], size=4000)
    share = np.mean([test.proves(int(a), int(b)) for a, b, _ in drawn])
    assert 0.035 < share < LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 4000)


def test_it_proves_more_than_betting_does():
    rng = np.random.default_rng(1)
    n, drop = 1000, 0.02
    test = DropTest(n=n, drop=drop, level=LEVEL)
    drawn = rng.multinomial(n, [0.012, 0.01, 0.978], size=300)
    exact = np.mean([test.proves(int(a), int(b)) for a, b, _ in drawn])
    losses = np.stack([np.repeat([1, -1, 0], counts) for counts in drawn])
    betting = np.mean(mean_below_p_value(losses - drop, 1 - drop) <= LEVEL)
    assert exact > 0.9
    assert betting < exact - 0.1


def test_without_anything_lost_it_takes_about_three_questions_for_each_part_of_the_drop():
    """Where nothing is lost or gained: (1 - drop) ** n."""
    for drop in (0.005, 0.02, 0.1):
        needed = int(np.ceil(np.log(LEVEL) / np.log1p(-drop)))
        assert DropTest(n=needed + needed // 50 + 2, drop=drop, level=LEVEL).proves(0, 0)
        assert not DropTest(n=needed - 2, drop=drop, level=LEVEL).proves(0, 0)


def test_fewer_lost_and_more_gained_are_better_evidence():
    lost, gained = outcomes(30)
    for drop in (0.0, 0.03, 0.2):
        found = np.full((32, 32), np.nan)
        found[lost, gained] = evidence_of_drop(lost, gained, 30, drop)
        assert np.nanmax(np.diff(found, axis=0)) <= 1e-9
        assert np.nanmin(np.diff(found, axis=1)) >= -1e-9
        assert np.all(found[lost, gained][lost - gained > 30 * drop] <= 0)


def test_what_is_remembered_is_what_is_computed():
    test = DropTest(n=200, drop=0.04, level=LEVEL)
    rng = np.random.default_rng(3)
    for lost, gained in rng.integers(0, 12, size=(60, 2)).tolist():
        assert test.proves(lost, gained) == (test.p_value(lost, gained) <= LEVEL)


def test_two_hundred_settings_take_no_time():
    started = time.process_time()
    test = DropTest(n=5000, drop=0.01, level=LEVEL)
    for place in range(200):
        test.proves(place // 2, place // 3)
    assert time.process_time() - started < 2.0
