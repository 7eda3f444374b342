import io

import pytest

from pyramid_moa import progress
from pyramid_moa.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_plain_lines():
    stream = io.StringIO()
    with Progress("label", total=4, stream=stream) as shown:
        shown.advance(1)
        shown.advance(3, note="1 failed")
    assert stream.getvalue() == "label: 4/4 (1 failed)\n"


def test_lines_come_now_and_then_not_with_every_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress("work", total=100, stream=stream) as shown:
        for _ in range(100):
            now[0] += 0.5
            shown.advance()
    lines = stream.getvalue().splitlines()
    assert lines == [f"work: {done}/100" for done in (20, 40, 60, 80, 100)]


def test_a_bar_is_drawn_anew_without_a_step():
    stream = Terminal()
    with Progress("servers up", total=2, stream=stream) as shown:
        shown.advance(0, note="waiting for one")
        assert "waiting for one" in stream.getvalue()


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress("label", total=2, stream=stream) as shown:
        shown.advance(1, note="0 failed")
        shown.advance(1)
    text = stream.getvalue()
    assert "label" in text
    assert "2/2" in text
    assert "0 failed" in text


def test_an_error_passes_and_how_far_it_got_is_said():
    stream = io.StringIO()

    def fail():
        with Progress("label", total=9, stream=stream) as shown:
            shown.advance(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue() == "label: 2/9\n"


def test_standard_error_is_the_default(capsys):
    with Progress("label", total=1) as shown:
        shown.advance()
    captured = capsys.readouterr()
    assert captured.err == "label: 1/1\n"
    assert captured.out == ""
