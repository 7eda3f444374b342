"""The program ``pyramid-moa serve`` under way in front of models that fail as they are told to."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

__all__ = ["MODELS", "FaultyModels", "ServedGateway", "faulty_models", "question", "served_gateway"]

MODELS = ("a", "b", "c", "spare", "oracle")
"""Three members, a mid oracle that can be named as the fallback, and the oracle."""
_STUB = Path(__file__).with_name("faulty_models.py")
_SETTLED_S = 20.0


class FaultyModels:
    """Models in a process of their own.

    Attributes:
        ports: of each model by name.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Talk to a process that has just been started."""
        self._process = process
        self.ports = dict(zip(MODELS, map(int, self._line().split()), strict=True))

    def turn(self, moods: Mapping[str, str]) -> None:
        """Put models into a mood; those that are not named are well."""
        told = json.dumps(dict.fromkeys(MODELS, "well") | dict(moods))
        assert self._ask(told) == "done\n", "the models have ended"

    def hung_up(self) -> list[float]:
        """When clients of models that hang have hung up since this was asked, by the clock."""
        at: list[float] = json.loads(self._ask("hung up"))
        return at

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass(frozen=True, kw_only=True)
class ServedGateway:
    """The program under way.

    Attributes:
        url: without ``/v1``.
        pid: of its process.
        deadline_s: of a request.
    """

    url: str
    pid: int
    deadline_s: float

    def rss_bytes(self) -> int:
        """Memory that its process has in RAM."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def settle(self) -> None:
        """Wait until it works on nothing, reaches every model and leaves none alone.

        Raises:
            TimeoutError: it does not come to that.
        """
        until = time.monotonic() + _SETTLED_S
        number = 0
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while time.monotonic() < until:
                # Breakers close when a call succeeds: members are asked, and so is each oracle.
                for model in MODELS:
                    client.post("/v1/chat/completions", json=question(number, model=model))
                metrics = client.get("/metrics").text
                broken = [f'breaker_state{{model="{name}"}} 0.0' not in metrics for name in MODELS]
                if not any(broken) and "requests_in_progress 0.0" in metrics:
                    return
                time.sleep(0.1)
        raise TimeoutError("the gateway did not come to rest after a fault had gone")


def question(
    number: int, *, model: str = "pyramid", easy: bool = False, **fields: object
) -> dict[str, Any]:
    """The body of a request."""
    text = f"Question {number}, an {'easy' if easy else 'odd'} one: how much is it?"
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


@contextlib.contextmanager
def faulty_models() -> Iterator[FaultyModels]:
    """Start the models, all of them well."""
    command = [sys.executable, str(_STUB), *MODELS]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        try:
            yield FaultyModels(process)
        finally:
            process.kill()


@contextlib.contextmanager
def served_gateway(
    models: FaultyModels,
    *,
    faults: Mapping[str, Any],
    router: str | None = None,
    log: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Iterator[ServedGateway]:
    """Start the gateway in front of them.

    Args:
        models: under way.
        faults: of ``serve.yaml``; its ``deadline_s`` has to be there.
        router: a checkpoint; None for the vote rule.
        log: where its log goes; None for nowhere.
        settings: further parts of ``serve.yaml``.
        variables: of its environment, beside this process's.
        spec: what else the entry of every model says.
    """
    specs = [
        {
            "name": name,
            "model": "m",
            "backend": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "max_concurrency": 512,
            "price": {"input": 1.0, "output": 1.0},
            **(spec or {}),
        }
        for name, port in models.ports.items()
    ]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pyramid, config = folder / "pyramid.yaml", folder / "serve.yaml"
        pyramid.write_text(json.dumps({"members": specs[:-2], "oracles": specs[-2:]}))
        config.write_text(json.dumps({"faults": dict(faults), **(settings or {})}))
        command = [sys.executable, "-m", "pyramid_moa", "serve", "--pyramid", str(pyramid)]
        command += ["--config", str(config), "--port", "0"]
        command += ["--router", router] if router else []
        errors = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(variables or {})},
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), "the gateway did not start"
        yield ServedGateway(
            url=line.removeprefix("serving ").removesuffix("/v1\n"),
            pid=process.pid,
            deadline_s=float(faults["deadline_s"]),
        )
