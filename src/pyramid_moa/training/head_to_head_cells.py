"""One cell of the benchmark: a rule, fitted on all folds but one, on the queries of that fold.

A cell is kept in a file that is named for everything it depends on, so that a benchmark that was
killed goes on, and one that has changed begins again where it has.
"""

import hashlib
import json
import logging
import time
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pyramid_moa import __version__
from pyramid_moa.atomic_files import written_aside
from pyramid_moa.training import baselines
from pyramid_moa.training.baselines.ours import is_ours
from pyramid_moa.training.baselines.rule import Choices, HeldOut, Rule
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.source_hash import source_hash
from pyramid_moa.training.head_to_head_folds import fold_of
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["Cell", "CellCache", "compute_cell"]

_FORMAT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """What a rule came to on n test queries, at the K settings of its dial.

    Attributes:
        dial: [K].
        correct: whether the answer given is right, bool [K, n].
        cost: of all calls, USD, float [K, n].
        escalated: whether the oracle was asked, bool [K, n].
        train_accuracy: on the training queries, out of fold, float [K].
        train_cost: mean on them, USD, float [K].
        p_fail: failure score of the ensemble's answer, float [n]; empty where there is none.
        own_fails: whether that answer is wrong, bool [n]; likewise.
        own: column of the answer that the rule gives without the oracle, int [n]; likewise.
        p_own_fails: failure score of that answer, float [n]; likewise.
        is_probability: whether ``p_fail`` is meant as a probability, bool [].
        fell_back: whether there was nothing to learn, bool [].
        seconds: that fitting and deciding took, float [].
    """

    dial: FloatArray
    correct: BoolArray
    cost: FloatArray
    escalated: BoolArray
    train_accuracy: FloatArray
    train_cost: FloatArray
    p_fail: FloatArray
    own_fails: BoolArray
    own: Positions
    p_own_fails: FloatArray
    is_probability: BoolArray
    fell_back: BoolArray
    seconds: FloatArray


def compute_cell(
    rule: Rule,
    data: RuleRun,
    train: Positions,
    test: Positions,
    seed: int,
    held_out: HeldOut | None = None,
) -> Cell:
    """Fit a rule on the training queries and let it decide the test queries.

    Args:
        rule: which.
        data: the run.
        train: positions whose labels it may read.
        test: positions that it decides.
        seed: of all that it draws.
        held_out: whether a question, by its hash, is kept from the fit in whatever run it stands;
            those of the test queries where it is None.
    """
    started = time.perf_counter()
    tested = {data.hashes[position] for position in test}
    fitted = rule.fit(data, train, seed, held_out or tested.__contains__)
    choices = fitted.decide(data, test)
    seconds = time.perf_counter() - started
    correct, cost = _outcome(data, test, choices)
    train_correct, train_cost = _outcome(data, train, fitted.train)
    scores = choices.failure
    answers = np.zeros(0, dtype=np.int64) if scores is None else scores.answer
    p_fail = np.zeros(0) if scores is None else np.asarray(scores.values, dtype=np.float64)
    own = None if scores is None else scores.own
    own_values = None if scores is None else scores.own_values
    return Cell(
        dial=np.asarray(fitted.dial, dtype=np.float64),
        correct=correct,
        cost=cost,
        escalated=choices.called[..., data.oracle],
        train_accuracy=train_correct.mean(axis=1),
        train_cost=train_cost.mean(axis=1),
        p_fail=p_fail,
        own=answers if own is None else own,
        p_own_fails=p_fail if own_values is None else np.asarray(own_values, dtype=np.float64),
        own_fails=~data.correct[test[: len(answers)], answers],
        is_probability=np.array(scores is not None and scores.is_probability),
        fell_back=np.array(fitted.fell_back),
        seconds=np.array(seconds),
    )


def _outcome(data: RuleRun, positions: Positions, made: Choices) -> tuple[BoolArray, FloatArray]:
    """Whether each answer given is right, and what all calls cost: [K, n] each."""
    correct = np.take_along_axis(data.correct[positions], made.answer.T, axis=1).T
    cost = np.einsum("knm,nm->kn", made.called, data.cost[positions])
    return correct, cost


class CellCache:
    """Cells in a folder."""

    def __init__(self, folder: Path) -> None:
        """Keep cells in a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        own = Path(baselines.__file__).parent.glob("*.py")
        # What our router consists of is part of its own settings; who else takes part is no matter.
        others = (path for path in own if not is_ours(path) and path.name != "all_rules.py")
        self._code = source_hash(others)

    def cell(
        self, rule: Rule, data: RuleRun, division: Positions, *, folds: int, fold: int, seed: int
    ) -> Cell:
        """Read a cell, or compute and keep it.

        Args:
            rule: which.
            data: the run.
            division: the fold of each query, int [n].
            folds: how many there are.
            fold: the one that is tested.
            seed: of the division, and of all that the rule draws.
        """
        path = self.path(rule, data, folds=folds, fold=fold, seed=seed)
        cell = self.read(path)
        if cell is None:
            train, test = np.flatnonzero(division != fold), np.flatnonzero(division == fold)
            cell = compute_cell(
                rule,
                data,
                train,
                test,
                seed,
                lambda text: fold_of(text, folds=folds, seed=seed) == fold,
            )
            self.write(path, cell)
        return cell

    def path(self, rule: Rule, data: RuleRun, *, folds: int, fold: int, seed: int) -> Path:
        """Name the file of a cell."""
        depends_on = {
            "format": _FORMAT,
            "version": __version__,
            "code": self._code,
            "run": data.content_hash(),
            "rule": rule.name,
            "settings": rule.settings(),
            "folds": [folds, fold, seed],
        }
        text = json.dumps(depends_on, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def read(self, path: Path) -> Cell | None:
        """Read a cell, or None where it is not there; a damaged file is given up."""
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return Cell(**{field.name: arrays[field.name] for field in fields(Cell)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.getLogger(__name__).warning(
                "%s is damaged (%s): it is computed again", path, type(error).__name__
            )
            return None

    def write(self, path: Path, cell: Cell) -> None:
        """Write a cell under its final name in one step."""
        arrays = {field.name: getattr(cell, field.name) for field in fields(Cell)}
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez_compressed(file, **arrays)
