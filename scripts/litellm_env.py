"""Make LiteLLM's environment, .venv-litellm, where it is not there yet: litellm_env.py.

Tests ask the gateway through LiteLLM's client, and a benchmark measures it beside LiteLLM's proxy.
Its pins disagree with the project's own, so it lives apart, from requirements/litellm.txt.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from setup_env import ROOT, SetupError, own_uv_environment, say

ENVIRONMENT = ROOT / ".venv-litellm"
PINS = ROOT / "requirements" / "litellm.txt"
# The pins that were installed, written when all of them are in.
_STAMP = ENVIRONMENT / ".installed.txt"


def litellm_bin() -> Path:
    """Return the folder of the environment's programs, once the environment is whole.

    Several processes may call this at once: one makes it, the others wait.

    Raises:
        SetupError: uv could not make it.
    """
    with PINS.open() as pins:
        fcntl.flock(pins, fcntl.LOCK_EX)
        wanted = pins.read()
        if not _STAMP.is_file() or _STAMP.read_text() != wanted:
            _make(wanted)
    return ENVIRONMENT / "bin"


def _make(wanted: str) -> None:
    say(f"making {ENVIRONMENT.name} from requirements/{PINS.name}")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    environment = own_uv_environment(sys.executable)
    # The interpreter is told by name: what an outer environment says of itself must not win.
    environment.pop("VIRTUAL_ENV", None)
    uv = [sys.executable, "-m", "uv"]
    make = [*uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT)]
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--no-deps", "-r", str(PINS)]
    install += ["--python", str(ENVIRONMENT / "bin" / "python")]
    for command in (make, install):
        if subprocess.call(command, env=environment, cwd=ROOT):
            raise SetupError(f"uv could not make {ENVIRONMENT.name}: see above")
    _STAMP.write_text(wanted)


def main() -> int:
    """Run from the command line."""
    try:
        print(litellm_bin())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
