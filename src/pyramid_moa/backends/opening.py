"""From a model's entry in the YAML to the running thing."""

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.protocol import Backend, HiddenStates
from pyramid_moa.errors import ConfigError

__all__ = ["open_backend"]


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
    if spec.backend == "openai":
        from pyramid_moa.backends.openai_api import OpenAIBackend

        backend = OpenAIBackend(spec)
        try:
            backend.check()
        except BaseException:
            backend.close()
            raise
        return backend
    if spec.backend == "vllm":
        raise ConfigError(
            f"model {spec.name!r}: the vllm backend does not run in process yet; start a server "
            "with it and use backend: openai with its base_url"
        )
    raise ConfigError(
        f"model {spec.name!r}: backend 'recorded' has no model to run; expected transformers or "
        "openai; recorded answers become a run folder with pyramid-moa import"
    )
