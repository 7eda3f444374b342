"""Router's scores of every question of a run, each by a router that has not seen it."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from pyramid_moa.atomic_files import written_aside
from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.head_to_head_cells import compute_cell
from pyramid_moa.training.head_to_head_folds import fold_of, folds_of
from pyramid_moa.training.replay import replay, score_run

__all__ = ["Scored", "by_router", "out_of_fold"]

_FOLDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What a parallel policy needs of n questions.

    Attributes:
        p_fails: probability that the ensemble's answer is wrong, [n].
        ensemble: whether it is right, bool [n].
        oracle: whether the oracle's is, bool [n].
        members_usd: what all members cost together, [n].
        oracle_usd: [n].
    """

    p_fails: np.ndarray
    ensemble: np.ndarray
    oracle: np.ndarray
    members_usd: np.ndarray
    oracle_usd: np.ndarray

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.p_fails)

    def take(self, places: np.ndarray) -> "Scored":
        """Some of them."""
        return Scored(**{item.name: getattr(self, item.name)[places] for item in fields(Scored)})

    def save(self, path: Path) -> None:
        """Write them under their final name in one step."""
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Scored":
        """Read what was saved."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{item.name: arrays[item.name] for item in fields(cls)})


def out_of_fold(folder: Path, kept: Path) -> Scored:
    """Cross-validate the router on a run, once; five folds, seed 0.

    Args:
        folder: the run.
        kept: the file that the scores are kept in.
    """
    if kept.is_file():
        return Scored.load(kept)
    data = rule_run(read_labelled_run(folder))
    division = folds_of(data.hashes, folds=_FOLDS, seed=0, name=folder.name)
    p_fails, ensemble = np.full(data.n, np.nan), np.zeros(data.n, dtype=bool)
    for fold in range(_FOLDS):
        train, test = np.flatnonzero(division != fold), np.flatnonzero(division == fold)
        cell = compute_cell(
            OurRule(config=TrainConfig()),
            data,
            train,
            test,
            0,
            lambda text, fold=fold: fold_of(text, folds=_FOLDS, seed=0) == fold,
        )
        p_fails[test], ensemble[test] = cell.p_own_fails, ~cell.own_fails
    scored = Scored(
        p_fails=p_fails,
        ensemble=ensemble,
        oracle=data.correct[:, data.oracle],
        members_usd=data.cost[:, : data.members].sum(axis=1),
        oracle_usd=data.cost[:, data.oracle],
    )
    scored.save(kept)
    return scored


def by_router(run: LabelledRun, router: Router, split: str) -> Scored:
    """Score a split of a run by a router that was fitted on other questions."""
    positions = run.of_split(split)
    scores = score_run(run, router, positions)
    point = router.card.operating_point(policy="parallel")
    rows = replay(run, positions, scores, point)
    return Scored(
        p_fails=rows.p_ensemble_fails,
        ensemble=rows.ensemble_correct,
        oracle=rows.oracle_correct,
        members_usd=rows.member_cost_usd.sum(axis=1),
        oracle_usd=rows.oracle_cost_usd,
    )
