import os
import subprocess
import sys
from io import StringIO

import pytest

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import math_process, math_worker

# Stands in for the worker, whose start takes seconds.
WORKER = """
import json, os, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    a, b = json.loads(line)
    if a == "hang":
        time.sleep(60)
    if a == "die" or (a == "die once" and not os.path.exists(b)):
        a == "die" or open(b, "w").close()
        sys.exit()
    print(json.dumps(sorted(a) == sorted(b) or a == "die once"), flush=True)
"""


@pytest.fixture
def start(monkeypatch):
    """Run another program in the worker's place."""
    popen = subprocess.Popen

    def start(program):
        monkeypatch.setattr(
            subprocess, "Popen", lambda _, **rest: popen([sys.executable, "-c", program], **rest)
        )

    math_process._end()
    math_process.verified.cache_clear()
    start(WORKER)
    yield start
    math_process._end()
    math_process.verified.cache_clear()


@pytest.mark.usefixtures("start")
def test_one_child_serves_all():
    assert math_process.verified("p+q", "q+p")
    child = math_process._process
    assert not math_process.verified("p", "q")
    assert math_process._process is child


@pytest.mark.usefixtures("start")
def test_a_slow_one_is_ended_and_the_next_one_works(monkeypatch):
    assert math_process.verified("ab", "ba")
    child = math_process._process._child
    with monkeypatch.context() as patch:
        patch.setattr(math_process, "TIME_LIMIT_S", 0.2)
        assert not math_process.verified("hang", "x")
    assert child.returncode is not None
    assert math_process.verified("cd", "dc")


@pytest.mark.usefixtures("start")
def test_a_child_that_died_is_replaced(tmp_path):
    assert math_process.verified("ab", "ba")
    math_process._process._child.kill()
    math_process._process._child.wait()
    assert math_process.verified("abc", "cba")
    assert math_process.verified("die once", str(tmp_path / "died"))


@pytest.mark.usefixtures("start")
def test_what_ends_every_child_counts_as_unequal():
    assert not math_process.verified("die", "x")
    assert math_process.verified("ab", "ba")


@pytest.mark.usefixtures("start")
def test_an_interrupted_reply_does_not_pass_for_the_next(monkeypatch):
    assert math_process.verified("ab", "ba")

    def interrupt(limit_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(math_process._process, "_next", interrupt)
    with pytest.raises(KeyboardInterrupt):
        math_process.verified("cd", "dc")
    assert math_process._process is None
    assert not math_process.verified("ef", "gh")


@pytest.mark.usefixtures("start")
def test_another_process_gets_a_child_of_its_own(monkeypatch):
    assert math_process.verified("ab", "ba")
    mine = math_process._process
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        assert math_process.verified("cd", "dc")
        assert math_process._process is not mine
        math_process._end()
    mine.end(patience_s=2.0)


def test_without_math_verify_it_says_what_to_install(start):
    start("import json; print(json.dumps('ModuleNotFoundError: no math_verify'))")
    with pytest.raises(ConfigError, match=r"no math_verify.*pip install"):
        math_process.verified("m+n", "n+m")


def test_a_worker_that_ends_at_once(start):
    start("")
    with pytest.raises(ConfigError, match="has ended"):
        math_process.verified("m+n", "n+m")


def test_worker_answers_line_by_line():
    replies = StringIO()
    math_worker.main(StringIO('["1/2", "0.5"]\n["1", "2"]\n["only one"]\n'), replies)
    assert replies.getvalue().split() == ['"ready"', "true", "false", "false"]


def test_worker_says_why_it_cannot_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    replies = StringIO()
    math_worker.main(StringIO(""), replies)
    assert "math_verify" in replies.getvalue()
