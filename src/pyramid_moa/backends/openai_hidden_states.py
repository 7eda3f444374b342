"""Hidden states of a vLLM server on this machine: asked for over HTTP, fetched from a folder."""

import asyncio
import time
from typing import TYPE_CHECKING

from pyramid_moa.backends.hidden_states_file import (
    WAIT_S,
    make_private_folder,
    opt_in,
    read_states,
    requested_name,
    states_path,
)
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_reply import transfer_parameters
from pyramid_moa.backends.protocol import HiddenStates, Sampling
from pyramid_moa.backends.vllm_arguments import hidden_states_folder
from pyramid_moa.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ServedHiddenStates", "served_hidden_states"]

_FIRST_LOOK_S = 0.002
_LATER_LOOKS_S = 0.05


def served_hidden_states(
    spec: ModelSpec, hidden_states: HiddenStates | None
) -> "ServedHiddenStates | None":
    """What a server is to be asked for beside the text; None where nothing is wanted or given.

    Raises:
        BackendError: somebody else can write to the folder of a server with a port.
    """
    if hidden_states is None or (folder := hidden_states_folder(spec)) is None:
        return None
    if spec.hidden_states_dir is None:
        make_private_folder(folder)
    return ServedHiddenStates(spec, hidden_states)


class ServedHiddenStates:
    """The folder in which a server leaves vectors, and which of them are wanted."""

    def __init__(self, spec: ModelSpec, hidden_states: HiddenStates) -> None:
        """Keep where they are and what is wanted.

        Args:
            spec: the model's entry, with a port or a hidden_states_dir.
            hidden_states: the vectors wanted of each answer.
        """
        folder = hidden_states_folder(spec)
        assert folder is not None
        self.keys = hidden_states.keys
        self._folder = folder
        self._spec = spec

    def request_fields(self, name: str) -> dict[str, object]:
        """What a request carries to be given vectors under that name."""
        return {"kv_transfer_params": opt_in(name)}

    async def fetch(
        self, name: str, body: bytes, sampling: Sampling, *, wait_s: float = WAIT_S
    ) -> "dict[str, NDArray[np.float16]]":
        """Wait for the vectors of an answer and remove their file.

        Args:
            name: what the request named.
            body: the server's answer.
            sampling: how the answer was asked for.
            wait_s: the longest wait, in seconds.

        Returns:
            Vectors [H] by key.

        Raises:
            BackendError: the server gives none, or others than were asked for; ``can_retry``
                where it may have been late.
        """
        # An answer that a stop text ended was ended outside the engine: it carries nothing.
        if not sampling.stop and requested_name(transfer_parameters(body)) != name:
            raise BackendError(f"the server gives no hidden states; {self._advice()}")
        path, pause = states_path(self._folder, name), _FIRST_LOOK_S
        deadline = time.monotonic() + wait_s
        while (vectors := read_states(path, self.keys)) is None:
            if time.monotonic() > deadline:
                raise BackendError(
                    f"no hidden states appeared in {self._folder} within {wait_s:g} s; "
                    f"{self._advice()}",
                    can_retry=True,
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATER_LOOKS_S)
        return vectors

    def _advice(self) -> str:
        if self._spec.port is not None:
            return (
                "start it with pyramid-moa up --pyramid FILE, and again after hidden_states in "
                "that file was changed"
            )
        return (
            "start it with the connector (see docs/formats.md), with that folder as its "
            "shared_storage_path, or leave hidden_states_dir out"
        )
