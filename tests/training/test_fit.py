"""Fitting on tensors: what is left out, what is kept, what is calibrated."""

from dataclasses import replace

import pytest
import torch

from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.calibration import fit_platt
from pyramid_moa.training.config import NetworkConfig, OptimiserConfig
from pyramid_moa.training.examples import Examples
from pyramid_moa.training.fit import fit_network, held_out_parts
from synthetic import quick_config


def examples(count=240, *, seed=0, signal=2.0):
    """A first feature like a vote share, a second that carries the signal, a third unknown."""
    generator = torch.Generator().manual_seed(seed)
    hard = torch.randn(count, generator=generator)
    share = (torch.rand(count, generator=generator) > 0.4).float()
    features = torch.stack(
        [
            share,
            signal * hard + torch.randn(count, generator=generator) * 0.5,
            torch.full((count,), torch.nan),
        ],
        dim=1,
    )
    fails = (hard + torch.randn(count, generator=generator) * 0.5 - share > 0.3).float()
    oracle = (torch.rand(count, generator=generator) < 0.95).float()
    return Examples(features=features, hidden=(), ensemble_fails=fails, oracle_right=oracle)


def auroc(scores, labels):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(labels.numpy(), scores.numpy())


def test_every_seed_leaves_out_a_quarter_with_its_share_of_failures():
    data = examples(203)
    held_out = held_out_parts(data, seeds=8, seed=3)
    assert held_out.shape == (203, 8)
    assert torch.equal(held_out[:, :4].sum(dim=1), torch.ones(203, dtype=torch.long))
    assert torch.equal(held_out[:, 0], held_out[:, 4])
    rate = data.ensemble_fails.mean()
    for part in held_out.T:
        assert int(part.sum()) in (50, 51)
        assert abs(data.ensemble_fails[part].mean() - rate) < 0.02
    assert torch.equal(held_out, held_out_parts(data, seeds=8, seed=3))
    assert not torch.equal(held_out, held_out_parts(data, seeds=8, seed=4))


def test_out_of_fold_probabilities_are_of_seeds_that_did_not_see_the_query():
    """Labels of noise: whoever had seen them would know them."""
    data = examples(120, signal=0.0)
    generator = torch.Generator().manual_seed(9)
    noise = (torch.rand(120, generator=generator) < 0.5).float()
    features = torch.randn(120, 30, generator=generator)
    data = replace(data, features=features, ensemble_fails=noise)
    config = quick_config(
        optimiser=OptimiserConfig(max_epochs=60, patience=60, learning_rate=2e-2, weight_decay=0.0),
        network=NetworkConfig(units=16, seeds=4, dropout=0.0),
    )
    fitted = fit_network(data, config)
    assert 0.3 < auroc(fitted.out_of_fold[:, 0], noise) < 0.7


def test_new_queries_are_ranked_and_calibrated():
    fitted = fit_network(examples(), quick_config())
    new = examples(2000, seed=1)
    with torch.inference_mode():
        p = fitted.network(new.features)
    assert auroc(p[:, 0], new.ensemble_fails) > 0.85
    assert auroc(p[:, 0], new.ensemble_fails) > auroc(-new.features[:, 0], new.ensemble_fails)
    assert abs(p[:, 0].mean() - new.ensemble_fails.mean()) < 0.07
    assert abs(p[:, 1].mean() - 0.95) < 0.05
    assert not fitted.network.training


def test_without_any_signal_it_stays_near_the_vote_rule():
    fitted = fit_network(examples(signal=0.0), quick_config())
    new = examples(2000, seed=1, signal=0.0)
    with torch.inference_mode():
        p = fitted.network(new.features)[:, 0]
    agreement = auroc(-new.features[:, 0], new.ensemble_fails)
    assert auroc(p, new.ensemble_fails) > agreement - 0.06


def test_fewer_seeds_than_parts():
    config = quick_config(network=NetworkConfig(units=4, seeds=1))
    fitted = fit_network(examples(60), config)
    assert fitted.out_of_fold.shape == (60, 2)
    assert bool(torch.isfinite(fitted.out_of_fold).all())


def test_what_cannot_be_learned_from():
    with pytest.raises(RunFolderError, match="at least 20 queries"):
        fit_network(examples(19), quick_config())
    data = examples(40)
    never = replace(data, ensemble_fails=torch.zeros(40))
    with pytest.raises(RunFolderError, match="never fails"):
        fit_network(never, quick_config())
    always = replace(data, ensemble_fails=torch.ones(40))
    with pytest.raises(RunFolderError, match="always fails"):
        fit_network(always, quick_config())


def test_one_class_of_the_oracle_is_no_problem():
    data = replace(examples(60), oracle_right=torch.ones(60))
    fitted = fit_network(data, quick_config())
    assert float(fitted.out_of_fold[:, 1].min()) > 0.8


def test_platt_mends_logits_that_are_too_sure():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, generator=generator)
    labels = (torch.rand(4000, generator=generator) < torch.sigmoid(true - 0.5)).float()
    slope, offset = fit_platt(3 * true + 1, labels)
    assert slope == pytest.approx(1 / 3, abs=0.04)
    assert offset == pytest.approx(-0.5 - 1 / 3, abs=0.12)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_platt_does_not_run_away_on_one_class(label):
    slope, offset = fit_platt(torch.linspace(-1, 1, 30), torch.full((30,), label))
    assert 0 < slope < 20
    assert abs(offset) < 20
