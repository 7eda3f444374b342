"""The audit of the pins, by pip-audit itself, against databases that answer as they are told."""

import json
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import audit_dependencies

ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "uv", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


@contextmanager
def database(answer):
    """A database on loopback in OSV's form: its address, and the names that it was asked about."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(query["package"]["name"])
            body = json.dumps(answer(query["package"]["name"])).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pins(tmp_path):
    path = tmp_path / "pins.txt"
    path.write_text(
        "uv==0.13.9\nstarlette==1.10.0\n"
        "colorama==0.4.6 ; sys_platform == 'win32'\n"
        "numpy==2.4.6 ; python_full_version < '3.10'\n"
        "numpy==2.5.5 ; python_full_version >= '3.10'\n"
    )
    return path


def test_a_known_vulnerability_fails_the_audit(pins, capsys):
    with database(of_uv) as (url, asked):
        assert audit_dependencies.main([str(pins), "--osv-url", url]) == 1
    said = capsys.readouterr().out
    assert "uv 0.13.9: PYSEC-2026-1, fixed in 99.1" in said
    assert "1 known vulnerabilities" in said
    assert {"uv", "starlette", "numpy"} <= set(asked)


def of_uv(name):
    return {"vulns": [ADVISORY]} if name == "uv" else {}


def test_one_that_is_ignored_for_a_reason_is_said_and_fails_nothing(pins, capsys, monkeypatch):
    reasons = {"PYSEC-2026-1": "no fixed version; never run as root", "PYSEC-1": "long ago"}
    monkeypatch.setattr(audit_dependencies, "IGNORED", reasons)
    with database(of_uv) as (url, _):
        assert audit_dependencies.main([str(pins), "--osv-url", url]) == 0
    said = capsys.readouterr().out
    assert "PYSEC-2026-1 is ignored: no fixed version; never run as root\n" in said
    assert "PYSEC-1 is ignored: long ago (not met any more)" in said
    assert "0 known vulnerabilities" in said


def test_what_another_programs_list_has_is_reported_only(pins, capsys):
    theirs = pins.rename(pins.with_name("litellm.txt"))
    with database(of_uv) as (url, _):
        assert audit_dependencies.main([str(theirs), "--osv-url", url]) == 0
    assert "only reported, of litellm.txt: uv 0.13.9: PYSEC-2026-1" in capsys.readouterr().out


def test_a_list_that_takes_too_long_is_said_to_be_not_done(pins, capsys, monkeypatch):
    asked, late = audit_dependencies.ask, pins.with_name("late.txt")

    def ask(service, path):
        if path == late:
            raise subprocess.TimeoutExpired("pip-audit", 900)
        return asked(service, path)

    monkeypatch.setattr(audit_dependencies, "ask", ask)
    late.write_text("numpy==2.5.5\n")
    with database(lambda name: {}) as (url, _):
        assert audit_dependencies.main([str(late), "--osv-url", url]) == 0
        assert "late.txt: NOT DONE, no answer of OSV's within 900 s" in capsys.readouterr().out
    with database(of_uv) as (url, _):
        # What another list has is found all the same.
        assert audit_dependencies.main([str(late), str(pins), "--osv-url", url]) == 1


def test_where_not_even_the_program_is_there_in_time_nothing_fails(pins, capsys, monkeypatch):
    monkeypatch.setattr(audit_dependencies, "_LIMIT_S", 0.001)
    assert audit_dependencies.main([str(pins)]) == 0
    assert "NOT DONE" in capsys.readouterr().out


def test_pins_without_one_pass(pins, capsys):
    with database(lambda name: {}) as (url, _):
        assert audit_dependencies.main([str(pins), "--osv-url", url]) == 0
    said = capsys.readouterr().out
    assert "pins.txt: 3 pins looked up in OSV's database" in said
    assert "0 known vulnerabilities" in said


def test_where_no_database_can_be_reached_that_is_said(pins, capsys, monkeypatch):
    audit_dependencies._pip_audit("--version")
    monkeypatch.setenv("UV_OFFLINE", "1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        # PyPI's own database is out of reach, wherever this runs; so is the other.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert audit_dependencies.main([str(pins), "--osv-url", "http://127.0.0.1:9/v1/query"]) == 0
    said = capsys.readouterr().out
    assert "OSV's database of vulnerabilities can't be reached" in said
    assert "PyPI's database of vulnerabilities can't be reached" in said
    assert "NOT DONE" in said


def test_pins_that_a_database_does_not_know_do_not_count():
    answer = {
        "dependencies": [
            {"name": "uv", "skip_reason": "Dependency not found on PyPI"},
            {"name": "six", "version": "1", "vulns": []},
        ]
    }
    assert audit_dependencies.read_answer(json.dumps(answer)).known == 1
