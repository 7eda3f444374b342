"""What the questions of a training look like, and where those that it does not know begin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.records import question_hash
from pyramid_moa.router_model.known_questions import (
    BUCKETS,
    PARTS,
    KnownQuestions,
    QuestionProfile,
    Rarity,
    question_profile,
)

__all__ = ["FALSE_ALARMS", "FEWEST", "fit_known_questions"]

FALSE_ALARMS = 0.01
"""The share of questions of the trained kind that is taken for others."""
FEWEST = math.ceil(1 / FALSE_ALARMS) - 1
"""With fewer questions no threshold keeps to that share."""
# Further ones would change the threshold by less than it is good for.
_MOST = 20_000
_FOLDS = 10
# Signs that hardly differ in training, such as brackets that no question has, still may a little.
_LEAST_DEVIATION = 0.1
_SHRINKAGE = 0.1
# Questions that are all alike must not make a hair's breadth a distance.
_LEAST_SPREAD = 1e-3


def fit_known_questions(questions: Sequence[str]) -> KnownQuestions | None:
    """Fit it to the texts of a training's questions; no label is looked at.

    Every question is also scored as one that was left out, with what the other nine tenths of them
    have in common. From these scores come the threshold and, with it, the share of false alarms:
    as many questions lie beyond as a conformal quantile allows (Vovk, Gammerman and Shafer 2005;
    across folds, Barber, Candès, Ramdas and Tibshirani 2021).

    Args:
        questions: in any order; the same one twice counts once.

    Returns:
        What they look like, or None where they are fewer than ``FEWEST``. The same questions give
        the same result, whatever their order.
    """
    # By hash, so that folds, and what is left out of too many, hang on nothing else.
    by_hash = {question_hash(question): question for question in questions}
    texts = [by_hash[name] for name in sorted(by_hash)][:_MOST]
    if len(texts) < FEWEST:
        return None
    profiles = [question_profile(text) for text in texts]
    counts = _counts(profiles)
    left_out = np.empty((len(profiles), len(PARTS)))
    for fold in range(_FOLDS):
        own = profiles[fold::_FOLDS]
        others = [profile for place, profile in enumerate(profiles) if place % _FOLDS != fold]
        rarity = _rarity(others, counts - _counts(own))
        left_out[fold::_FOLDS] = [rarity.parts(profile) for profile in own]
    middle, spread = _scale(left_out)
    beyond = ((left_out - middle) / spread).max(axis=1) > 1
    return KnownQuestions(
        rarity=_rarity(profiles, counts),
        middle=middle,
        spread=spread,
        questions=len(profiles),
        false_alarms=float(beyond.mean()),
    )


@dataclass(frozen=True, eq=False)
class _Counts:
    """In how many questions each bucket is found, int64 [B]."""

    words: NDArray[np.int64]
    letters: NDArray[np.int64]

    def __sub__(self, other: "_Counts") -> "_Counts":
        return _Counts(self.words - other.words, self.letters - other.letters)


def _counts(profiles: Sequence[QuestionProfile]) -> _Counts:
    # A profile has each bucket once, so that this counts questions.
    words = np.concatenate([profile.words for profile in profiles])
    letters = np.concatenate([profile.letters for profile in profiles])
    return _Counts(np.bincount(words, minlength=BUCKETS), np.bincount(letters, minlength=BUCKETS))


def _rarity(profiles: Sequence[QuestionProfile], counts: _Counts) -> Rarity:
    forms = np.array([profile.form for profile in profiles])
    centre = forms.mean(axis=0)
    scale = np.sqrt(forms.var(axis=0) + _LEAST_DEVIATION**2)
    standard = (forms - centre) / scale
    covariance = standard.T @ standard / len(standard)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(covariance))
    n = len(profiles)
    return Rarity(
        centre=centre,
        whitening=np.linalg.inv(np.linalg.cholesky(covariance)) / scale,
        # Krichevsky and Trofimov's half, so that nothing is impossible.
        words=_surprise(counts.words, n),
        letters=_surprise(counts.letters, n),
        absent=_surprise(n - counts.words, n),
    )


def _surprise(counts: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """-log of a probability, no finer than a checkpoint keeps it."""
    surprise = -np.log((counts + 0.5) / (n + 1))
    return surprise.astype(np.float32).astype(np.float64)


def _scale(left_out: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median of each part and what makes a distance of 1, float64 [4] each."""
    middle = np.median(left_out, axis=0)
    far = _quantile(left_out, FALSE_ALARMS / len(PARTS))
    spread = np.maximum(far - middle, _LEAST_SPREAD)
    furthest = ((left_out - middle) / spread).max(axis=1)
    return middle, spread * max(float(_quantile(furthest[:, None], FALSE_ALARMS)[0]), 1e-9)


def _quantile(scores: NDArray[np.float64], beyond: float) -> NDArray[np.float64]:
    """What a further question exceeds with a probability of at most ``beyond``, if there is such.

    Args:
        scores: [N, K].
        beyond: the probability.

    Returns:
        Of each column the conformal quantile; its largest value where N is too small, [K].
    """
    place = min(math.ceil((len(scores) + 1) * (1 - beyond)), len(scores))
    ordered: NDArray[np.float64] = np.sort(scores, axis=0)[place - 1]
    return ordered
