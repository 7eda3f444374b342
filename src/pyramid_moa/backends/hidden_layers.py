"""Which layers of a model ``hidden_states.layers`` means."""

from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.errors import BackendError

__all__ = ["layer_numbers"]


def layer_numbers(hidden_states: HiddenStates, *, count: int, model: str) -> dict[int, int]:
    """Number layers from the embedding, as transformers counts ``hidden_states``.

    Args:
        hidden_states: what is asked for; -1 is the last layer.
        count: blocks of the model.
        model: its name, for the error.

    Returns:
        By layer as it was written: 0 for the embedding, k for the output of block k.

    Raises:
        BackendError: a layer that the model lacks.
    """
    wrong = [layer for layer in hidden_states.layers if not -count - 1 <= layer <= count]
    if wrong:
        raise BackendError(
            f"model {model!r} has {count} layers: hidden_states.layers must lie between "
            f"{-count - 1} and {count}, found {wrong}"
        )
    return {layer: layer if layer >= 0 else count + 1 + layer for layer in hidden_states.layers}
