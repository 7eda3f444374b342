"""The network: shapes, unknown values, standardised inputs."""

import pytest
import torch

from pyramid_moa.router_model.network import HEADS, NetworkShape, RouterNetwork


def network(features=4, hidden=(), **changes):
    shape = NetworkShape(
        **{"features": features, "hidden_sizes": hidden, "components": 3, "units": 5, "seeds": 2}
        | changes
    )
    made = RouterNetwork(shape).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return made


def test_probabilities_of_both_heads():
    out = network()(torch.randn(7, 4))
    assert out.shape == (7, len(HEADS))
    assert bool(((out > 0) & (out < 1)).all())


def test_fitted_inputs_are_standardised_and_unknown_ones_are_in_the_middle():
    made = network()
    features = torch.randn(400, 4) * torch.tensor([1.0, 10.0, 0.0, 1.0]) + 3
    features[::3, 1] = torch.nan
    features[:, 3] = torch.nan
    made.fit_inputs(features, [], torch.Generator())
    inputs = made.inputs(features, [])
    assert inputs.shape == (400, made.shape.inputs)
    values, unknown = inputs[:, :4], inputs[:, 4:8]
    assert torch.equal(unknown, features.isnan().float())
    assert not values[features.isnan()].any()
    known = values[~features[:, 1].isnan(), 1]
    assert float(known.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(known.std()) == pytest.approx(1.0, abs=0.05)
    assert float(values[:, 2].abs().max()) < 1e-3  # a constant says nothing
    far = made.inputs(torch.full((1, 4), 1e9), [])
    assert float(far.abs().max()) == 5.0


@pytest.mark.parametrize(("count", "size"), [(40, 6), (1, 6), (0, 6), (2, 6), (30, 2), (60, 1500)])
def test_hidden_states_become_uncorrelated_components(count, size):
    made = network(hidden=(size,))
    states = torch.randn(max(count, 1), size, generator=torch.Generator().manual_seed(1))
    states = states[:count] * torch.linspace(5, 0.5, size)
    states = torch.cat([states, torch.zeros(3, size)])  # who failed has none
    made.fit_inputs(torch.zeros(count + 3, 4), [states], torch.Generator().manual_seed(0))
    reduced = made.inputs(torch.zeros(count + 3, 4), [states])[:, 8:]
    assert reduced.shape == (count + 3, 3)
    assert not reduced[-3:].any()
    assert bool(torch.isfinite(reduced).all())
    if count >= 30:
        rank = min(3, size)
        spread = torch.cov(reduced[:-3, :rank].T)
        assert torch.allclose(spread, torch.eye(rank), atol=0.2)


def test_scores_do_not_hang_on_company():
    """One by one, as the router scores; a batch may round otherwise, but not by more."""
    made = network(hidden=(6, 6))
    features, hidden = torch.randn(9, 4), [torch.randn(9, 6), torch.randn(9, 6)]
    made.fit_inputs(features, hidden, torch.Generator())
    together = made(features, *hidden)
    for row in range(9):
        alone = made(features[row : row + 1], *(h[row : row + 1] for h in hidden))
        assert torch.allclose(alone[0], together[row], atol=1e-6)


def test_a_drawn_network_is_the_same_for_the_same_generator():
    first, second = network(), network()
    first.reset(torch.Generator().manual_seed(3))
    second.reset(torch.Generator().manual_seed(3))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
