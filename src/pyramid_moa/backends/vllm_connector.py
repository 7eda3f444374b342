"""Hands out the hidden states of the engine that generates, pooled: a KV connector for vLLM.

vLLM's mode ``extract_hidden_states`` keeps the hidden states of chosen layers in its key-value
cache, beside keys and values, and its ``ExampleHiddenStatesConnector`` copies those of a finished
request to the host. This one pools them there and leaves one small file a request (see
``hidden_states_file``). Named by ``--kv-transfer-config``; vLLM builds it twice, in the scheduler
and in the worker. On a GPU, streams, events and the order of copies are vLLM's own.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    ExampleHiddenStatesConnectorMetadata,
    PendingSave,
)
from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

from pyramid_moa.backends.answer_text import answer_length
from pyramid_moa.backends.hidden_states_file import (
    make_private_folder,
    opt_in,
    remove_forgotten,
    requested_name,
    states_path,
    write_states,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorMetadata,
        KVConnectorRole,
    )
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

    from pyramid_moa.backends.vllm_final_norm import FinalNorm

__all__ = ["HiddenStatesConnector", "pool"]

logger = init_logger(f"vllm.{__name__}")

# After so many files, those that nobody fetched are looked for: of clients that left meanwhile.
_TIDIED_AFTER = 1000
# Between a file's name and the number of the request that it is for.
_NUMBER = "#"
_COMPLETE = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


@dataclass
class PooledSave(PendingSave):  # type: ignore[misc] # a dataclass of an untyped library
    """A finished request whose states are to be pooled, from the block of its last prompt position.

    Attributes:
        prompt_length: tokens of the prompt among ``token_ids``.
    """

    prompt_length: int


class _Copied:
    """In place of a CUDA event, where copies are made at once."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return


class HiddenStatesConnector(ExampleHiddenStatesConnector):  # type: ignore[misc] # an untyped library
    """Pools the hidden states of requests that ask for it.

    Settings, in ``kv_connector_extra_config``: ``shared_storage_path``, the folder for the files;
    ``layers``, the layer number (0 the embedding, k after block k) by layer as files name it.
    """

    def __init__(
        self, vllm_config: "VllmConfig", role: "KVConnectorRole", kv_cache_config: "KVCacheConfig"
    ) -> None:
        """Prepare the folder; see the class for the settings.

        Raises:
            BackendError: somebody else can write to the folder.
        """
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        # A file appears when it is whole: nobody waits on a lock.
        self.use_lock = False
        self.allow_custom_save_path = False
        self.final_norm: FinalNorm | None = None
        self._numbers = itertools.count()
        layers: dict[str, int] = self._kv_transfer_config.get_from_extra_config("layers", {})
        self.layers = layers
        kept = sorted(set(layers.values()))
        self._kept_at = {layer: kept.index(number) for layer, number in layers.items()}
        last = vllm_config.model_config.get_total_num_hidden_layers()
        self.last_layers = frozenset(layer for layer, number in layers.items() if number == last)
        self._prompt_lengths: dict[str, int] = {}
        self._written = itertools.count(1)
        self._folder = Path(self._storage_path)
        make_private_folder(self._folder)
        remove_forgotten(self._folder)

    # What the scheduler calls.

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> "KVConnectorMetadata":
        """Send the worker what is to be saved."""
        metadata = ExampleHiddenStatesConnectorMetadata()
        metadata.pending_saves = list(self._pending_saves.values())
        self._pending_saves.clear()
        return metadata

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Note what is to be saved of a request, before its blocks are freed.

        Returns:
            Whether blocks must be kept until the worker says that they were copied, and what the
            answer carries as ``kv_transfer_params``.
        """
        name = requested_name(request.kv_transfer_params)
        tokens = self._answer_tokens(request) if name is not None else None
        if name is None or tokens is None:
            return False, None
        prompt = request.num_prompt_tokens
        processed = prompt + tokens - 1  # the final generated token is never fed back
        block = (prompt - 1) // self._block_size
        first = block * self._block_size
        if len(block_ids) * self._block_size < processed:
            logger.error("Request %s has too few blocks for its tokens", request.request_id)
            return False, None
        self._pending_saves[request.request_id] = PooledSave(
            req_id=request.request_id,
            filename=str(states_path(self._folder, name)),
            token_ids=torch.tensor(request.all_token_ids[first:processed]),
            block_ids=list(block_ids[block:]),
            prompt_length=prompt - first,
        )
        return True, opt_in(name)

    def _answer_tokens(self, request: "Request") -> int | None:
        """Tokens of a complete answer; None where it is none.

        Stop texts are found outside the engine, which hears of them as of a request that was
        given up, some tokens later.
        """
        parameters = request.sampling_params
        generated = list(request.output_token_ids)
        if parameters is None or not generated:
            return None
        if parameters.stop:
            stopped = answer_length(self._tokenizer(), generated, list(parameters.stop))
            if stopped is not None:
                return stopped
        return len(generated) if request.status in _COMPLETE else None

    def _tokenizer(self) -> Any:  # noqa: ANN401 - untyped library
        from vllm.tokenizers import cached_tokenizer_from_config

        return cached_tokenizer_from_config(self._vllm_config.model_config)

    # What the worker calls.

    def _submit_async_write(self, pending: PooledSave) -> None:
        if not self._is_tp_rank_zero:
            return
        # vLLM hands the writer a file's name and no more. Two requests may have asked for one name.
        pending.filename = f"{pending.filename}{_NUMBER}{next(self._numbers)}"
        self._prompt_lengths[pending.filename] = pending.prompt_length
        try:
            if self._kv_cache.device.type == "cpu":
                self._copy_and_write(pending)
            else:
                super()._submit_async_write(pending)
        except Exception:
            # Whoever waits for this file is told that it did not come; the engine goes on, and
            # takes the request's blocks back.
            logger.exception("Hidden states of request %s are lost", pending.req_id)
            self._prompt_lengths.pop(pending.filename, None)
            self._req_copy_events[pending.req_id] = _Copied()

    def _copy_and_write(self, pending: PooledSave) -> None:
        """Do what vLLM does with CUDA's streams, on a CPU, and hand over to the same writer."""
        blocks = self._kv_cache[torch.tensor(pending.block_ids)]  # [blocks, layers, block size, H]
        states = blocks.transpose(1, 2).flatten(0, 1)[: len(pending.token_ids)]
        self._req_copy_events[pending.req_id] = _Copied()
        self._executor.submit(
            self._write_tensors, {"hidden_states": states}, _Copied(), pending.filename, None
        ).add_done_callback(lambda future: self._on_write_done(pending.req_id, future))

    def _write_tensors(  # the library has it as a static method and finds it on the instance
        self,
        tensors: dict[str, torch.Tensor],
        event: Any,  # noqa: ANN401 - a CUDA event, or what stands in for it
        filename: str,
        lock_fd: int | None,
    ) -> None:
        """Pool and write, in a thread of the writers."""
        prompt_length = self._prompt_lengths.pop(filename)
        filename = filename.rpartition(_NUMBER)[0]
        event.synchronize()
        # numpy, and not torch, so that these threads start no threads of their own.
        states = tensors["hidden_states"].float().numpy()  # [tokens, layers, H]
        write_states(Path(filename), self._pooled(states[prompt_length - 1 :]))
        if next(self._written) % _TIDIED_AFTER == 0:
            remove_forgotten(self._folder)

    def _pooled(self, states: "NDArray[np.float32]") -> "dict[str, NDArray[np.float32]]":
        vectors: dict[str, NDArray[np.float32]] = {}
        for layer, index in self._kept_at.items():
            rows = states[:, index]
            if layer in self.last_layers:
                assert self.final_norm is not None, "the worker hands over the norm when it loads"
                rows = self.final_norm(rows)
            vectors |= {f"layer{layer}/{pooling}": row for pooling, row in pool(rows).items()}
        return vectors

    def shutdown(self) -> None:
        """Let files that are being written become whole."""
        self._executor.shutdown(wait=True)
        super().shutdown()


def pool(rows: "NDArray[np.float32]") -> "dict[str, NDArray[np.float32]]":
    """Pool the states [N, H] of the last prompt position and of what was processed after it.

    Returns:
        A vector [H] for every pooling (see ``HiddenStates``).
    """
    answer = rows[1:] if len(rows) > 1 else rows
    return {
        "last_prompt": np.ascontiguousarray(rows[0]),
        "last_position": np.ascontiguousarray(rows[-1]),
        "answer_mean": np.mean(answer, axis=0),
    }
