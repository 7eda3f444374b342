"""The norm after a model's last layer, as numbers on the host.

vLLM hands out the last layer before the final norm, transformers after it. The model's own module
can't be called where states are pooled: on a GPU its kernels want tensors of the GPU. So it is
written out here as a formula, which is compared with the module, on the module's own device, before
it is used.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyramid_moa.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FinalNorm", "find_final_norm"]

# Names that models give the norm which stands beside their list of layers.
_NAMES = ("norm", "final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f")
_EPSILONS = ("variance_epsilon", "eps", "epsilon")
_SAMPLES = 4
# Of a dimension's largest value: as much as bfloat16 rounds off, twice over.
_TOLERANCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class FinalNorm:
    """A norm over the last axis of states [..., H].

    Attributes:
        weight: [H].
        bias: [H].
        epsilon: added to the variance.
        centred: whether the mean is taken off first (LayerNorm) or not (RMSNorm).
    """

    weight: "NDArray[np.float32]"
    bias: "NDArray[np.float32]"
    epsilon: float
    centred: bool

    def __call__(self, states: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Normalise states [..., H]."""
        if self.centred:
            states = states - states.mean(axis=-1, keepdims=True)
        variance = np.square(states).mean(axis=-1, keepdims=True)
        normal: NDArray[np.float32] = states / np.sqrt(variance + self.epsilon)
        return normal * self.weight + self.bias


def find_final_norm(model: torch.nn.Module, *, layers: int, hidden_size: int) -> FinalNorm:
    """Find the norm beside a model's list of layers.

    Args:
        model: as vLLM has loaded it.
        layers: blocks of the model.
        hidden_size: H.

    Raises:
        BackendError: there is none, or it is none of the known formulas.
    """
    for owner in model.modules():
        if not any(_is_layers(child, layers) for child in owner.children()):
            continue
        for name in _NAMES:
            module: Any = getattr(owner, name, None)
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.shape == (hidden_size,):
                return _as_formula(module, weight)
    raise BackendError(
        f"{type(model).__name__}: expected a norm beside its {layers} layers "
        f"({', '.join(_NAMES)}), found none: hidden states of the last layer can't be handed out "
        "as transformers has them, after that norm; choose another layer in hidden_states.layers"
    )


def _is_layers(module: torch.nn.Module, layers: int) -> bool:
    return isinstance(module, torch.nn.ModuleList) and len(module) == layers


@torch.inference_mode()
def _as_formula(module: Any, weight: torch.Tensor) -> FinalNorm:  # noqa: ANN401 - a vLLM module
    """Choose the formula that gives what the module gives."""
    generator = torch.Generator().manual_seed(0)
    # Not around 0, so that taking the mean off makes a difference.
    states = torch.randn(_SAMPLES, weight.shape[0], generator=generator) + 1.0
    states = states.to(weight.dtype)
    wanted = module(states.to(weight.device)).float().cpu().numpy()
    bias = getattr(module, "bias", None)
    stated = (getattr(module, name, None) for name in _EPSILONS)
    epsilon = next((float(value) for value in stated if value is not None), 1e-6)
    candidates = [
        FinalNorm(
            weight=_on_host(weight) + np.float32(offset),
            bias=np.zeros(weight.shape, np.float32) if bias is None else _on_host(bias),
            epsilon=epsilon,
            centred=centred,
        )
        for offset in (0.0, 1.0)  # some models keep the weight less 1
        for centred in (False, True)
    ]
    # The nearest one, and each dimension by its own size: one large weight hides nothing.
    size = np.abs(wanted).max(axis=0) + _TOLERANCE
    errors = [
        float((np.abs(norm(states.float().numpy()) - wanted).max(axis=0) / size).max())
        for norm in candidates
    ]
    nearest = int(np.argmin(errors))
    if errors[nearest] <= _TOLERANCE:
        return candidates[nearest]
    raise BackendError(
        f"{type(module).__name__}: expected the final norm to be an RMSNorm or a LayerNorm, found "
        "one that computes something else: choose another layer than the last one in "
        "hidden_states.layers"
    )


def _on_host(tensor: torch.Tensor) -> "NDArray[np.float32]":
    return tensor.float().cpu().numpy()
