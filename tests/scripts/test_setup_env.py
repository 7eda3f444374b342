import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import setup_env

PIN = "torch==2.13.0"


class Installer:
    """Stands in for uv: resolves what it is told it can, and keeps what it was asked to install."""

    def __init__(self, *, resolvable=()):
        self.resolvable = set(resolvable)
        self.installed = []

    def can(self, *arguments):
        return arguments in self.resolvable

    def install(self, *arguments):
        self.installed.append(arguments)


BUNDLED = ("--no-deps", PIN + "+cpu")
BACKEND = ("--no-deps", "--torch-backend=cpu", PIN)


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "linux")


def test_pip_options_come_from_files_and_environment_and_the_environment_wins():
    listing = "\n".join(
        [
            ":env:.find-links='/a /b'",
            "global.find-links='/c'",
            "global.index-url='file:///mirror'",
            "install.index-url='file:///nearer'",
            "global.timeout='60'",
            "user.find-links='/d'",
        ]
    )
    expected = {"find-links": "/a /b", "index-url": "file:///nearer"}
    assert setup_env.parse_pip_config(listing) == expected


def test_pips_settings_are_handed_on_in_uvs_words(tmp_path):
    a, b, gone = tmp_path / "a", tmp_path / "b", tmp_path / "gone"
    a.mkdir()
    b.mkdir()
    options = {
        "find-links": f"{a}\n{b} {gone} file:///c",
        "extra-index-url": "file:///x file:///y",
        "cert": "/c.pem",
    }
    assert setup_env.uv_environment(options, {"HOME": "/h"}) == {
        "HOME": "/h",
        "UV_FIND_LINKS": f"{a},{b},file:///c",
        "UV_INDEX": "file:///x file:///y",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/c.pem",
    }


def test_uvs_own_settings_win():
    found = setup_env.uv_environment({"find-links": "/a"}, {"UV_FIND_LINKS": "/mine"})
    assert found == {"UV_FIND_LINKS": "/mine"}


def test_the_wheel_at_hand_comes_first(linux):
    installer = Installer(resolvable=[BUNDLED, BACKEND])
    assert setup_env.torch_arguments(installer, PIN) == [PIN + "+cpu"]


def test_then_the_backend_that_uv_knows(linux):
    installer = Installer(resolvable=[BACKEND])
    assert setup_env.torch_arguments(installer, PIN) == ["--torch-backend=cpu"]


def test_elsewhere_the_registrys_own_build_is_the_cpu_build(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "darwin")
    assert setup_env.torch_arguments(Installer(), PIN) == []


def test_last_the_registrys_own_build_with_what_it_needs_and_a_line_saying_so(linux, capsys):
    installer = Installer()
    setup_env.install_pinned(installer, "cpu-demo.txt")
    with_needs, pinned, project = installer.installed
    assert with_needs[0] == "--constraints"
    assert with_needs[-1].startswith("torch==")
    assert pinned[:2] == ("--no-deps", "-r")
    assert project[-2:] == ("-e", ".")
    assert "no CPU build of torch in reach" in capsys.readouterr().out


def test_an_old_python_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 1))
    with pytest.raises(setup_env.SetupError, match=r"Python 3\.11 or newer is needed"):
        setup_env.check_python()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'GPU 0: some card'", True),
        ("echo 'No devices were found'", False),
        ("echo 'GPU 0: some card'; exit 9", False),
    ],
)
def test_a_gpu_is_there_where_nvidia_smi_works_and_lists_one(
    monkeypatch, tmp_path, script, expected
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup_env.has_nvidia_gpu() is expected


def test_without_nvidia_smi_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not setup_env.has_nvidia_gpu()


def test_what_is_installed_is_compiled_once_whatever_the_environment_says(tmp_path, monkeypatch):
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "VALUE = 1\n")
        info = "tiny-1.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True
    )
    monkeypatch.setattr(setup_env, "PYTHON", tmp_path / "env" / "bin" / "python")
    monkeypatch.setattr(setup_env, "UV", uv)
    installer = setup_env.Installer({**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    installer.install("--offline", "--no-deps", str(wheel))
    (compiled,) = (tmp_path / "env").rglob("tiny.*.pyc")
    assert compiled.parent.name == "__pycache__"
