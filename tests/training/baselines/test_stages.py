"""Cascades of single models under a budget."""

import numpy as np
import pytest

from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.baselines.stages import Cascade, follow, search_cascades

N = 200
EVERYTHING = np.arange(N)


@pytest.fixture(scope="module")
def data():
    """The cheap member is right on half of the queries, the dear one on three quarters."""
    number = np.arange(N)
    cheap, dear = number % 2 == 0, number % 4 != 3
    return RuleRun(
        run=None,
        hashes=tuple(map(str, number)),
        clusters=np.column_stack([np.zeros(N, dtype=int), np.where(cheap == dear, 0, 1)]),
        winner=np.zeros(N, dtype=int),
        share=np.where(cheap == dear, 1.0, 0.5),
        confidence=np.full((N, 2), np.nan),
        cost=np.tile([3.0, 1.0, 20.0], (N, 1)),
        correct=np.column_stack([dear, cheap, np.ones(N, bool), dear]),
    )


def test_following_one_cascade(data):
    scores = np.column_stack([np.full(N, 0.2), np.where(EVERYTHING < 50, 0.9, 0.1)])
    made = follow(data, [Cascade(members=(1, 0), thresholds=(0.5, 0.5))], EVERYTHING, scores)
    assert (made.answer[0, :50] == 1).all()
    assert (made.answer[0, 50:] == data.oracle).all()
    assert made.called[0, 0].tolist() == [False, True, False]
    assert made.called[0, 60].tolist() == [True, True, True]
    assert made.failure.values == pytest.approx(np.full(N, 0.8))


def test_with_perfect_scores_each_query_stops_at_its_first_right_answer(data):
    scores = data.correct[:, :2].astype(float)
    cascades = search_cascades(data, EVERYTHING, scores)
    made = follow(data, cascades, EVERYTHING, scores)
    right = np.take_along_axis(data.correct, made.answer.T, axis=1).mean(axis=0)
    cost = (made.called * data.cost).sum(axis=2).mean(axis=1)
    assert right[0] == 0.5  # the cheap member alone
    assert cost[0] == 1.0
    best = int(np.argmax(right == 1.0))
    # Half stop at 1, a quarter at 4, a quarter go on to the oracle.
    assert cost[best] == pytest.approx(0.5 * 1 + 0.25 * 4 + 0.25 * 24)
    assert (np.diff(right) >= 0).all()


def test_with_worthless_scores_the_oracle_alone_is_the_best_there_is(data):
    scores = np.random.default_rng(0).random((N, 2))
    cascades = search_cascades(data, EVERYTHING, scores)
    made = follow(data, cascades[-1:], EVERYTHING, scores)
    assert (made.answer[0] == data.oracle).all()
    assert cascades[-1] == Cascade(members=(), thresholds=())
