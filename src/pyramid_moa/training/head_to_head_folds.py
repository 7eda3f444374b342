"""Folds of the benchmark: a question's fold follows from the seed and its text alone."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pyramid_moa.errors import RunFolderError
from pyramid_moa.training.baselines.rule_run import Positions

__all__ = ["FEWEST_QUESTIONS", "fold_of", "folds_of"]

FEWEST_QUESTIONS = 10
"""Different questions that every fold has at least."""


def fold_of(question_hash: str, *, folds: int, seed: int) -> int:
    """The fold of a question, whatever run it stands in.

    Args:
        question_hash: of its text.
        folds: how many there are.
        seed: of the division.
    """
    digest = hashlib.sha256(f"{seed} {question_hash}".encode()).digest()
    return int.from_bytes(digest[:8]) * folds >> 64


def folds_of(hashes: Sequence[str], *, folds: int, seed: int, name: str) -> Positions:
    """The fold of each query, int [n].

    Args:
        hashes: of the questions.
        folds: how many.
        seed: of the division.
        name: of the run, for the error.

    Raises:
        RunFolderError: fewer than two folds, or a fold with too few questions.
    """
    own = {text: fold_of(text, folds=max(folds, 1), seed=seed) for text in set(hashes)}
    sizes = np.bincount(list(own.values()), minlength=max(folds, 1))
    if folds < 2 or sizes.min() < FEWEST_QUESTIONS:
        raise RunFolderError(
            f"{name}: expected 2 folds or more with {FEWEST_QUESTIONS} different questions or more "
            f"each, found {len(own)} questions for {folds} folds, {sizes.min()} in the smallest; "
            "label more questions, or ask for fewer folds"
        )
    return np.array([own[text] for text in hashes])
