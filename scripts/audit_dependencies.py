"""Look the pinned dependencies up among known vulnerabilities: audit_dependencies.py.

pip-audit, in an environment of its own that uv makes, asks OSV's database, or else PyPI's. Fails
where a pin has a known vulnerability, but for those that ``IGNORED`` gives a reason for and for
lists of what is never shipped. Where neither database can be reached, or none answers in time, it
says so and passes: that is no fault of the change.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from setup_env import ROOT, SetupError, own_uv_environment

PIP_AUDIT = "pip-audit==2.10.1"
# Small, and so asked about first: most databases that can't be reached are found out by it.
PROBE = ROOT / "requirements" / "bootstrap.txt"
OSV_URL = "https://api.osv.dev/v1/query"
IGNORED: dict[str, str] = {}
"""Vulnerabilities that fail nothing, by id, each with the reason: no fixed version yet, and what
keeps it from being met here. All are printed each time; take out what has been mended."""
REPORTED_ONLY = ("litellm.txt",)
"""Lists of another program's pins, which only a benchmark starts, on loopback: what they have is
theirs to mend."""
_LIMIT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A vulnerability of a pin.

    Attributes:
        name: of the package.
        version: that is pinned.
        id: of the vulnerability.
        fixed_in: versions without it.
    """

    name: str
    version: str
    id: str
    fixed_in: tuple[str, ...]

    def told(self) -> str:
        """In a line."""
        mended = ", ".join(self.fixed_in) or "no version"
        return f"{self.name} {self.version}: {self.id}, fixed in {mended}"


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What a database says of a list.

    Attributes:
        known: pins that it knows.
        findings: vulnerabilities of them.
    """

    known: int
    findings: tuple[Finding, ...]


def read_answer(answer: str) -> Audited:
    """Read what pip-audit has written; pins that the database does not know are not counted."""
    rows = [row for row in json.loads(answer)["dependencies"] if "skip_reason" not in row]
    findings = tuple(
        Finding(
            name=row["name"],
            version=row["version"],
            id=found["id"],
            fixed_in=tuple(found["fix_versions"]),
        )
        for row in rows
        for found in row["vulns"]
    )
    return Audited(known=len(rows), findings=findings)


def ask(service: Sequence[str], pins: Path) -> Audited | None:
    """Ask a database about a list; None where there is no answer.

    Raises:
        subprocess.TimeoutExpired: there is none in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "answer.json")
        options = ["-r", str(pins), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        _pip_audit(*service, *options, "--format", "json", "--desc", "off", "--output", str(out))
        return read_answer(out.read_text()) if out.is_file() else None


def _pip_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", PIP_AUDIT, *arguments]
    environment = own_uv_environment(sys.executable)
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S
    )


def audit(lists: Sequence[Path], *, osv_url: str) -> int:
    """Audit lists of pins; 1 where one has a known vulnerability.

    Raises:
        SetupError: pip-audit can't be had.
    """
    try:
        had = _pip_audit("--version")
    except subprocess.TimeoutExpired:
        print(f"audit: NOT DONE, {PIP_AUDIT} was not there within {_LIMIT_S:g} s")
        return 0
    if had.returncode:
        raise SetupError(f"uv could not bring {PIP_AUDIT}: {had.stderr.strip()}")
    for name, service in (("OSV", ["-s", "osv", "--osv-url", osv_url]), ("PyPI", ["-s", "pypi"])):
        try:
            probed = ask(service, PROBE)
        except subprocess.TimeoutExpired:
            probed = None
        if probed is None or not probed.known:
            print(f"audit: {name}'s database of vulnerabilities can't be reached from here")
            continue
        return _look_up(name, service, lists)
    print("audit: NOT DONE, no database of vulnerabilities can be reached; nothing is known")
    return 0


def _look_up(name: str, service: Sequence[str], lists: Sequence[Path]) -> int:
    """Ask a database that is there about every list, and say what it answers."""
    ours, theirs, unknown = set[Finding](), set[Finding](), False
    for pins in lists:
        try:
            answer = ask(service, pins)
        except subprocess.TimeoutExpired:
            print(f"audit: {pins.name}: NOT DONE, no answer of {name}'s within {_LIMIT_S:g} s")
            continue
        said = "no answer" if answer is None else f"{answer.known} pins looked up"
        print(f"audit: {pins.name}: {said} in {name}'s database")
        # A database that answers for one list and not for another leaves the other unknown.
        unknown = unknown or answer is None
        found = ours if pins.name not in REPORTED_ONLY else theirs
        found |= set(answer.findings) if answer is not None else set()
    failing = {finding for finding in ours if finding.id not in IGNORED}
    for line in sorted(finding.told() for finding in failing):
        print(f"audit: {line}")
    for line in sorted(finding.told() for finding in theirs - ours):
        print(f"audit: only reported, of {' and '.join(REPORTED_ONLY)}: {line}")
    met = {finding.id for finding in ours | theirs}
    for known, reason in sorted(IGNORED.items()):
        print(f"audit: {known} is ignored: {reason}{'' if known in met else ' (not met any more)'}")
    print(f"audit: {len(failing)} known vulnerabilities")
    return 1 if failing or unknown else 0


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="*", type=Path, help="pinned lists; all of requirements/")
    parser.add_argument("--osv-url", default=OSV_URL, help="where OSV's database, or a copy, is")
    options = parser.parse_args(arguments)
    lists = options.lists or sorted(
        path for path in (ROOT / "requirements").glob("*.txt") if "overrides" not in path.name
    )
    try:
        return audit(lists, osv_url=options.osv_url)
    except SetupError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
