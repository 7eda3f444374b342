"""The embedded pyramid on vLLM servers, as files, and the gateway in front of it as a program."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from label_cases.served import free_ports, write_pyramid

from pyramid_moa.embedded import embedded_path

__all__ = ["LONG", "gateway_under_way", "write_long_winded", "write_served_pyramid"]

_EMBEDDED = Path(str(embedded_path("oracle"))).with_name("pyramid.yaml")
_CONTEXT = 512
# With a prompt of the word problems that leaves no room in the context for much more.
LONG = 350
"""Tokens of an answer that does not end by itself, of the embedded models."""
# Accepted answers are not asked of the oracle afterwards: that would be time of the next ones. And
# every question is judged: evaluation judges those too that the gateway hands straight on.
_SETTINGS = {"audit": {"share": 0.0}, "out_of_distribution": {"enabled": False}}


def write_served_pyramid(path: Path) -> Path:
    """Write the embedded pyramid with a vLLM server of this machine for each of its models."""
    content = yaml.safe_load(_EMBEDDED.read_text())
    entries = [*content["members"], *content["oracles"]]
    for entry, port in zip(entries, free_ports(len(entries)), strict=True):
        del entry["batch_size"]
        entry |= {
            "backend": "vllm",
            "model": str(embedded_path(entry["name"])),
            "port": port,
            "kv_cache_bytes": 128 << 20,
            "max_model_len": _CONTEXT,
            # The same question is asked many times: each time is to cost what the first did.
            "extra_args": ["--enforce-eager", "--no-enable-prefix-caching"],
        }
    return write_pyramid(path, **content)


def write_long_winded(served: Path, path: Path, *, max_tokens: int) -> Path:
    """Write a pyramid anew, on the same servers, with answers that go on to their longest."""
    content = yaml.safe_load(served.read_text())
    content["sampling"]["max_tokens"] = max_tokens
    for entry in (*content["members"], *content["oracles"]):
        entry["extra_body"] = {**entry.get("extra_body", {}), "ignore_eos": True}
    return write_pyramid(path, **content)


@contextmanager
def gateway_under_way(pyramid: Path, router: Path, folder: Path) -> Iterator[str]:
    """Run ``pyramid-moa serve``.

    Args:
        pyramid: its YAML file.
        router: a checkpoint.
        folder: for its settings and its log.

    Yields:
        Its address, as an OpenAI client is given it.

    Raises:
        RuntimeError: it does not serve.
    """
    config, log = folder / "serve.yaml", folder / f"{pyramid.stem}.log"
    config.write_text(json.dumps(_SETTINGS))
    command = [sys.executable, "-m", "pyramid_moa", "serve", "--port", "0"]
    options: Mapping[str, Path] = {"pyramid": pyramid, "router": router, "config": config}
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"serving (http://\S+/v1)\n", process.stdout.readline())
            if found is None:
                raise RuntimeError(f"serve ended with {process.wait()}; see {log}")
            yield found[1]
        finally:
            process.terminate()
