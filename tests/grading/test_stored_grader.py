"""A file from elsewhere names a grader; its code is not run unasked."""

import sys

import pytest

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import load_stored_grader


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "grader_of_a_file.py").write_text(
        "def last_word(text):\n    return text.split()[-1] if text.split() else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "grader_of_a_file:last_word"
    sys.modules.pop("grader_of_a_file", None)


def test_known_graders_are_loaded():
    assert load_stored_grader("gsm8k").name == "gsm8k"


def test_code_is_not_imported_unless_the_caller_names_it(own_module):
    with pytest.raises(ConfigError, match="--grader grader_of_a_file:last_word"):
        load_stored_grader(own_module)
    assert "grader_of_a_file" not in sys.modules
    with pytest.raises(ConfigError, match="name it"):
        load_stored_grader(own_module, own="another:function")
    assert "grader_of_a_file" not in sys.modules


def test_the_callers_own_grader_is_loaded(own_module):
    extraction = load_stored_grader(own_module, own=own_module).extract("it is 12")
    assert extraction is not None
    assert extraction.answer == "12"
