"""The one page of a benchmark: its numbers are those of the tables."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.benchmark_columns import BESIDE, COLUMNS
from pyramid_moa.training.benchmark_page import write_benchmark_page
from pyramid_moa.training.head_to_head_figures import FIGURES, RELATIVE_COSTS
from pyramid_moa.training.head_to_head_first import write_behind_first
from pyramid_moa.training.head_to_head_pooling import Measured
from pyramid_moa.training.head_to_head_table import POOLED_COST, scopes_of, write_tables
from pyramid_moa.training.report_text import write

DATA_SETS = {"sums": "one", "<b>": "two"}
RULES = ("vote", "router", "scorer", "hindsight")
LABELS = {
    "scope": "all",
    "of": "all",
    "runs": 2,
    "curve": "router-started",
    "labels": 50,
    "failure_auroc": 0.8125,
    "failure_auroc_low": 0.75,
    "failure_auroc_high": 0.875,
    "failure_average_precision": 0.5,
    "ece": 0.0312,
    "ece_in_excess": 0.0111,
    "log_loss": 0.4321,
    "auroc_less_own_training": -0.0123,
    "auroc_less_own_training_low": -0.0234,
    "auroc_less_own_training_high": 0.0046,
}
VOTE_LABELS = LABELS | {"curve": "vote", "labels": "all", "ece": None, "ece_in_excess": None}


class Page(HTMLParser):
    """Tables of a page as rows of texts, what it points to, and its words."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.tags, self.words = [], [], [], []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self._inside:
            self.tables[-1][-1][-1] += data

    def with_head(self, *titles):
        """Tables that have these columns, in the order of the page."""
        return [own for own in self.tables if set(titles) <= set(own[0])]


def measured():
    rng = np.random.default_rng(0)
    for run in DATA_SETS:
        for rule in RULES:
            figures = {name: rng.uniform(0.4, 0.6, 21) for name in FIGURES}
            if rule == "scorer":
                figures["brier"] = np.full(21, np.nan)
            relative = np.tile(RELATIVE_COSTS - rng.uniform(0.5, 0.9), (21, 1))
            yield Measured(run=run, rule=rule, figures=figures, relative=relative)


@pytest.fixture
def parts(labelled_run, tmp_path):
    """What a page is made of, in a folder with its plots."""
    scopes = scopes_of(list(measured()), DATA_SETS)
    details = {
        (run, rule): {"questions": 10, "fell_back": int(rule == "router"), "seconds": 0.5}
        for run in DATA_SETS
        for rule in RULES
    }
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in (*DATA_SETS, "suite_pareto"):
        (plots / f"{name}.svg").write_text(f"<svg>{name}</svg>")
    (tmp_path / "label_curves.svg").write_text("<svg>labels</svg>")
    manifest = read_labelled_run(labelled_run).manifest
    manifest = replace(manifest, price_note="stand-in prices")
    return {
        "manifests": dict.fromkeys(DATA_SETS, manifest),
        "questions": dict.fromkeys(DATA_SETS, 1234),
        "data_sets": DATA_SETS,
        "protocol": "7-fold cross-validation",
        "entries": write_tables(scopes, details, tmp_path),
        "behind": write_behind_first(scopes, tmp_path),
        "labels": [VOTE_LABELS, LABELS],
    }


@pytest.fixture
def page(parts, tmp_path):
    write_benchmark_page(tmp_path, **parts)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def cells_of(table):
    """By first column and head."""
    head, *rows = table
    return {(row[0], title): text for row in rows for title, text in zip(head, row, strict=True)}


def test_it_stands_alone(page):
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "b" not in page.tags  # a run's name is text
    assert len(page.links) == 4
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)


def test_what_was_compared_on_what(page, parts):
    first, *_ = page.tables
    members = ", ".join(parts["manifests"]["sums"].members)
    assert first[1] == ["sums", "one", "1,234", members, parts["manifests"]["sums"].oracle]
    assert first[2][0] == "<b>"
    text = " ".join(page.words)
    assert "7-fold cross-validation" in text
    assert "sums, <b>: costs: stand-in prices" in text


def test_every_figure_of_every_rule_is_on_the_page(page, parts):
    tables = [page.with_head("Area"), page.with_head("APGR")]
    # A table of figures and two of differences have the area, five scopes each, and one counts.
    assert len(tables[0]) == 1 + 5 * 3
    assert len(tables[1]) == 5
    tables[0] = [own for own in tables[0] if "its cost" in own[0]]
    scopes = list(dict.fromkeys((own["scope"], own["name"]) for own in parts["entries"]))
    for place, scope in enumerate(scopes):
        cells = cells_of(tables[0][place]) | cells_of(tables[1][place])
        for entry in parts["entries"]:
            if (entry["scope"], entry["name"]) != scope:
                continue
            runs = "" if scope[0] == "run" else f"{entry['runs']} run"
            note = runs + ("s" if entry["runs"] == 2 else "")
            if entry["fell_back"]:
                note += f"{', ' if note else ''}nothing to learn in {entry['fell_back']} folds"
            for column in COLUMNS:
                value = entry["figures"][column.figure]["value"]
                shown = "\N{EN DASH}" if value is None else write(value, column.how)
                assert cells[f"{entry['rule']}{note}", column.title] == shown


def test_every_figure_is_explained():
    assert sorted(own.figure for own in COLUMNS) == sorted([*FIGURES, POOLED_COST])
    assert len({own.title for own in COLUMNS}) == len(COLUMNS)
    assert len(BESIDE) == 8


def test_differences_with_their_intervals(page, parts):
    (cells, *_) = [cells_of(own) for own in page.with_head("Area") if "its cost" not in own[0]][1:]
    entry = next(own for own in parts["entries"] if own["rule"] == "scorer")
    own = entry["differences"]["area"]
    low, high = (write(end, "number", signed=True) for end in own["interval"])
    told = f"{write(own['value'], 'number', signed=True)} ({low} to {high})"
    assert cells["scorer2 runs", "Area"] == told
    assert cells["scorer2 runs", "Brier"] == "\N{EN DASH}"


def test_who_is_first(page, parts):
    standings, _, beside, *_ = [
        cells_of(own) for own in page.with_head("Area") if "its cost" not in own[0]
    ]
    rows = {(row["name"], row["rule"]): row for row in parts["behind"] if row["figure"] == "area"}
    for rule in ("vote", "router", "scorer"):
        told = standings[rule, "Area"]
        for standing in ("first", "level", "behind"):
            count = sum(rows[run, rule]["standing"] == standing for run in DATA_SETS)
            assert (f"{standing} {count}" in told) == (count > 0)
        note = "2 runs, nothing to learn in 2 folds" if rule == "router" else "2 runs"
        shown = beside[f"{rule}{note}", "Area"]
        less = write(rows["all", rule]["less_first"], "number", signed=True)
        first = rows["all", rule]["standing"] == "first"
        assert shown == "first" if first else shown.startswith(f"{less} (")
    assert not [key for key in standings if key[0] == "hindsight"]


def test_label_curves(page, parts, tmp_path):
    (table,) = page.with_head("Labels")
    assert table[1][:2] == ["agreement", "all"]
    assert table[1][3:6] == ["\N{EN DASH}", "\N{EN DASH}", "0.432"]
    assert table[2] == [
        "started from another router",
        "50",
        "0.812 (0.750 to 0.875)",
        "0.031",
        "0.011",
        "0.432",
        "\N{MINUS SIGN}0.012 (\N{MINUS SIGN}0.023 to +0.005)",
    ]
    write_benchmark_page(tmp_path, **(parts | {"labels": []}))
    without = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not without.with_head("Labels")
    assert len(without.links) == 3
