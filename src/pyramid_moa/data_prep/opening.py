"""From a model of a pyramid to the running thing, for labelling: live, or a replay of a table."""

from pyramid_moa.backends import Backend, HiddenStates, ModelSpec, open_backend
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.replayed_model import open_replayed
from pyramid_moa.grading import load_grader

__all__ = ["open_model"]


def open_model(spec: ModelSpec, pyramid: Pyramid, *, hidden_states: HiddenStates | None) -> Backend:
    """Open one model; the caller closes it.

    Args:
        spec: its entry.
        pyramid: how questions are put to it, and graded.
        hidden_states: what to keep of its hidden states; None keeps nothing.

    Raises:
        BackendError: it can't be loaded or reached.
        ConfigError: the entry can't be run this way.
        DataError: the table to be replayed can't be read, or has no such recording.
    """
    if spec.backend == "recorded":
        return open_replayed(spec, pyramid.prompt, load_grader(pyramid.grader))
    return open_backend(spec, hidden_states=hidden_states)
