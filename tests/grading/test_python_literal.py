import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.grading import load_grader

GRADER = load_grader("python-literal")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"reasoning": "r", "answer": "[6, 4]"}', "[6, 4]"),
        ('{"reasoning": "r", "answer": [6, 4]}', "[6, 4]"),
        ('{"reasoning": "r", "answer": ""}', ""),
        ('{"reasoning": "r", "answer": "  7 "}', "  7 "),
        ('{"reasoning": "r", "answer": null}', "None"),
        ('{"reasoning": "r", "answer": "assert f(\'a==b\') == [1]"}', "[1]"),
        ('{"reasoning": "cut sho', None),
        ("So\n[ANSWER]\nassert f([1]) == 'x'\n[/ANSWER]\nbye", "'x'"),
        ("[ANSWER]\n1\n[/ANSWER]\n[ANSWER] 2 [/ANSWER]", "2"),
        ("Hence assert f(3) == {'a': 1}\nDone.", "{'a': 1}"),
        ("assert f(3) == not literal", "not literal"),
        ("Result:\n```python\nx = 1\n[1, 2]\n```\nok", "[1, 2]"),
        ("The answer is [1, 2]", "[1, 2]"),
        ("first\n'last'\n", "'last'"),
        ("assert something", "assert something"),
        ("", None),
    ],
)
def test_extract(text, expected):
    found = GRADER.extract(text)
    assert (found.answer if found else None) == expected


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("[1, 2]", "[1,2]", True),
        ("[1, 2]", "(1, 2)", False),
        ("1", "1.0", True),
        ("1", "True", False),
        ("[1]", "[True]", False),
        ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}", True),
        ("{1: 'x'}", "{True: 'x'}", False),
        ("{1, 2}", "{2, 1}", True),
        ("set()", "{}", False),
        ("'LL'", "LL", True),
        ("'LL'", '"LL"', True),
        ("LL", "LL", True),
        ("'641524'", "641524", True),
        ("True", "true", True),
        ("None", "null", True),
        ("'a\\nb'", "'a\nb'", True),
        ("{'a': -1}", "'{'a': -1}'", True),
        ("'  7 '", "  7 ", True),
        ("'ab'", " ab", True),
        ("'ab'", "'ab '", False),
        ("''", "", True),
        ("''", "   ", False),
        ("[7, 1]", "assert f([7]) == [7, 1]", True),
        ("'\\d'", "'\\\\d'", True),
        ("r'\\d'", "'\\\\d'", True),
        ("1+2j", "(1+2j)", True),
        ("nan", "nan", True),
        ("{[]: 1}", "x", False),
        ("...", "Ellipsis", False),
        ("b'a'", "'a'", False),
        ("[" * 100 + "]" * 100, "[" * 100 + "]" * 100, True),
        ("[" * 100 + "]" * 100, "[ " * 100 + "]" * 100, False),
        ("-" * 50_000 + "1", "1", False),
        ("9" * 9_000, "9" * 9_001, False),
        ("__import__('os').getpid()", "1", False),
    ],
)
def test_equal(a, b, equal):
    assert GRADER.equal(a, b) is equal
    assert GRADER.equal(b, a) is equal


@given(VALUES, VALUES)
def test_equality_follows_the_values(a, b):
    assert GRADER.equal(repr(a), repr(a))
    assert GRADER.equal(repr(a), repr(b)) == GRADER.equal(repr(b), repr(a))
    if GRADER.equal(repr(a), repr(b)) and not isinstance(a, str) and not isinstance(b, str):
        assert a == b or repr(a) == repr(b)


@given(st.text(max_size=60), st.text(max_size=60))
def test_equality_never_raises(a, b):
    assert GRADER.equal(a, a)
    assert GRADER.equal(a, b) == GRADER.equal(b, a)


@given(VALUES)
def test_a_value_survives_a_json_answer(value):
    text = json.dumps({"reasoning": "r", "answer": repr(value)}, ensure_ascii=False)
    found = GRADER.extract(text)
    assert found is not None
    assert found.answer == repr(value)
    assert json.loads(f'"{text[found.start : found.end]}"') == found.answer
