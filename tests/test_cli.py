"""The command line: what it says of itself, and how it ends."""

import json
import subprocess
import sys
import time

import pytest

from pyramid_moa.cli import main

VERBS = (
    "demo",
    "label",
    "import",
    "train",
    "train-verifier",
    "evaluate",
    "threshold",
    "benchmark",
    "answer",
    "serve",
    "up",
    "export",
)

HELP = """
import json, resource, sys
from pyramid_moa.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
used = resource.getrusage(resource.RUSAGE_SELF)
sys.stderr.write(json.dumps([used.ru_utime + used.ru_stime, sorted(sys.modules)]))
"""


def test_help_is_quick_and_loads_nothing_heavy():
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", HELP], capture_output=True, text=True, check=True
        )
        used, modules = json.loads(done.stderr)
        seconds.append(used)
        heavy = {"torch", "lightning", "transformers", "numpy", "pyarrow", "datasets", "openai"}
        assert not heavy & set(modules)
        assert len(modules) < 400  # 337, and the same on every machine
    assert min(seconds) < 0.7  # 0.2 where packages are compiled
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert "0.1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--run", "x"],
        ["train-verifier", "--run", "x", "--out", "y"],
        ["train", "--run", "x", "--out", "y", "--speed", "high"],
        ["answer", "--pyramid", "embedded", "--input", "q.jsonl"],
        ["up"],
        ["up", "--pyramid", "embedded", "--timeout", "0"],
        ["evaluate", "--run", "x", "--out", "y", "--seed", "many"],
        ["import", "--member", "a", "--oracle", "b", "--out", "c"],
    ],
)
def test_wrong_arguments(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("pyramid-moa")
    assert "--help" in shown.err
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_said(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyramid_moa.training.train.train", interrupt)
    assert main(["train", "--run", "x", "--out", "y"]) == 130
    assert capsys.readouterr().err == "pyramid-moa train: interrupted\n"


def test_the_module_runs_as_a_program():
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pyramid_moa", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--run" in done.stdout
    assert time.perf_counter() - started < 30
