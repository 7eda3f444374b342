"""What a router says of every set of members, on folds that it was not fitted on, kept in files.

Fitting a router for every fold takes hours over the whole suite; what policies make of its scores
takes seconds. So the scores are kept, in a file named for everything that they depend on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.atomic_files import written_aside
from pyramid_moa.progress import Progress
from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_trained import TrainedRouter
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.fit import Scored, scored
from pyramid_moa.training.head_to_head_folds import fold_of
from pyramid_moa.training.scored_sets import ScoredSets

__all__ = ["Part", "ScoredFold", "scored_folds"]

_FIELDS = ("right", "runner_up", "nobody", "oracle", "choice")


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Queries with what a router that had left them out says of them.

    Attributes:
        positions: in the run, int [n].
        sets: of every set of members.
        heads: calibrated probabilities, everybody asked: ensemble fails, vote fails, oracle right,
            float [n, 3].
    """

    positions: NDArray[np.int64]
    sets: ScoredSets
    heads: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredFold:
    """One fold of one seed: the queries that were fitted on, and those that were not.

    Attributes:
        seed: of folds and router.
        fold: its number.
        train: scored by the networks that had left each query out.
        test: scored by all of them.
    """

    seed: int
    fold: int
    train: Part
    test: Part


def scored_folds(
    data: RuleRun, folder: Path, *, name: str, seeds: int, folds: int = 5
) -> Iterator[ScoredFold]:
    """Fit the router on all folds but one, seed after seed, or read what it said the last time.

    Args:
        data: the run.
        folder: of the files.
        name: of the pyramid, for the progress bar.
        seeds: how often the division into folds is repeated.
        folds: of the cross-validation.
    """
    rule = OurRule(config=TrainConfig())
    with Progress(name, total=seeds * folds) as bar:
        for seed in range(seeds):
            fold = np.array([fold_of(text, folds=folds, seed=seed) for text in data.hashes])
            for number in range(folds):
                train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
                key = [rule.settings(), data.content_hash(), seed, number, folds]
                text = json.dumps(key, sort_keys=True)
                path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
                if not path.is_file():
                    _compute(rule, data, train, test, seed, path)
                yield _read(path, seed, number, train, test, data.members)
                bar.advance()
    data.forget()


def _compute(
    rule: OurRule,
    data: RuleRun,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
    path: Path,
) -> None:
    tested = {data.hashes[position] for position in test}
    trained = rule.trained(data, train, seed, tested.__contains__)
    assert trained is not None, "the suite's pyramids have both classes in every fold"
    assert trained.told is not None
    arrays = {
        **_arrays(
            "train", trained.out_of_fold_sets(), trained.questions(data, train), trained.told
        ),
        **_arrays(
            "test",
            trained.sets(data, test),
            trained.questions(data, test),
            _told(trained, data, test),
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)


def _told(trained: TrainedRouter, data: RuleRun, test: NDArray[np.int64]) -> Scored:
    return scored(trained.network, trained.examples_at(data, test))


def _arrays(
    part: str, sets: "list[SetScores]", questions: NDArray[np.float64], said: Scored
) -> dict[str, NDArray[np.float64]]:
    arrays = {f"{part}/{name}": np.stack([getattr(own, name) for own in sets]) for name in _FIELDS}
    arrays[f"{part}/questions"] = questions
    arrays[f"{part}/heads"] = said.probabilities.double().numpy()
    return arrays


def _read(
    path: Path,
    seed: int,
    fold: int,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    members: int,
) -> ScoredFold:
    with np.load(path) as arrays:
        return ScoredFold(
            seed=seed,
            fold=fold,
            train=_part(arrays, "train", train, members),
            test=_part(arrays, "test", test, members),
        )


def _part(
    arrays: "np.lib.npyio.NpzFile", part: str, positions: NDArray[np.int64], members: int
) -> Part:
    columns = {name: arrays[f"{part}/{name}"] for name in _FIELDS}
    sets = [
        SetScores(**{name: values[place] for name, values in columns.items()})
        for place in range(len(columns["right"]))
    ]
    questions = arrays[f"{part}/questions"]
    return Part(
        positions=positions,
        sets=ScoredSets(sets=sets, questions=questions, members=members),
        heads=arrays[f"{part}/heads"],
    )
