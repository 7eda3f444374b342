"""One adapter for each way of running a language model."""

from pyramid_moa.backends.model_spec import ModelSpec, Price, generation_cost_usd, generation_flops
from pyramid_moa.backends.opening import can_give_hidden_states, open_backend
from pyramid_moa.backends.protocol import (
    Backend,
    Completion,
    Failure,
    HiddenStates,
    Message,
    Pooling,
    Prompt,
    Sampling,
    Token,
)
from pyramid_moa.backends.recorded import RecordedBackend

__all__ = [
    "Backend",
    "Completion",
    "Failure",
    "HiddenStates",
    "Message",
    "ModelSpec",
    "Pooling",
    "Price",
    "Prompt",
    "RecordedBackend",
    "Sampling",
    "Token",
    "can_give_hidden_states",
    "generation_cost_usd",
    "generation_flops",
    "open_backend",
]
