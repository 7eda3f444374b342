"""Logistic regression whose strength of regularisation is chosen by cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pyramid_moa.training.baselines.inner_folds import InnerFold, out_of_fold
from pyramid_moa.training.baselines.rule_run import Positions
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["STRENGTHS", "TunedLogistic", "tuned_logistic"]

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the penalty (scikit-learn's C) that are tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedLogistic:
    """A fitted model.

    Attributes:
        out_of_fold: probabilities of the fitted rows, each by a fit that had left it out, [n].
        strength: the C that was chosen; nan where there was one class and nothing to fit.
    """

    out_of_fold: FloatArray
    strength: float
    _model: Any

    def predict(self, columns: FloatArray) -> FloatArray:
        """Probabilities of other rows, [rows]."""
        return _predict(self._model, columns)


def tuned_logistic(
    columns: FloatArray, labels: BoolArray, folds: Sequence[InnerFold]
) -> TunedLogistic:
    """Fit the strength with the least out-of-fold log-loss.

    With one class among the labels it is the constant share (k + 1/2) / (n + 1).

    Args:
        columns: float [n, d].
        labels: bool [n].
        folds: of the n rows.
    """
    candidates = []
    for strength in STRENGTHS:
        predicted = out_of_fold(
            folds,
            partial(_predict_held, columns, labels, strength),
            len(labels),
        )
        sure = np.where(labels, predicted, 1.0 - predicted)
        candidates.append((float(-np.mean(np.log(np.maximum(sure, 1e-9)))), strength, predicted))
    _, strength, predicted = min(candidates, key=lambda candidate: candidate[:2])
    single = len(np.unique(labels)) < 2
    return TunedLogistic(
        out_of_fold=predicted,
        strength=float("nan") if single else strength,
        _model=_fit(columns, labels, strength),
    )


def _predict_held(
    columns: FloatArray, labels: BoolArray, strength: float, fitted: Positions, held: Positions
) -> FloatArray:
    return _predict(_fit(columns[fitted], labels[fitted], strength), columns[held])


def _fit(columns: FloatArray, labels: BoolArray, strength: float) -> Any:  # noqa: ANN401 - or a share
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return (labels.sum() + 0.5) / (len(labels) + 1.0)
    return LogisticRegression(C=strength, max_iter=500).fit(columns, labels)


def _predict(model: Any, columns: FloatArray) -> FloatArray:  # noqa: ANN401 - or a share
    if isinstance(model, float):
        return np.full(len(columns), model)
    probabilities: FloatArray = model.predict_proba(columns)[:, 1]
    return probabilities
