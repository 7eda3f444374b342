"""How far rules are behind the first."""

import csv

import numpy as np
import pytest

from pyramid_moa.training.baselines.all_rules import all_rules
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.head_to_head_figures import FIGURES, RELATIVE_COSTS
from pyramid_moa.training.head_to_head_first import (
    COMPARED,
    FRAME,
    behind_first,
    first_rule,
    write_behind_first,
)
from pyramid_moa.training.head_to_head_pooling import Measured
from pyramid_moa.training.head_to_head_table import scopes_of

# What the questions of a resample add to every rule alike, and what to "shaky" alone.
SHARED = np.linspace(-0.2, 0.2, 101)
OWN = np.linspace(-0.1, 0.1, 101)[::-1]


def measured(run, rule, area, ece=np.nan, own=0.0):
    values = {"area": area, "brier": area, "ece": ece, "cost_at_abc_accuracy": 0.1}
    figures = {name: np.full(102, np.nan) for name in FIGURES}
    for name, value in values.items():
        figures[name] = np.array([value, *(value + SHARED + own)])
    relative = np.zeros((102, len(RELATIVE_COSTS)))
    return Measured(run=run, rule=rule, figures=figures, relative=relative)


MEASURED = [
    measured("a", "vote", 0.50),
    measured("a", "router", 0.60, ece=0.02),
    measured("a", "shaky", 0.58, ece=0.05, own=OWN),
    measured("a", "hindsight", 0.90),
    measured("b", "vote", 0.70),
    measured("b", "router", 0.75, ece=0.03),
    measured("b", "shaky", 0.76, own=OWN),
    measured("b", "hindsight", 0.95),
    measured("b", "elsewhere", 0.99, ece=0.01),
]


@pytest.fixture
def scopes():
    return scopes_of(MEASURED, {"a": "one", "b": "two"})


@pytest.fixture
def rows(scopes):
    return {(row["name"], row["figure"], row["rule"]): row for row in behind_first(scopes)}


def test_the_first_is_best_of_those_that_have_the_figure_on_every_run(scopes):
    whole, _, _, run_a, run_b = (scope.pool for scope in scopes)
    assert first_rule(whole, "area") == "router"  # "elsewhere" is better, on one run
    assert first_rule(run_b, "area") == "elsewhere"
    assert first_rule(run_a, "brier") == "vote"  # less is better
    assert first_rule(whole, "ece") == "router"  # "shaky" and "elsewhere" have it on one run each
    assert first_rule(whole, "apgr") is None


def test_where_no_rule_has_the_figure_on_all_runs_nobody_is_first():
    entries = [
        measured("a", "router", 0.6, ece=0.02),
        measured("a", "scorer", 0.6),
        measured("b", "router", 0.6),
        measured("b", "scorer", 0.6, ece=0.02),
    ]
    whole, *_ = scopes_of(entries, {"a": "one", "b": "one"})
    assert first_rule(whole.pool, "ece") is None
    assert first_rule(whole.pool, "area") == "router"  # of equals the one listed first


def test_differences_are_paired_and_over_the_same_runs(rows):
    vote = rows["all", "area", "vote"]
    assert (vote["first"], vote["better"], vote["runs"]) == ("router", "larger", 2)
    assert vote["first_value"] == pytest.approx(0.675)
    assert vote["value"] == pytest.approx(0.6)
    assert vote["less_first"] == pytest.approx(-0.075)
    # What both rules share cancels.
    assert (vote["interval_low"], vote["interval_high"]) == pytest.approx((-0.075, -0.075))
    elsewhere = rows["all", "area", "elsewhere"]
    assert elsewhere["runs"] == 1
    assert elsewhere["first_value"] == pytest.approx(0.75)
    assert elsewhere["value"] == pytest.approx(0.99)
    assert elsewhere["standing"] == "ahead"  # never first, for it is on one run only


def test_a_first_that_was_not_on_every_run_is_compared_where_it_was():
    entries = [
        measured("a", "vote", 0.5),
        measured("b", "vote", 0.5),
        measured("b", "probe", 0.6, ece=0.02),
    ]
    rows = list(behind_first(scopes_of(entries, {"a": "one", "b": "one"})))
    whole = {(row["figure"], row["rule"]): row for row in rows if row["name"] == "all"}
    assert whole["area", "probe"]["less_first"] == pytest.approx(0.1)
    assert whole["ece", "probe"]["standing"] == "first"
    assert ("ece", "vote") not in whole


def test_who_stands_where(rows):
    standing = {key[2]: row["standing"] for key, row in rows.items() if key[:2] == ("a", "area")}
    assert standing == {
        "vote": "behind",
        "router": "first",
        "shaky": "level",
        "hindsight": "ahead",
    }
    brier = rows["a", "brier", "router"]
    assert (brier["first"], brier["better"], brier["standing"]) == ("vote", "smaller", "behind")
    assert brier["less_first"] == pytest.approx(0.1)
    assert rows["a", "area", "router"]["less_first"] == 0.0


def test_without_resamples_nothing_is_said_of_significance():
    entries = [
        Measured(run="a", rule=rule, figures={n: np.full(1, v) for n in FIGURES}, relative=None)
        for rule, v in (("vote", 0.5), ("router", 0.6))
    ]
    rows = list(behind_first(scopes_of(entries, {"a": "one"})))
    assert {row["standing"] for row in rows} == {"first", "unknown"}
    assert {row["interval_low"] for row in rows} == {None}


def test_halves_of_a_pair_are_not_compared(rows):
    assert "cost_at_abc_accuracy" not in COMPARED
    assert {key[1] for key in rows} == {"area", "brier", "ece"}


def test_the_frame_is_made_of_rules():
    names = [rule.name for rule in all_rules(TrainConfig())]
    assert set(names[-4:]) == FRAME


def test_the_table(scopes, tmp_path):
    rows = write_behind_first(scopes, tmp_path)
    with (tmp_path / "behind_first.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(rows) > 20
    for row, own in zip(found, rows, strict=True):
        assert row["standing"] == own["standing"]
        assert float(row["less_first"]) == pytest.approx(own["less_first"])
