"""How often a promised drop is broken, and what the promise costs."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from policy_cases.populations import Population, curve_rows, of_table, smoothed
from policy_cases.promise_plot import draw
from policy_cases.scored import Scored, by_router, out_of_fold
from policy_cases.suite_data import pyramid_run, wanted_pyramids

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.dial_path import DialPath, threshold_path
from pyramid_moa.training.drop_test import DropTest
from pyramid_moa.training.learn_then_test import cheapest_within_drop
from pyramid_moa.training.train import train

__all__ = ["run"]

_DROPS = (0.005, 0.01, 0.02)
_SIZES = (300, 1000, 5000)
_LEVEL = 0.05
_VALIDATION = 800
_EMBEDDED = "embedded"
_TRAINED_ON = 1500

Chooser = Callable[[np.ndarray, np.ndarray, DialPath], int | None]
"""Numbers lost and gained at every setting, and the path, to the setting chosen."""


def run(options: argparse.Namespace) -> None:
    """Write promise.csv, promise_halves.csv and the figure."""
    out: Path = options.out / "promise"
    out.mkdir(parents=True, exist_ok=True)
    tables = _tables(options, out)
    rows, halves = [], []
    choosers = {(n, drop): _choosers(n, drop) for n in _SIZES for drop in _DROPS}
    half_tests: dict[tuple[int, float], DropTest] = {}
    for name, scored in tables.items():
        kept = out / "draws" / f"{name}-{scored.n}-{options.draws}.json"
        if not kept.is_file():
            rng = np.random.default_rng(0)
            known = of_table(scored) if name == _EMBEDDED else smoothed(scored, rng)
            found = (
                _draws(name, known, choosers, options.draws, rng),
                _halves(name, scored, options.draws, half_tests, rng),
            )
            kept.parent.mkdir(exist_ok=True)
            write_text_atomically(kept, json.dumps(found))
        own_rows, own_halves = json.loads(kept.read_text(encoding="utf-8"))
        rows += own_rows
        halves += own_halves
        _say(f"{name}: " + _line([row for row in rows if row["population"] == name]))
    write_text_atomically(out / "promise.csv", csv_text(rows))
    write_text_atomically(out / "promise_halves.csv", csv_text(halves))
    pooled = _pooled(rows, _SUMS)
    write_text_atomically(out / "promise_pooled.csv", csv_text(pooled))
    in_halves = _pooled(
        halves, ("tests", "larger", "refuted", "unproven", "escalation", "cost_ratio")
    )
    write_text_atomically(out / "promise_halves_pooled.csv", csv_text(in_halves))
    draw(rows, out / "promise")
    _say(_line(rows))
    _say(f"tables: {out / 'promise.csv'}, {out / 'promise_halves.csv'}")


def _tables(options: argparse.Namespace, out: Path) -> dict[str, Scored]:
    """Scored questions of every pyramid, and of generated ones on the embedded pyramid."""
    found = {}
    (out / "scores").mkdir(exist_ok=True)
    for pyramid in wanted_pyramids(options):
        kept = out / "scores" / f"{pyramid.name}.npz"
        found[pyramid.name] = out_of_fold(pyramid_run(pyramid, options), kept)
    if options.generated:
        found[_EMBEDDED] = _generated(options.generated, out)
    return found


def _generated(questions: int, out: Path) -> Scored:
    """Questions of the generator, scored by a router that was trained on others of them."""
    kept = out / "scores" / f"embedded-{questions}.npz"
    if kept.is_file():
        return Scored.load(kept)
    spec = f"word-problems?train={_TRAINED_ON}&test={questions}&seed=0"
    folder = out / f"embedded-{questions}"
    label(load_queries(spec), load_pyramid("embedded"), folder, resume=folder.exists(), say=_say)
    router = out / f"embedded-{questions}-router"
    if not router.exists():
        train(folder, router)
    scored = by_router(read_labelled_run(folder), Router.load(router), "test")
    scored.save(kept)
    return scored


def _choosers(n: int, drop: float) -> dict[str, Chooser]:
    exact, betting = DropTest(n=n, drop=drop, level=_LEVEL), _BettingTest(n, drop)
    return {
        "exact": lambda lost, gained, path: cheapest_within_drop(lost, gained, path.plan, exact),
        "betting": lambda lost, gained, path: cheapest_within_drop(
            lost, gained, path.plan, betting
        ),
        "measured": lambda lost, gained, path: int(np.flatnonzero(lost - gained <= n * drop)[-1]),
    }


class _BettingTest:
    """The mixture of constant bets that proves costs, on drops: valid, for comparison."""

    def __init__(self, n: int, drop: float) -> None:
        self.n, self.drop = n, drop
        bets = np.geomspace(0.002, 0.98 / (1 - drop), 16)
        self._steps = [np.log1p(bets * (drop - loss)) for loss in (1, -1, 0)]

    def proves(self, lost: int, gained: int) -> bool:
        same = self.n - lost - gained
        wealth = sum(k * step for k, step in zip((lost, gained, same), self._steps, strict=True))
        most = wealth.max()
        return bool(most + np.log(np.exp(wealth - most).mean()) >= -np.log(_LEVEL))


_SUMS = ("draws", "broken", "unproven", "escalation", "cost_over_best", "cost_ratio", "proven_cost")


def _draws(
    name: str,
    known: Population,
    choosers: dict[tuple[int, float], dict[str, Chooser]],
    draws: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Find a point on many draws of calibration questions; means over them."""
    truth, always = known.truth(), float((known.members_usd + known.oracle_usd).mean())
    oracle = float(known.oracle_usd.mean())
    best = {
        drop: min(always, float(truth.cost[np.flatnonzero(truth.drop <= drop)].min(initial=always)))
        for drop in _DROPS
    }
    sums: dict[tuple[int, float, str], np.ndarray] = {}
    for _ in range(draws):
        path = threshold_path(curve_rows(known.draw(_VALIDATION, rng)), _VALIDATION)
        for n in _SIZES:
            lost, gained = _counts(known.draw(n, rng), path)
            for drop in _DROPS:
                for method, choose in choosers[n, drop].items():
                    chosen = choose(lost, gained, path)
                    place = -1 if chosen is None else truth.at(path.points[chosen].threshold)
                    cost = always if place < 0 else float(truth.cost[place])
                    values = (
                        1.0,
                        bool(place >= 0 and truth.drop[place] > drop),
                        chosen is None,
                        1.0 if place < 0 else truth.escalation[place],
                        cost / best[drop],
                        cost / oracle,
                        0.0 if chosen is None else cost / best[drop],
                    )
                    key = (n, drop, method)
                    sums[key] = sums.get(key, 0.0) + np.array(values, dtype=float)
    return [
        {
            "population": name,
            "questions": n,
            "drop": drop,
            "method": method,
            **_means(total),
            "best_cost_ratio": best[drop] / oracle,
        }
        for (n, drop, method), total in sums.items()
    ]


def _means(total: np.ndarray) -> dict[str, float]:
    row = dict(zip(_SUMS, total.tolist(), strict=True))
    draws, proven = row["draws"], row["draws"] - row["unproven"]
    return {
        "draws": int(draws),
        "proven_cost": row["proven_cost"] / proven if proven else 1.0,
        **{key: row[key] / draws for key in _SUMS if key not in ("draws", "proven_cost")},
    }


def _counts(drawn: Scored, path: DialPath) -> tuple[np.ndarray, np.ndarray]:
    """Questions lost and gained at every setting."""
    thresholds = np.array([point.threshold for point in path.points])
    first = np.searchsorted(thresholds, drawn.p_fails, side="left")  # that accepts the question

    def accepted(marked: np.ndarray) -> np.ndarray:
        return np.cumsum(np.bincount(first[marked], minlength=len(thresholds) + 1))[:-1]

    return accepted(drawn.oracle & ~drawn.ensemble), accepted(drawn.ensemble & ~drawn.oracle)


def _halves(
    name: str,
    scored: Scored,
    draws: int,
    tests: dict[tuple[int, float], DropTest],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Real questions: a fifth fixes the order, two promise, two more say whether it is kept.

    The held-apart part refutes a promise where its drop is larger by 1.645 of its own standard
    errors, which a kept promise meets in 5 % of draws at most, beside those that break it.
    """
    sums: dict[float, np.ndarray] = {}
    sizes = (scored.n // 5, 2 * scored.n // 5)
    for _ in range(draws):
        order = rng.permutation(scored.n)
        first, middle = sizes[0], sizes[0] + sizes[1]
        path = threshold_path(curve_rows(scored.take(order[:first])), first)
        lost, gained = _counts(scored.take(order[first:middle]), path)
        held = scored.take(order[middle:])
        held_lost, held_gained = _counts(held, path)
        for drop in _DROPS:
            test = tests.setdefault((sizes[1], drop), DropTest(n=sizes[1], drop=drop, level=_LEVEL))
            chosen = cheapest_within_drop(lost, gained, path.plan, test)
            place = chosen or 0
            share = (held_lost[place] - held_gained[place]) / held.n
            square = (held_lost[place] + held_gained[place]) / held.n
            error = np.sqrt(max(square - share**2, 0.0) / held.n)
            asked = held.p_fails > path.points[place].threshold
            cost = held.members_usd.sum() + held.oracle_usd[asked].sum()
            values = (
                1.0,
                share > drop,
                share > drop + 1.645 * error,
                chosen is None,
                asked.mean(),
                cost / held.oracle_usd.sum(),
            )
            sums[drop] = sums.get(drop, 0.0) + np.array(values, dtype=float)
    names = ("larger", "refuted", "unproven", "escalation", "cost_ratio")
    return [
        {
            "population": name,
            "questions": sizes[1],
            "drop": drop,
            "method": "exact",
            "tests": int(total[0]),
            **dict(zip(names, (total[1:] / total[0]).tolist(), strict=True)),
        }
        for drop, total in sums.items()
    ]


def _pooled(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Means over populations, and the worst rate of broken promises."""
    keys = dict.fromkeys(
        (row["questions"] if "broken" in row else 0, row["drop"], row["method"]) for row in rows
    )
    pooled = []
    for n, drop, method in keys:
        own = [
            row
            for row in rows
            if row["drop"] == drop and row["method"] == method and n in (0, row["questions"])
        ]
        means = {key: float(np.mean([row[key] for row in own])) for key in names}
        worst = max(row["broken" if n else "refuted"] for row in own)
        pooled.append(
            {"questions": n or "halves", "drop": drop, "method": method, **means, "worst": worst}
        )
    return pooled


def _line(rows: Sequence[dict[str, Any]]) -> str:
    exact = [row for row in rows if row["method"] == "exact"]
    worst = max(exact, key=lambda row: row["broken"])
    big = [row["cost_over_best"] for row in exact if row["questions"] == max(_SIZES)]
    return (
        f"broken in {worst['broken']:.3f} of draws at most ({worst['questions']} questions, drop "
        f"{worst['drop']}); cost over the best in hindsight with {max(_SIZES)} questions "
        f"{np.mean(big):.3f} in the mean, {max(big):.3f} at most"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
