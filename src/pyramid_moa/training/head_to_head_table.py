"""The tables of a benchmark: every figure of every rule, by run, by data set and over all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_figures import FIGURES, RELATIVE_COSTS
from pyramid_moa.training.head_to_head_pooling import Estimate, Measured, Pool

__all__ = ["POOLED_COST", "Scope", "scopes_of", "write_tables"]

POOLED_COST = "pooled_cost_at_abc_accuracy"
"""The cost over ABC's at which the mean relative curve of several runs reaches its accuracy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scope:
    """Some runs that are averaged.

    Attributes:
        kind: ``all``, ``data set`` or ``run``.
        name: of the data set or run; ``all`` otherwise.
        pool: the rules on them.
    """

    kind: str
    name: str
    pool: Pool


def scopes_of(measured: Sequence[Measured], data_sets: Mapping[str, str]) -> list[Scope]:
    """All runs, each data set if there are several, and each run.

    Args:
        measured: one a run and rule.
        data_sets: by run the data set it belongs to.
    """
    runs = list(dict.fromkeys(entry.run for entry in measured))
    names = list(dict.fromkeys(data_sets[run] for run in runs))
    groups = [("all", "all", runs)]
    if len(names) > 1:
        groups += [
            ("data set", name, [run for run in runs if data_sets[run] == name]) for name in names
        ]
    groups += [("run", run, [run]) for run in runs]
    return [
        Scope(
            kind=kind,
            name=name,
            pool=Pool(measured=[entry for entry in measured if entry.run in own]),
        )
        for kind, name, own in groups
    ]


def write_tables(
    scopes: Sequence[Scope], details: Mapping[tuple[str, str], Mapping[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Write ``rules.csv``, ``differences.csv``, ``relative_curves.csv`` and ``rules.json``.

    Args:
        scopes: what is averaged.
        details: by run and rule what else is to be told of it.
        out: existing folder.

    Returns:
        The entries of ``rules.json``: a rule on a scope.
    """
    entries = [_entry(scope, rule, details) for scope in scopes for rule in scope.pool.rules]
    text = json.dumps({"figures": [*FIGURES, POOLED_COST], "entries": entries}, indent=1)
    write_text_atomically(out / "rules.json", text + "\n")
    write_text_atomically(out / "rules.csv", csv_text(list(map(_wide, entries))))
    write_text_atomically(out / "differences.csv", csv_text(list(_long(entries))))
    write_text_atomically(out / "relative_curves.csv", csv_text(list(_relative(scopes))))
    return entries


def _entry(
    scope: Scope, rule: str, details: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, Any]:
    pool = scope.pool
    figures = {name: pool.figure(rule, name) for name in FIGURES}
    figures[POOLED_COST] = pool.cost_at_abc_accuracy(rule)
    differences: dict[str, Estimate] = {}
    if rule != pool.reference:
        differences = {name: pool.difference(rule, name) for name in FIGURES}
    own = [details[run, rule] for run in pool.runs(rule)]
    return {
        "scope": scope.kind,
        "name": scope.name,
        "rule": rule,
        "runs": len(own),
        "questions": sum(detail["questions"] for detail in own),
        "fell_back": sum(detail["fell_back"] for detail in own),
        "seconds_a_fold": sum(detail["seconds"] for detail in own) / len(own),
        "figures": {name: asdict(estimate) for name, estimate in figures.items()},
        "differences": {name: asdict(estimate) for name, estimate in differences.items()},
    }


def _wide(entry: Mapping[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in entry.items() if key not in ("figures", "differences")}
    return row | {name: own["value"] for name, own in entry["figures"].items()}


def _long(entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        for name, own in entry["differences"].items():
            if own["value"] is None:
                continue
            low, high = own["interval"] or (None, None)
            yield {
                "scope": entry["scope"],
                "name": entry["name"],
                "rule": entry["rule"],
                "figure": name,
                "less_vote": own["value"],
                "interval_low": low,
                "interval_high": high,
                "runs": own["runs"],
            }


def _relative(scopes: Sequence[Scope]) -> Iterator[dict[str, Any]]:
    for scope in scopes:
        if scope.kind == "run":
            continue
        for rule in scope.pool.rules:
            curve = scope.pool.relative_curve(rule)[0]
            for cost, accuracy in zip(RELATIVE_COSTS, curve, strict=True):
                yield {
                    "scope": scope.kind,
                    "name": scope.name,
                    "rule": rule,
                    "cost_over_abc": float(cost),
                    "accuracy_less_abc": None if accuracy != accuracy else float(accuracy),
                }
