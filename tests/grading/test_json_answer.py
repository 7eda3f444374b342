import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.grading.json_answer import answer_field, looks_like_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"reasoning": "r", "answer": "LL"}', "LL"),
        ('{"answer": "a", "reasoning": "r"}', "a"),
        ('```json\n{"reasoning": "r",\n "answer": "a\\nb"\n}\n```', "a\nb"),
        ('{"answer": "first"} {"answer": "last"}', "last"),
        ('{"answer": "He said "no""}', 'He said "no"'),
        ('{"answer": "["a", "b"]"}', '["a", "b"]'),
        ('{"answer": ["a", 1]}', '["a", 1]'),
        ('{"answer": {1: 2, 3: [4]}}', "{1: 2, 3: [4]}"),
        ('{"answer": [1, 2', "[1, 2"),
        ('{"answer": [1, (2\nrest', "[1, (2"),
        ('{"answer": 1,234,\n "confidence": 1}', "1,234"),
        ('{"answer": 12, "confidence": 1}', "12"),
        ('{"answer": true}', "true"),
        ('{"answer": null}', ""),
        ('{"answer": "null"}', "null"),
        ('{"answer": ""}', ""),
        ("{'answer': 'it is'}", "it is"),
        ('{"answer": “curly”}', "curly"),
        ('so Answer": "[]"\n}\n```', "[]"),
        (r"**Answer:** `\"answer\": \"52\"`", "52"),
        ('{"answer": "cut sho', "cut sho"),
        ('{"answer": "cut "sho" rt\nnext line', 'cut "sho'),
        ('{"answer": "7"\n}\n\nLet me know "if" this helps!', "7"),
        (r'{"answer": "\(x\)" }', r"\(x\)"),
        (r'{"answer": "a\"b\q\n\\"}', 'a"b\\q\n\\'),
    ],
)
def test_values(text, value):
    piece = answer_field(text)
    assert piece is not None
    assert piece.text == value


def test_no_field():
    assert answer_field("the answer is 5") is None
    assert answer_field('{"reasoning": "cut') is None


def test_null_as_the_caller_reads_it():
    piece = answer_field('{"answer": null}', null="None")
    assert piece is not None
    assert piece.text == "None"


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (r"\frac{3}{4}", r"\frac{3}{4}"),
        (r"\\frac{3}{4}", r"\frac{3}{4}"),
        (r"2 \times 3", r"2 \times 3"),
        (r"-\\frac{1}{2}\theta", r"-\frac{1}{2}\theta"),
        (r"a\nSo", "a\nSo"),
    ],
)
def test_latex_with_one_backslash(raw, value):
    piece = answer_field(f'{{"answer": "{raw}"}}', latex=True)
    assert piece is not None
    assert piece.text == value


@given(st.text(), st.text())
def test_sound_json_is_read_exactly(reasoning, answer):
    text = json.dumps({"reasoning": reasoning, "answer": answer}, indent=1)
    piece = answer_field(text)
    assert piece is not None
    assert piece.text == answer
    assert json.loads(f'"{text[piece.start : piece.end]}"') == answer


def test_looks_like_json():
    assert looks_like_json('```json\n{"reasoning": "')
    assert looks_like_json('  {"a')
    assert not looks_like_json("{1, 2}")
    assert not looks_like_json("It is")


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    assert answer_field(r'{"answer": "a\ud800b"}').text == "a\ufffdb"
    assert answer_field(r'{"answer": "\ud83d\ude00"}').text == "😀"
