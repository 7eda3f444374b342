"""How far every rule of a benchmark is behind the one that is first, figure by figure."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.training.baselines.fixed_rules import (
    HindsightRule,
    MembersOnly,
    OracleOnly,
    RandomRule,
)
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_figures import FIGURES, LESS_IS_BETTER
from pyramid_moa.training.head_to_head_pooling import Estimate, Pool
from pyramid_moa.training.head_to_head_table import Scope

__all__ = ["COMPARED", "FRAME", "behind_first", "first_rule", "write_behind_first"]

FRAME = frozenset(rule.name for rule in (RandomRule, MembersOnly, OracleOnly, HindsightRule))
"""Rules that nobody would choose, or could: they are never first."""

# What a rule came to where it was to be as accurate as ABC, or as dear, says nothing alone: it may
# be cheaper and less accurate. Accuracy at ABC's cost is compared, for all were given that cost.
_HALVES = {"cost_at_abc_accuracy", "accuracy_at_abc_accuracy", "cost_at_abc_cost"}

COMPARED = tuple(name for name in FIGURES if name not in _HALVES)
"""Figures of which it can be said which rule is first."""


def first_rule(pool: Pool, name: str) -> str | None:
    """The best rule of a figure, by its mean over the runs.

    It has to have the figure on every run on which any rule that can be first has it: means over
    other runs are no comparison.

    Args:
        pool: rules on some runs.
        name: of the figure.

    Returns:
        Its name, of equals the one listed first; None where no rule has the figure on all of them.
    """
    values = {
        rule: {run: value for run, value in pool.values(rule, name).items() if np.isfinite(value)}
        for rule in pool.rules
        if rule not in FRAME
    }
    runs = {run for own in values.values() for run in own}
    if not runs:
        return None
    means = {
        rule: np.mean(list(own.values())) for rule, own in values.items() if own.keys() == runs
    }
    if not means:
        return None
    best = min if name in LESS_IS_BETTER else max
    return best(means, key=lambda rule: means[rule])


def behind_first(scopes: Sequence[Scope]) -> Iterator[dict[str, Any]]:
    """Rows of ``behind_first.csv``: a scope, a figure and a rule, the first rule among them.

    Both values of a row are means over the runs on which both rules have the figure; the interval
    is of their difference, paired over the questions. Which rule is first was read off the same
    questions, so of equally good rules one is first by luck, and the others are a little behind.

    Args:
        scopes: what is averaged.
    """
    for scope in scopes:
        for name in COMPARED:
            first = first_rule(scope.pool, name)
            if first is None:
                continue
            beside = Pool(measured=scope.pool.measured, reference=first)
            for rule in beside.rules:
                less = beside.difference(rule, name)
                value = beside.figure(rule, name).value
                if less.value is None or value is None:
                    continue
                low, high = less.interval or (None, None)
                yield {
                    "scope": scope.kind,
                    "name": scope.name,
                    "figure": name,
                    "better": "smaller" if name in LESS_IS_BETTER else "larger",
                    "first": first,
                    "first_value": value - less.value,
                    "rule": rule,
                    "value": value,
                    "less_first": less.value,
                    "interval_low": low,
                    "interval_high": high,
                    "runs": less.runs,
                    "standing": "first" if rule == first else _standing(name, less),
                }


def write_behind_first(scopes: Sequence[Scope], out: Path) -> list[dict[str, Any]]:
    """Write ``behind_first.csv``.

    Args:
        scopes: what is averaged.
        out: existing folder.

    Returns:
        Its rows, as `behind_first` gives them.
    """
    rows = list(behind_first(scopes))
    write_text_atomically(out / "behind_first.csv", csv_text(rows))
    return rows


def _standing(name: str, less: Estimate) -> str:
    """``behind`` or ``ahead`` where the interval says so, ``level`` where it holds zero."""
    if less.interval is None:
        return "unknown"
    low, high = less.interval
    if name in LESS_IS_BETTER:
        low, high = -high, -low
    return "behind" if high < 0 else "ahead" if low > 0 else "level"
