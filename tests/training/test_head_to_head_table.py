"""The tables."""

import csv
import json

import numpy as np
import pytest

from pyramid_moa.training.head_to_head_figures import FIGURES, RELATIVE_COSTS
from pyramid_moa.training.head_to_head_pooling import Measured
from pyramid_moa.training.head_to_head_table import POOLED_COST, scopes_of, write_tables

VALUES = {("a", "vote"): 0.5, ("a", "r"): 0.6, ("b", "vote"): 0.7, ("b", "r"): 1.0}
MEASURED = [
    Measured(
        run=run,
        rule=rule,
        figures={name: np.full(4, np.nan if name == "ece" else value) for name in FIGURES},
        relative=np.tile(RELATIVE_COSTS - value, (4, 1)),
    )
    for (run, rule), value in VALUES.items()
]
DETAILS = {key: {"questions": 10, "fell_back": 1, "seconds": 0.5} for key in VALUES}


@pytest.fixture
def out(tmp_path):
    scopes = scopes_of(MEASURED, {"a": "one", "b": "two"})
    write_tables(scopes, DETAILS, tmp_path)
    return tmp_path


def table(path):
    with path.open(newline="") as file:
        return {
            (row["scope"], row["name"], row["rule"], row.get("figure", "")): row
            for row in csv.DictReader(file)
        }


def test_scopes():
    kinds = [(scope.kind, scope.name) for scope in scopes_of(MEASURED, {"a": "one", "b": "two"})]
    expected = [
        ("all", "all"),
        ("data set", "one"),
        ("data set", "two"),
        ("run", "a"),
        ("run", "b"),
    ]
    assert kinds == expected
    same = scopes_of(MEASURED, {"a": "one", "b": "one"})
    assert [scope.kind for scope in same] == ["all", "run", "run"]


def test_a_row_a_rule(out):
    rows = table(out / "rules.csv")
    assert len(rows) == 10
    pooled = rows["all", "all", "r", ""]
    assert float(pooled["aiq"]) == pytest.approx(0.8)
    assert (pooled["runs"], pooled["questions"], pooled["fell_back"]) == ("2", "20", "2")
    assert pooled["ece"] == ""
    # The mean of two curves that reach ABC's accuracy at .6 and at 1.
    assert float(pooled[POOLED_COST]) == pytest.approx(0.8)
    assert float(rows["data set", "two", "r", ""]["aiq"]) == pytest.approx(1.0)


def test_a_row_a_difference(out):
    rows = table(out / "differences.csv")
    assert float(rows["all", "all", "r", "aiq"]["less_vote"]) == pytest.approx(0.2)
    assert ("all", "all", "r", "ece") not in rows
    assert not [key for key in rows if key[2] == "vote"]


def test_everything_as_json(out):
    content = json.loads((out / "rules.json").read_text())
    entry = content["entries"][1]
    assert (entry["scope"], entry["rule"]) == ("all", "r")
    assert entry["differences"]["area"] == {
        "value": pytest.approx(0.2),
        "interval": pytest.approx([0.2, 0.2]),
        "runs": 2,
    }
    assert entry["figures"]["ece"] == {"value": None, "interval": None, "runs": 0}


def test_relative_curves(out):
    lines = (out / "relative_curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * len(RELATIVE_COSTS)
