"""Build the wheel, compare the ways of building it, and use it outside the repository.

Run by `make wheel` from the project's own environment, whose libraries the wheel is tried with.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pyramid_moa"
LARGEST_WHEEL = 25 * 10**6
FEWEST_MODULES = 20
# Imports every module of the installed package and says how many there were.
IMPORT_ALL = f"""
import importlib, pathlib, pkgutil, sys
import {PACKAGE}
home = pathlib.Path({PACKAGE}.__file__).resolve()
assert home.is_relative_to(pathlib.Path(sys.prefix).resolve()), home
names = [module.name for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}.")]
for name in names:
    if name.endswith(".__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "vllm":
            raise
        print("not imported, since vllm is absent:", name, file=sys.stderr)
print(len(names))
"""


class WheelError(Exception):
    """The wheel is not as it should be."""


def copy_sources(folder: Path) -> None:
    """Copy what is, or may be, under version control: a build sees nothing that a clone lacks."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    for name in filter(None, listing.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists() or source.is_symlink():  # else it is removed, but not yet committed so
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def build(source: Path, out: Path, kind: str) -> Path:
    """Build a source folder or an sdist with the environment's setuptools; return the result."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, f"--{kind}", "--out-dir", out, source], check=True)
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def wheel_contents(wheel: Path) -> dict[str, str]:
    """Return the name and the SHA-256 of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def check_same(direct: dict[str, str], through_sdist: dict[str, str]) -> None:
    """Compare the two ways of building.

    Raises:
        WheelError: a file is missing on one side, or differs.
    """
    differing = sorted(
        name
        for name in direct.keys() | through_sdist.keys()
        if direct.get(name) != through_sdist.get(name)
    )
    if differing:
        raise WheelError(f"differ between the wheel and the wheel through the sdist: {differing}")


def check_contents(names: set[str], source: Path) -> None:
    """Check that everything under src is in the wheel, and nothing else is.

    Raises:
        WheelError: naming the files.
    """
    package = source / "src"
    expected = {
        str(path.relative_to(package))
        for path in (package / PACKAGE).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    found = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    if expected != found:
        raise WheelError(
            f"the wheel lacks {sorted(expected - found)} and has beyond src "
            f"{sorted(found - expected)}: see package-data in pyproject.toml"
        )
    if not any(name.endswith("/LICENSE") for name in names):
        raise WheelError("the wheel has no licence")


def check_size(wheel: Path) -> None:
    """Check that the wheel is small enough to install in a moment.

    Raises:
        WheelError: it is too large.
    """
    size = wheel.stat().st_size
    if size > LARGEST_WHEEL:
        raise WheelError(f"{wheel.name} has {size} bytes, more than {LARGEST_WHEEL}")


def install_apart(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone into a new environment and return that environment's programs.

    The libraries come from the project's environment through a path file. Path files are not
    followed further, so the project's editable installation stays out of sight.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    programs = folder / "bin"
    uv = Path(sys.executable).with_name("uv")
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", programs / "python"]
    subprocess.run([*install, wheel], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    site_packages.joinpath("libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def check_use(programs: Path, folder: Path) -> int:
    """Import every module and ask the program for help, outside the repository.

    Returns:
        The number of modules.

    Raises:
        WheelError: there are too few modules to be true.
    """
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["HF_HUB_OFFLINE"] = "1"
    folder.mkdir()
    done = subprocess.run(
        [programs / "python", "-c", IMPORT_ALL],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    modules = int(done.stdout.split()[-1])
    if modules < FEWEST_MODULES:
        raise WheelError(f"only {modules} modules were found")
    command = [programs / "pyramid-moa", "--help"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return modules


def main() -> int:
    """Run from the command line."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        copy_sources(work / "source")
        shutil.copytree(work / "source", work / "for-wheel", symlinks=True)
        sdist = build(work / "source", work / "sdist", "sdist")
        direct = build(work / "for-wheel", work / "direct", "wheel")
        through_sdist = build(sdist, work / "through-sdist", "wheel")
        try:
            contents = wheel_contents(direct)
            check_same(contents, wheel_contents(through_sdist))
            check_contents(set(contents), work / "for-wheel")
            check_size(direct)
            modules = check_use(install_apart(direct, work / "apart"), work / "elsewhere")
        except (WheelError, subprocess.CalledProcessError) as error:
            print(f"wheel: {error}", file=sys.stderr)
            return 1
        megabytes = direct.stat().st_size / 10**6
        print(f"wheel: {len(contents)} files, {megabytes:.1f} MB, {modules} modules import")
    return 0


if __name__ == "__main__":
    sys.exit(main())
