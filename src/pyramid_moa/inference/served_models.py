"""Which models of a pyramid ``up`` serves, and all that can be known to fail before it starts."""

import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.vllm_server import HOST
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError

__all__ = ["claimed_ports", "devices_of", "served_models", "shared_devices"]

# What `up` writes itself, and what would hide the server or put a key where others read it.
_OWN_ARGUMENTS = (
    "--api-key",
    "--host",
    "--port",
    "--served-model-name",
    "--ssl-keyfile",
    "--uds",
)


def served_models(pyramid: Pyramid) -> list[ModelSpec]:
    """The entries with a port, in the pyramid's order.

    Raises:
        ConfigError: there are none, or what is wrong with them, all of it together.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"expected Linux, where vLLM's servers run; found {sys.platform}")
    specs = [spec for spec in pyramid.models if spec.port is not None]
    if not specs:
        raise ConfigError(
            f"expected entries with a port, found none among {', '.join(_names(pyramid.models))}: "
            "give each model to be served a port of its own, such as port: 8001, with backend: vllm"
        )
    problems = [
        f"model {spec.name!r}: {problem}" for spec in specs for problem in _entry_problems(spec)
    ]
    ports = [spec.port for spec in specs]
    problems += [
        f"port {port}: expected one model, found {', '.join(_names(specs, port))}; give each a "
        "port of its own"
        for port in dict.fromkeys(ports)
        if ports.count(port) > 1
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    return specs


def _entry_problems(spec: ModelSpec) -> Iterator[str]:
    for field, value in (("name", spec.name), ("model", spec.model)):
        if value.startswith("-"):
            yield f"{field}: expected no dash at its beginning, found {value!r}"
    for argument in spec.extra_args:
        flag = argument.partition("=")[0].replace("_", "-")
        # vLLM's parser takes abbreviations.
        if len(flag) > len("--") and any(own.startswith(flag) for own in _OWN_ARGUMENTS):
            # The value may be a key: it is not repeated.
            yield (
                f"extra_args: {flag} can't be given here; use the entry's name, port and "
                "api_key_env (servers listen on 127.0.0.1, over HTTP)"
            )


def _names(specs: Sequence[ModelSpec], port: int | None = None) -> list[str]:
    return [spec.name for spec in specs if port is None or spec.port == port]


def devices_of(spec: ModelSpec) -> list[int]:
    """GPUs that an entry's server takes: its own, or the first ones where it names none."""
    return sorted(spec.devices) or list(range(spec.tensor_parallel_size))


def shared_devices(specs: Sequence[ModelSpec]) -> list[str]:
    """Say which models share a GPU, a sentence for each two of them."""
    return [
        f"{one.name} and {other.name} share GPU {', '.join(map(str, sorted(both)))}: vLLM takes "
        "most of a GPU's memory, so give each its part with extra_args: "
        '["--gpu-memory-utilization", "0.4"]'
        for one, other in combinations(specs, 2)
        if (both := set(devices_of(one)) & set(devices_of(other)))
    ]


@contextlib.contextmanager
def claimed_ports(specs: Sequence[ModelSpec]) -> Iterator[dict[str, int]]:
    """Keep the ports of some models for this process and those that it hands its claims.

    vLLM binds its port only after many seconds of imports. Until then a second ``up`` would take it
    for a free one, so that each port is claimed as well by a name in Linux's abstract namespace
    of sockets, which leaves nothing behind however its holders die.

    Yields:
        The file descriptor of each model's claim, by the model's name.

    Raises:
        ConfigError: ports in use, all of them together.
    """
    problems = []
    with contextlib.ExitStack() as stack:
        claims = {}
        for spec in specs:
            claim = stack.enter_context(socket.socket(socket.AF_UNIX))
            try:
                claim.bind(f"\0pyramid-moa-up-{spec.port}")
            except OSError:
                problems.append(f"port {spec.port} ({spec.name}): served by another pyramid-moa up")
            else:
                if (problem := _bind_problem(spec.port or 0)) is not None:
                    problems.append(f"port {spec.port} ({spec.name}): {problem}")
            claims[spec.name] = claim.fileno()
        if problems:
            raise ConfigError(
                f"expected free ports; found {'; '.join(problems)}: stop what holds them, or "
                "change the entries' ports"
            )
        yield claims


def _bind_problem(port: int) -> str | None:
    with socket.socket() as probe:
        # Connections of an earlier server that have not quite ended yet don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return (error.strerror or "in use").lower()
    return None
