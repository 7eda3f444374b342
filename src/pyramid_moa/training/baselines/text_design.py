"""Texts into the columns of a linear model: weights and scales come from the fitted rows alone."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa.training.outcomes import FloatArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["TextDesign"]


class TextDesign:
    """TF-IDF, reduced to leading directions (LSA), beside standardised numbers."""

    def __init__(
        self, counts: "csr_matrix", numbers: FloatArray, *, directions: int, seed: int
    ) -> None:
        """Fit it.

        Args:
            counts: of n-grams, sparse [rows, width].
            numbers: float [rows, columns].
            directions: that are kept of the texts.
            seed: of the search for them.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        self._weights: Any = TfidfTransformer(sublinear_tf=True).fit(counts)
        self._reduce: Any = TruncatedSVD(
            min(directions, counts.shape[0] - 1), n_iter=3, random_state=seed
        )
        texts = self._reduce.fit_transform(self._weights.transform(counts))
        self._centre, self._scale = _standard(numbers)
        # One scale for all directions: the later ones are to stay as small as they are.
        self._spread = float(np.sqrt(np.mean(np.square(texts)))) or 1.0

    def columns(self, counts: "csr_matrix", numbers: FloatArray) -> FloatArray:
        """Lay out other rows, float [rows, directions + columns]."""
        texts = self._reduce.transform(self._weights.transform(counts)) / self._spread
        return np.column_stack([texts, (numbers - self._centre) / self._scale])


def _standard(numbers: FloatArray) -> tuple[FloatArray, FloatArray]:
    spread = numbers.std(axis=0)
    return numbers.mean(axis=0), np.where(spread > 0, spread, 1.0)
