import sys

import pytest

import pyramid_moa.grading as grading
from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import GRADER_NAMES, Extraction, infer_grader_name, load_grader


def test_public_names():
    assert set(grading.__all__) == {
        "GRADER_NAMES",
        "Extraction",
        "Grader",
        "Vote",
        "cluster",
        "infer_grader_name",
        "load_grader",
        "load_stored_grader",
        "vote",
    }
    assert all(hasattr(grading, name) for name in grading.__all__)


@pytest.mark.parametrize("name", GRADER_NAMES)
def test_every_grader_goes_by_its_name(name):
    assert load_grader(name).name == name
    assert load_grader(name.upper().replace("-", "_")).name == name
    assert load_grader(name).numeric is (name == "gsm8k")


@pytest.mark.parametrize(
    ("alias", "name"),
    [("math", "math-verify"), ("Numeric", "gsm8k"), ("choice", "multiple-choice"),
     ("python_literals", "python-literal"), ("normalised_text", "text"),
     (" exact match ", "exact")],
)  # fmt: skip
def test_aliases(alias, name):
    assert load_grader(alias).name == name


def test_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match=r"'gms8k'.*gsm8k, exact, .*module:function"):
        load_grader("gms8k")


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_grader.py").write_text(
        "from pyramid_moa.grading import Extraction\n"
        "def last_word(text): return text.split()[-1] if text.split() else None\n"
        "def shouted(text): return text.upper()\n"
        "def spanned(text): return Extraction(text[0], 0, 1)\n"
        "def number(text): return 5\n"
        "def loose(text): return text\n"
        "loose.equal = lambda a, b: a.startswith(b)\n"
        "class Own:\n"
        "    numeric = True\n"
        "    def extract(self, text): return text.strip()\n"
        "    def equal(self, a, b): return len(a) == len(b)\n"
        "own = Own()\n"
        "text = 'no function'\n"
    )
    (tmp_path / "broken_grader.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_grader", None)


@pytest.mark.usefixtures("user_module")
def test_own_function_from_the_working_folder():
    path = list(sys.path)
    grader = load_grader("my_grader:last_word")
    assert sys.path == path
    assert grader.name == "my_grader:last_word"
    assert not grader.numeric
    assert grader.extract("so it is 42") == Extraction("42", 9, 11)
    assert grader.extract("") is None
    assert grader.equal("42", " 42 ")
    assert not grader.equal("42", "42.0")


@pytest.mark.usefixtures("user_module")
def test_own_answers_that_are_not_in_the_text_or_bring_their_place():
    assert load_grader("my_grader:shouted").extract("yes") == Extraction("YES", 0, 3)
    assert load_grader("my_grader:spanned").extract("yes") == Extraction("y", 0, 1)


@pytest.mark.usefixtures("user_module")
def test_own_equality_is_made_symmetric():
    grader = load_grader("my_grader:loose")
    assert grader.equal("abc", "ab")
    assert grader.equal("ab", "abc")
    assert not grader.equal("ab", "c")


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize("path", ["own", "Own"])
def test_own_object_or_class(path):
    grader = load_grader(f"my_grader:{path}")
    assert grader.numeric
    assert grader.extract(" a ") == Extraction("a", 1, 2)
    assert grader.equal("abc", "xyz")


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("my_grader:missing", "has no 'missing'"),
        ("my_grader:text", "cannot be called"),
        ("no_such_module_here:f", "ModuleNotFoundError"),
        ("broken_grader:f", "ZeroDivisionError"),
        ("my_grader:", "module:function"),
        (":f", "module:function"),
    ],
)
def test_own_grader_that_is_not_there(name, found):
    with pytest.raises(ConfigError, match=found) as error:
        load_grader(name)
    assert "extract(text)" in str(error.value)


@pytest.mark.usefixtures("user_module")
def test_own_function_that_returns_no_text():
    with pytest.raises(ConfigError, match="expected a string or None, got int"):
        load_grader("my_grader:number").extract("x")


@pytest.mark.parametrize(
    ("golds", "name"),
    [
        (["18", "1,000", "-3", "0.5", "3/4"], "gsm8k"),
        (["A", "C", "(B)"], "multiple-choice"),
        (["[1]", "'a'", "3"], "python-literal"),
        ([r"\frac{1}{2}", "3"], "math-verify"),
        (["x^2+1", "hello"], "math-verify"),
        (["x = 5", "y"], "math-verify"),
        (["Paris", "42"], "text"),
        ([], "text"),
    ],
)
def test_infer(golds, name):
    assert infer_grader_name(golds) == name
