"""The one page of a benchmark: what was compared on what, its tables and its plots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.manifest import Manifest
from pyramid_moa.training.benchmark_columns import BESIDE, COLUMNS, Column
from pyramid_moa.training.head_to_head_first import FRAME
from pyramid_moa.training.page import image_uri, render_page
from pyramid_moa.training.report_text import MISSING, interval, write

__all__ = ["write_benchmark_page"]

Row = Mapping[str, Any]
_NOT_THERE = "\N{EN DASH}"
_STANDINGS = ("first", "level", "behind", "unknown")
_MARKS = {"first": "right", "behind": "wrong"}
_LABEL_FIGURES = (
    ("failure_auroc", "Failure AUROC"),
    ("ece", "ECE"),
    ("ece_in_excess", "ECE in excess"),
    ("log_loss", "Log-loss"),
)
_CURVES = {
    "vote": "agreement",
    "router": "own training",
    "router-started": "started from another router",
}


def write_benchmark_page(
    out: Path,
    *,
    manifests: Mapping[str, Manifest],
    questions: Mapping[str, int],
    data_sets: Mapping[str, str],
    protocol: str,
    entries: Sequence[Row],
    behind: Sequence[Row],
    labels: Sequence[Row],
) -> None:
    """Write ``report.html``, which needs nothing beside it. Its numbers are those of the CSV files.

    Args:
        out: folder of the benchmark, with its plots drawn.
        manifests: of the runs by their names.
        questions: of each run, how many.
        data_sets: that each run counts to.
        protocol: how it was done, in words.
        entries: those of ``rules.json``.
        behind: rows of ``behind_first.csv``.
        labels: rows of ``label_curves.csv``; empty where no label curves were asked for.
    """
    scopes = dict.fromkeys((entry["scope"], entry["name"]) for entry in entries)
    view = {
        "runs": [
            {
                "name": name,
                "data_set": data_sets[name],
                "questions": f"{questions[name]:,}",
                "members": ", ".join(manifest.members),
                "oracle": " → ".join((*manifest.mid_oracles, manifest.oracle)),
            }
            for name, manifest in manifests.items()
        ],
        "notices": _notices(manifests),
        "protocol": protocol,
        "standings": _standings(behind),
        "suite": image_uri(out / "plots" / "suite_pareto.svg"),
        "scopes": [
            {
                "kind": kind,
                "name": name,
                "tables": _tables(_within(entries, kind, name), _within(behind, kind, name)),
                "image": image_uri(out / "plots" / f"{name}.svg") if kind == "run" else None,
            }
            for kind, name in scopes
        ],
        "label_tables": _label_tables(labels),
        "label_panels": len({row["of"] for row in labels if row["scope"] != "run"}),
        "label_image": image_uri(out / "label_curves.svg") if labels else None,
        "meanings": [(column.title, column.meaning) for column in COLUMNS],
    }
    write_text_atomically(out / "report.html", render_page("benchmark.html.jinja", view))


def _within(rows: Sequence[Row], kind: str, name: str) -> list[Row]:
    return [row for row in rows if (row["scope"], row["name"]) == (kind, name)]


def _notices(manifests: Mapping[str, Manifest]) -> list[str]:
    """What has to be known of costs and references; said once for all runs it is true of."""
    told: dict[str, list[str]] = {}
    for name, manifest in manifests.items():
        if manifest.price_note:
            told.setdefault(f"costs: {manifest.price_note}", []).append(name)
        if manifest.tokens_estimated:
            told.setdefault("token counts, and so costs, are estimates", []).append(name)
        if manifest.reference == "oracle":
            told.setdefault(
                "there are no reference answers: every accuracy is agreement with the oracle", []
            ).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in told.items()]


def _table(title: str, head: Sequence[str], rows: Sequence[Row], note: str = "") -> dict[str, Any]:
    return {"title": title, "head": head, "rows": rows, "note": note}


def _tables(entries: Sequence[Row], behind: Sequence[Row]) -> list[dict[str, Any]]:
    """Every figure of every rule, less the vote's, and less those of the first."""
    costs = [column for column in COLUMNS if "cost" in column.figure or column.figure == "area"]
    others = [column for column in COLUMNS if column not in costs]
    differing = [entry for entry in entries if entry["differences"]]
    return [
        _figures("Accuracy and cost", costs, entries),
        _figures("Failure scores, calibration and summaries", others, entries),
        _table(
            "Less the vote rule's, with 95 % intervals",
            ["Rule", *(column.title for column in BESIDE)],
            [_row(entry, [_difference(entry, column) for column in BESIDE]) for entry in differing],
        ),
        _less_first(entries, behind),
    ]


def _figures(title: str, columns: Sequence[Column], entries: Sequence[Row]) -> dict[str, Any]:
    rows = [
        _row(
            entry,
            [_mean_cell(entry, entry["figures"][own.figure], own) for own in columns],
        )
        for entry in entries
    ]
    return _table(title, ["Rule", *(column.title for column in columns)], rows)


def _row(entry: Row, cells: Sequence[Row]) -> dict[str, Any]:
    name = entry["rule"]
    kind = "frame" if name in FRAME else "ours" if name.startswith("router") else ""
    return {"name": name, "note": _of_fewer(entry), "kind": kind, "cells": cells}


def _of_fewer(entry: Row) -> str:
    """What a reader has to know of a mean."""
    notes = []
    if entry["scope"] != "run":
        notes.append(f"{entry['runs']} {'run' if entry['runs'] == 1 else 'runs'}")
    if entry["fell_back"]:
        notes.append(f"nothing to learn in {entry['fell_back']} folds")
    return ", ".join(notes)


def _mean_cell(entry: Row, figure: Row, column: Column) -> dict[str, str]:
    """A mean, with the number of runs that have it where those are not all of the rule's."""
    text, runs = _known(figure["value"], column.how), figure["runs"]
    if text != _NOT_THERE and runs < entry["runs"]:
        text += f" ({runs} {'run' if runs == 1 else 'runs'})"
    return _cell(text)


def _cell(text: str, mark: str = "") -> dict[str, str]:
    return {"text": text, "mark": mark}


def _known(value: float | None, how: str) -> str:
    text = write(value, how)
    return _NOT_THERE if text == MISSING else text


def _signed(value: float | None, ends: list[float] | None, how: str) -> str:
    if value is None:
        return _NOT_THERE
    how = "points" if how == "share" else how
    told = write(value, how, signed=True)
    return told if ends is None else f"{told} ({interval(ends, how, signed=True)})"


def _difference(entry: Row, column: Column) -> dict[str, str]:
    own = entry["differences"][column.figure]
    return _cell(_signed(own["value"], own["interval"], column.how))


def _less_first(entries: Sequence[Row], behind: Sequence[Row]) -> dict[str, Any]:
    by_place = {(row["rule"], row["figure"]): row for row in behind}
    firsts = {row["figure"]: row["first"] for row in behind}
    columns = [column for column in BESIDE if column.figure in firsts]

    def cell(rule: str, column: Column) -> dict[str, str]:
        row = by_place.get((rule, column.figure))
        if row is None:
            return _cell(_NOT_THERE)
        if row["standing"] == "first":
            return _cell("first", "right")
        ends = None if row["interval_low"] is None else [row["interval_low"], row["interval_high"]]
        return _cell(_signed(row["less_first"], ends, column.how), _MARKS.get(row["standing"], ""))

    return _table(
        "Less those of the rule that is first, with 95 % intervals",
        ["Rule", *(column.title for column in columns)],
        [
            _row(entry, [cell(entry["rule"], column) for column in columns])
            for entry in entries
            if entry["rule"] not in FRAME
        ],
        "Coloured: the first, and what is behind it by more than the interval. A rule that has a "
        "figure on some runs only is never first, and may be ahead there. Which rule is first was "
        "read off the same questions.",
    )


def _standings(behind: Sequence[Row]) -> dict[str, Any]:
    """On how many runs each rule is first, level with the first, and behind it."""
    counted = Counter(
        (row["rule"], row["figure"], row["standing"]) for row in behind if row["scope"] == "run"
    )
    rules = dict.fromkeys(row["rule"] for row in behind if row["rule"] not in FRAME)

    def told(rule: str, column: Column) -> str:
        numbers = {name: counted[rule, column.figure, name] for name in _STANDINGS}
        return ", ".join(f"{name} {n}" for name, n in numbers.items() if n) or _NOT_THERE

    return _table(
        "On how many runs a rule is first, level with the first, or behind it",
        ["Rule", *(column.title for column in BESIDE)],
        [
            {
                "name": rule,
                "note": "",
                "kind": "ours" if rule.startswith("router") else "",
                "cells": [_cell(told(rule, column)) for column in BESIDE],
            }
            for rule in rules
        ],
        "Level: the 95 % interval of the difference to the first holds zero.",
    )


def _label_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A table a scope: own training beside a start, by number of labels."""
    scopes = dict.fromkeys((row["scope"], row["of"]) for row in rows)
    return [
        _table(
            "All runs" if kind == "all" else name,
            [
                "Learned from",
                "Labels",
                *(title for _, title in _LABEL_FIGURES),
                "AUROC less own training on all labels",
            ],
            [_label_row(row) for row in rows if (row["scope"], row["of"]) == (kind, name)],
        )
        for kind, name in scopes
    ]


def _label_row(row: Row) -> dict[str, Any]:
    def between(name: str) -> list[float] | None:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return None if low is None else [low, high]

    auroc = _known(row["failure_auroc"], "number")
    if between("failure_auroc") is not None:
        auroc += f" ({interval(between('failure_auroc'), 'number')})"
    others = [_known(row[name], "number") for name, _ in _LABEL_FIGURES[1:]]
    less = _signed(row["auroc_less_own_training"], between("auroc_less_own_training"), "number")
    return {
        "name": _CURVES[row["curve"]],
        "note": "",
        "kind": "",
        "cells": [_cell(text) for text in (str(row["labels"]), auroc, *others, less)],
    }
