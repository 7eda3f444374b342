"""The small models inside of the rules."""

import numpy as np
import pytest
import torch

from pyramid_moa.training.baselines.dial import quantile_thresholds, share_dial
from pyramid_moa.training.baselines.inner_folds import inner_folds, out_of_fold
from pyramid_moa.training.baselines.logistic import STRENGTHS, tuned_logistic
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.baselines.trunk import train_trunks

PARTS = [(np.flatnonzero(np.arange(200) % 4 != k), np.arange(k, 200, 4)) for k in range(4)]


def test_strength_follows_the_signal():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(200, 40))
    noise = tuned_logistic(columns, rng.random(200) < 0.5, PARTS)
    signal = tuned_logistic(columns, columns[:, 0] > 0, PARTS)
    assert noise.strength == min(STRENGTHS)
    assert signal.strength > noise.strength
    assert np.mean((signal.out_of_fold > 0.5) == (columns[:, 0] > 0)) > 0.85
    assert np.mean((signal.predict(columns) > 0.5) == (columns[:, 0] > 0)) > 0.95


def test_one_class_is_a_share():
    model = tuned_logistic(np.zeros((200, 2)), np.ones(200, dtype=bool), PARTS)
    assert np.isnan(model.strength)
    assert model.predict(np.zeros((3, 2))) == pytest.approx(np.full(3, 200.5 / 201))


def test_out_of_fold_uses_what_was_left_out():
    def count(fitted, held):
        assert not set(fitted) & set(held)
        return held * 1.0

    assert (out_of_fold(PARTS, count, 200) == np.arange(200)).all()


def test_inner_folds_keep_questions_together():
    n = 120
    data = RuleRun(
        run=None,
        hashes=tuple(str(number // 3) for number in range(n)),
        clusters=np.zeros((n, 1), dtype=int),
        winner=np.zeros(n, dtype=int),
        share=np.ones(n),
        confidence=np.zeros((n, 1)),
        cost=np.ones((n, 2)),
        correct=np.repeat((np.arange(n) // 3 % 4 > 0)[:, None], 3, axis=1),
    )
    train = np.arange(0, n - 12)
    folds = inner_folds(data, train, 0)
    assert sorted(np.concatenate([held for _, held in folds])) == train.tolist()
    for fitted, held in folds:
        assert not set(train[fitted] // 3) & set(train[held] // 3)
        assert data.vote_fails[train[held]].mean() == pytest.approx(0.25, abs=0.12)


def test_thresholds_let_their_share_through():
    scores = np.random.default_rng(0).random(1000)
    asked = (scores > quantile_thresholds(scores)[:, None]).mean(axis=1)
    assert asked == pytest.approx(share_dial(), abs=0.002)
    ties = (np.full(10, 0.5) > quantile_thresholds(np.full(10, 0.5))[:, None]).mean(axis=1)
    assert ties.tolist() == [0.0] * 50 + [1.0]


def test_trunks_learn_and_keep_their_best():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 10, generator=draw)
    labels = (inputs[:, :2] > 0).float()
    held_out = torch.arange(300)[:, None] % 3 == torch.arange(3)
    trunks = train_trunks(inputs, labels, held_out, seed=0)
    p = trunks.probabilities(inputs)
    assert p.shape == (3, 300, 2)
    for number in range(3):
        own = held_out[:, number]
        right = ((p[number, own] > 0.5) == labels[own].bool()).float().mean()
        assert right > 0.85
        loss = torch.nn.functional.binary_cross_entropy(p[number, own], labels[own])
        assert float(trunks.loss[number]) == pytest.approx(float(loss), abs=1e-4)
    again = train_trunks(inputs, labels, held_out, seed=0)
    assert torch.equal(again.probabilities(inputs), p)
