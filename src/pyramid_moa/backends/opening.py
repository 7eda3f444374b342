"""From a model's entry in the YAML to the running thing."""

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.protocol import Backend, HiddenStates
from pyramid_moa.backends.vllm_arguments import hidden_states_folder
from pyramid_moa.errors import ConfigError

__all__ = ["can_give_hidden_states", "open_backend"]


def open_backend(spec: ModelSpec, *, hidden_states: HiddenStates | None = None) -> Backend:
    """Load or reach one model.

    Args:
        spec: the model's entry.
        hidden_states: what to keep of the hidden states; None keeps nothing.

    Returns:
        The backend, ready to answer; the caller closes it.

    Raises:
        BackendError: it can't be loaded or reached.
        ConfigError: the entry can't be run this way.
    """
    if spec.backend == "transformers":
        from pyramid_moa.backends.transformers_local import TransformersBackend

        return TransformersBackend(spec, hidden_states=hidden_states)
    if spec.is_served:
        from pyramid_moa.backends.openai_api import OpenAIBackend

        backend = OpenAIBackend(spec, hidden_states=hidden_states)
        try:
            backend.check()
        except BaseException:
            backend.close()
            raise
        return backend
    if spec.backend == "vllm":
        from pyramid_moa.backends.vllm_local import VllmBackend

        return VllmBackend(spec, hidden_states=hidden_states)
    raise ConfigError(
        f"model {spec.name!r}: backend 'recorded' has no model to run; expected transformers, vllm "
        "or openai; recorded answers become a run folder with pyramid-moa import"
    )


def can_give_hidden_states(spec: ModelSpec) -> bool:
    """Whether a model's backend can hand out hidden states, as far as its entry tells."""
    if spec.is_served:
        return hidden_states_folder(spec) is not None
    return spec.backend in ("transformers", "vllm")
