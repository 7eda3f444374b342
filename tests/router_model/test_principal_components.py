"""Principal components of rows that are read piece by piece."""

import numpy as np
import pytest
import torch

from pyramid_moa.router_model import hidden_rows, principal_components
from pyramid_moa.router_model.principal_components import whitened_components


class Counted:
    """Rows that note how many were asked for at once."""

    def __init__(self, values):
        self.values = values
        self.most = 0

    @property
    def shape(self):
        return self.values.shape

    def __getitem__(self, index):
        rows = self.values[index]
        self.most = max(self.most, len(rows))
        return rows


def states(count, width, *, seed=0, rank=20):
    """Rows with a few strong directions, far from the origin, in noise; every ninth is missing."""
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=(count, rank)) * np.geomspace(4, 0.5, rank)
    values = strong @ rng.normal(size=(rank, width)) + rng.normal(size=(count, width)) + 3
    values[::9] = 0
    return values.astype(np.float16)


def exact(values, count):
    present = values[(values != 0).any(axis=1)].astype(np.float64)
    mean = present.mean(axis=0)
    _, singular, right = np.linalg.svd(present - mean, full_matrices=False)
    return mean, right[:count].T / (singular[:count] / np.sqrt(len(present) - 1))


def fit(values, count, seed=0):
    return whitened_components(values, count, torch.Generator().manual_seed(seed))


def test_they_are_those_of_all_rows_at_once():
    values = states(2500, 300)
    rows = Counted(values)
    mean, directions = fit(rows, 8)
    assert rows.most <= 1024 < len(values)
    expected_mean, expected = exact(values, 8)
    np.testing.assert_allclose(mean.numpy(), expected_mean, atol=1e-4)
    turned = np.sign((directions.numpy() * expected).sum(axis=0))
    np.testing.assert_allclose(directions.numpy() * turned, expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(("count", "width"), [(40, 1500), (1200, 30), (300, 60), (1100, 4)])
def test_components_have_unit_variance_and_no_correlation(count, width):
    values = states(count, width)
    mean, directions = fit(values, 5)
    present = torch.from_numpy(values[(values != 0).any(axis=1)]).float()
    kept = min(5, width)
    spread = torch.cov(((present - mean) @ directions).T)
    assert torch.allclose(spread[:kept, :kept], torch.eye(kept), atol=1e-3)
    assert not directions[:, kept:].any()


def test_the_same_seed_gives_the_same_bits_and_any_seed_the_same_space():
    values = states(2000, 200)
    first, again, other = fit(values, 6, 1), fit(values, 6, 1), fit(values, 6, 2)
    assert torch.equal(first[1], again[1])
    inner = torch.linalg.svdvals(torch.linalg.qr(first[1]).Q.T @ torch.linalg.qr(other[1]).Q)
    assert torch.allclose(inner, torch.ones(6), atol=1e-4)


def test_the_way_of_many_rows_agrees_with_the_exact_one(monkeypatch):
    values = states(700, 120)
    expected = fit(values, 6)
    monkeypatch.setattr(principal_components, "_EXACT", 0)
    monkeypatch.setattr(hidden_rows, "_ROWS", 64)
    found = fit(values, 6)
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    turned = (found[1] * expected[1]).sum(0).sign()
    assert torch.allclose(found[1] * turned, expected[1], atol=1e-4)


def test_rows_that_are_all_the_same_have_no_direction():
    values = np.full((1500, 40), 2.0, np.float16)
    mean, directions = fit(values, 3)
    assert torch.equal(mean, torch.full((40,), 2.0))
    assert not directions.any()
