"""The programs that are measured: stub models, the gateway before them, LiteLLM's proxy."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = ["Served", "clear_of", "gateway", "litellm_proxy", "stub_models"]

_STUB = Path(__file__).with_name("stub_models.py")
_SCRIPTS = Path(__file__).parents[2] / "scripts"
_NAMES = ("a", "b", "c", "oracle")
# LiteLLM's proxy takes half a minute to start on a machine of two cores.
_START_S = 180.0
_LITELLM = {
    # Nothing of it may look for prices or news elsewhere.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    # On loopback, as the gateway is here: neither checks a key.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A program under way.

    Attributes:
        port: on loopback.
        model: what to ask it for.
        pid: of its process.
    """

    port: int
    model: str
    pid: int

    def processor_s(self) -> float | None:
        """Processor time of all its threads so far; None where the system does not tell."""
        try:
            files = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
            return sum(int(file.read_text().split()[0]) for file in files) / 1e9
        except (OSError, ValueError):
            return None


@contextmanager
def clear_of(core: int) -> Iterator[None]:
    """Leave a core to somebody else, as far as there is another: this process and its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {core} or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def stub_models(delay_ms: float) -> Iterator[list[int]]:
    """A model for each name, on ports of their own."""
    command = [sys.executable, str(_STUB), str(len(_NAMES)), str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.kill()


@contextmanager
def gateway(
    ports: Sequence[int], *, router: str | None = None, core: int | None = None
) -> Iterator[Served]:
    """The gateway in front of three members and an oracle.

    Args:
        ports: of the models.
        router: a checkpoint; None for the vote rule.
        core: the only one that it may use; None for all.
    """
    specs = [
        {
            "name": name,
            "model": "m",
            "backend": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "max_concurrency": 256,
        }
        for name, port in zip(_NAMES, ports, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pyramid.yaml"
        path.write_text(json.dumps({"members": specs[:-1], "oracles": specs[-1:]}))
        config = Path(folder) / "serve.yaml"
        # Audits are further requests, of a share that is drawn by chance.
        config.write_text("audit: {share: 0.0}\n")
        command = [sys.executable, "-m", "pyramid_moa", "serve", "--pyramid", str(path)]
        command += ["--config", str(config), "--port", "0"]
        command += ["--router", router] if router else []
        with _process(command, core=core, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            address = process.stdout.readline()
            port = int(address.rpartition(":")[2].removesuffix("/v1\n"))
            yield Served(port=port, model="pyramid", pid=process.pid)


@contextmanager
def litellm_proxy(port_of_model: int, *, core: int | None = None) -> Iterator[Served]:
    """LiteLLM's proxy with one worker, which hands every request on to one model.

    It lives in an environment of its own, which is made where it is not there yet.

    Raises:
        TimeoutError: it does not start.
    """
    sys.path.append(str(_SCRIPTS))
    from litellm_env import litellm_bin

    model = {
        "model_name": "m",
        "litellm_params": {
            "model": "openai/m",
            "api_base": f"http://127.0.0.1:{port_of_model}/v1",
            "api_key": "none",
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path, port = Path(folder) / "config.yaml", _free_port()
        path.write_text(json.dumps({"model_list": [model]}))
        command = [str(litellm_bin() / "litellm"), "--config", str(path), "--num_workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with _process(
            command, core=core, stdout=subprocess.DEVNULL, environment=environment | _LITELLM
        ) as process:
            _wait_for(port, process)
            yield Served(port=port, model="m", pid=process.pid)


@contextmanager
def _process(
    command: Sequence[str],
    *,
    core: int | None,
    stdout: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    pin = None if core is None else partial(os.sched_setaffinity, 0, {core})
    with subprocess.Popen(
        command,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        # Before anything of it runs, so that its threads inherit it.
        preexec_fn=pin,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"LiteLLM's proxy is not there after {_START_S:.0f} s; see its own log")
