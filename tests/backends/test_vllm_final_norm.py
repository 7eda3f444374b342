"""The final norm as numbers gives what the model's module gives, or is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from pyramid_moa.backends.vllm_final_norm import find_final_norm
from pyramid_moa.errors import BackendError

SIZE, LAYERS = 24, 3


class OffsetNorm(nn.Module):
    """As Gemma has it: the weight is kept less 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SIZE))
        self.eps = 1e-6

    def forward(self, x):
        x32 = x.float()
        normal = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (normal * (1 + self.weight.float())).to(x.dtype)


class StrangeNorm(OffsetNorm):
    def forward(self, x):
        return x.tanh() * self.weight


class Inner(nn.Module):
    def __init__(self, name, norm):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(LAYERS))
        setattr(self, name, norm)


class Model(nn.Module):
    def __init__(self, name, norm):
        super().__init__()
        # Another list with a norm beside it, as models that take pictures have.
        self.vision = Inner("norm", nn.LayerNorm(SIZE + 1))
        self.model = Inner(name, norm)


def filled(norm):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(SIZE) * 0.5 + 0.2)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("norm", nn.RMSNorm(SIZE, eps=1e-5)),
        ("final_layernorm", nn.LayerNorm(SIZE)),
        ("ln_f", nn.LayerNorm(SIZE, bias=False)),
        ("final_layer_norm", OffsetNorm()),
    ],
)
def test_it_gives_what_the_module_gives(name, norm, dtype):
    model = Model(name, filled(norm)).to(dtype)
    found = find_final_norm(model, layers=LAYERS, hidden_size=SIZE)
    states = torch.randn(5, SIZE) * 3 - 1
    with torch.inference_mode():
        wanted = norm.float()(states).numpy()
    np.testing.assert_allclose(found(states.numpy()), wanted, atol=1e-5)


def test_a_model_without_one_and_one_of_another_kind():
    with pytest.raises(BackendError, match="expected a norm beside its 3 layers"):
        find_final_norm(Model("output_scale", nn.RMSNorm(SIZE)), layers=LAYERS, hidden_size=SIZE)
    with pytest.raises(BackendError, match=r"StrangeNorm.* computes something else"):
        find_final_norm(Model("norm", filled(StrangeNorm())), layers=LAYERS, hidden_size=SIZE)


def test_one_large_weight_does_not_hide_the_offset_of_the_others():
    norm = OffsetNorm()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.0, 3.0, SIZE))
        norm.weight[0] = 500.0
    found = find_final_norm(Model("norm", norm), layers=LAYERS, hidden_size=SIZE)
    states = np.random.default_rng(0).normal(size=(5, SIZE)).astype(np.float32)
    wanted = norm(torch.from_numpy(states)).detach().numpy()
    np.testing.assert_allclose(found(states), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("others", [(0.0, 4.0), (60.0, 90.0)])
def test_a_large_dimension_does_not_hide_the_others(others, dtype):
    # As Gemma's norms are: one dimension outweighs all others by far.
    norm = OffsetNorm()
    torch.manual_seed(2)
    with torch.no_grad():
        norm.weight.copy_(torch.empty(SIZE).uniform_(*others) - 1)
        norm.weight[7] = 199.0
    found = find_final_norm(Model("norm", norm).to(dtype), layers=LAYERS, hidden_size=SIZE)
    np.testing.assert_array_equal(found.weight, norm.weight.detach().float().numpy() + 1)
    assert not found.centred
