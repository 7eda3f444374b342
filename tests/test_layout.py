"""The shape of the repository: what a reader and an installer may count on."""

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import pyramid_moa

LINKS = ("data_prep", "router_model", "training", "inference")
LONGEST_FILE = 500
# Put together from parts, so as not to find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~*}-])/(?:" + "home|work|opt|root|Users" + r")/[\w.]")
EXTRAS_NOT_EVERYWHERE = {"vllm"}


def repository_files(repository: Path) -> list[Path]:
    """Files that are, or may be, under version control."""
    if (repository / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=repository, capture_output=True, check=True)
        names = [name for name in listing.stdout.decode().split("\0") if name]
    else:
        found = (path.relative_to(repository) for path in repository.rglob("*"))
        hidden = {".venv", "__pycache__"}
        names = [str(path) for path in found if not hidden & set(path.parts)]
    paths = [repository / name for name in names]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def module_names() -> list[str]:
    modules = pkgutil.walk_packages(pyramid_moa.__path__, prefix="pyramid_moa.")
    return sorted(module.name for module in modules if not module.name.endswith("__main__"))


def source_files(repository: Path) -> list[Path]:
    files = sorted((repository / "src").rglob("*.py"))
    assert len(files) > 20, "the sources were not found"
    return files


@pytest.mark.parametrize("name", LINKS)
def test_the_link_leads_to_the_folder_of_the_package(repository, name):
    link = repository / name
    assert link.is_symlink()
    target = link.readlink()
    assert not target.is_absolute()
    assert target == Path("src/pyramid_moa", name)
    assert (link / "__init__.py").is_file()


def test_no_source_file_is_too_long_to_read(repository):
    lengths = {path: len(path.read_text().splitlines()) for path in source_files(repository)}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_file_is_named_for_nothing(repository):
    names = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [path for path in source_files(repository) if path.name in names] == []


def test_every_folder_of_the_package_is_a_package(repository):
    folders = {path.parent for path in source_files(repository)}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", module_names())
def test_the_module_imports_and_has_what_it_names(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in EXTRAS_NOT_EVERYWHERE and importlib.util.find_spec(missing) is None:
            pytest.skip(f"{missing} absent: {name} needs it")
        raise
    exported = getattr(module, "__all__", [])
    assert [public for public in exported if not hasattr(module, public)] == []
    assert len(set(exported)) == len(exported)


def test_the_public_names_resolve():
    assert pyramid_moa.__all__
    assert [name for name in pyramid_moa.__all__ if getattr(pyramid_moa, name, None) is None] == []


def test_the_version_is_the_same_everywhere(repository):
    stated = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    assert pyramid_moa.__version__ == stated
    assert f"## [{stated}]" in (repository / "CHANGELOG.md").read_text()


def test_no_file_names_a_folder_of_one_machine(repository):
    files = repository_files(repository)
    assert len(files) > 20, "the files were not found"
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{path}:{number}" for number, line in lines if MACHINE_PATH.search(line)]
    assert found == []


def test_the_pinned_lists_name_no_place_and_no_gpu_library(repository):
    lists = sorted((repository / "requirements").glob("*.txt"))
    pinned = [path for path in lists if path.name not in {"bootstrap.txt", "cpu-overrides.txt"}]
    assert len(pinned) == 4
    for path in pinned:
        text = path.read_text()
        assert "://" not in text
        assert not re.search(r"^(nvidia|triton|torchvision|torchaudio|torchcodec)", text, re.M)
        # LiteLLM's environment has no use for it.
        is_own = path.name == "litellm.txt"
        assert is_own or re.search(r"^torch==[\d.]+$", text, re.M), "no label of a build"


def test_the_machine_path_pattern_finds_what_it_should():
    slash = "/"
    assert MACHINE_PATH.search(f"see {slash}home{slash}ada/x")
    assert MACHINE_PATH.search(f"'{slash}opt{slash}wheels'")
    assert not MACHINE_PATH.search(f"either{slash}or{slash}home{slash}work{slash}balance")
    assert not MACHINE_PATH.search(f"a path such as ..{slash}work{slash}data")
