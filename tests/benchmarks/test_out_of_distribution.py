"""Which questions a router leaves alone: the benchmark's figures hold."""

import json

import pytest
from out_of_distribution import kinds_of, measure, table_of

MATH = "MATH, level 5"


def test_word_problems_beside_what_else_people_ask(tmp_path):
    fits = measure(*kinds_of(tmp_path))
    assert list(fits) == ["word problems"]
    fit = fits["word problems"]
    assert fit["promised"] <= 0.01
    assert fit["kinds"]["word problems"]["left_alone"] <= 0.025
    others = {kind: row for kind, row in fit["kinds"].items() if kind != "word problems"}
    assert len(others) >= 8
    assert all(row["left_alone"] == 1 for row in others.values())
    table = table_of(fits)
    assert "| poems | 8 | 100.0 %" in table
    assert "questions, 0." in table.splitlines()[-1]
    json.dumps(fits, allow_nan=False)


def test_gsm8k_beside_other_mathematics(shared_data):
    trained, asked = kinds_of(shared_data)
    # The whole of it takes seconds more and is the benchmark's.
    fit = measure({"GSM8K": trained["GSM8K"][:3000]}, asked)["GSM8K"]
    own = fit["kinds"]["GSM8K"]
    assert own["left_alone"] <= 0.025
    assert own["median_distance"] < 0.5
    assert fit["kinds"]["CRUXEval"]["left_alone"] == 1
    # A near kind: some of it is a word problem, too.
    assert fit["kinds"][MATH]["left_alone"] > 0.7
    people = ("small talk", "poems", "translation", "code", "facts", "writing", "advice")
    asked_of = sum(fit["kinds"][kind]["questions"] for kind in people)
    left = sum(
        fit["kinds"][kind]["left_alone"] * fit["kinds"][kind]["questions"] for kind in people
    )
    assert left / asked_of == pytest.approx(1.0, abs=0.06)
