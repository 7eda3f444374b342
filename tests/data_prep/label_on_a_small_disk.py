"""Run by a test in a mount namespace of its own: label on a disk that fills up, then grows.

Arguments: the mount point, the questions, the pyramid, an unbroken run to compare with.
"""

import subprocess
import sys
from pathlib import Path

disk, questions, pyramid, unbroken = map(Path, sys.argv[1:])
sys.path.append(str(Path(__file__).parent.parent))

from label_case import assert_same_run  # noqa: E402 - found beside the tests alone
from pyramid_moa.data_prep.run_folder import RunFolder  # noqa: E402

COMMAND = [sys.executable, "-m", "pyramid_moa", "label", "--resume", "--out", str(disk / "run")]
COMMAND += ["--dataset", str(questions), "--pyramid", str(pyramid)]
SMALL_KIB = (100, 180, 260)


def mount(*options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(disk)], check=True)


mount("-o", f"size={SMALL_KIB[0]}k")
for size in SMALL_KIB:
    mount("-o", f"remount,size={size}k")
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    assert done.returncode == 2, (size, done)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("pyramid-moa label: "), done
    assert "No space left on device; what was generated is kept: make room" in line, done
    assert "Traceback" not in done.stderr, done
    # What is there is whole: parts can be read, and so can every row of a journal but a cut one.
    folder = RunFolder(disk / "run")
    rows = [*folder.read_generations(0), *folder.read_generations(1), *folder.read_journals()]
    assert rows
mount("-o", "remount,size=64m")
done = subprocess.run(COMMAND, capture_output=True, text=True)
assert done.returncode == 0, done
assert_same_run(disk / "run", unbroken)
