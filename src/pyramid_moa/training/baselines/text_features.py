"""Hashed n-grams of questions and answers: no vocabulary, so no fold can leak into another."""

from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.outcomes import FloatArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["answer_counts", "answer_numbers", "question_counts", "question_numbers"]

_WIDTH = 2**15


def question_counts(data: RuleRun) -> "csr_matrix":
    """Counts of words and pairs of words of each question, sparse [n, width]."""
    return data.remember("question counts", lambda: _counts(_questions(data)))


def answer_counts(data: RuleRun, member: int) -> "csr_matrix":
    """The same of a member's responses (its bare answers where there are no texts)."""
    return data.remember(f"answer counts {member}", lambda: _counts(_texts(data, member)))


def question_numbers(data: RuleRun) -> FloatArray:
    """Length, number of numerals and of sentences of each question, float [n, 3]."""
    return data.remember("question numbers", lambda: _numbers(_questions(data)))


def answer_numbers(data: RuleRun, member: int) -> FloatArray:
    """The same of a member's responses, and whether it answered at all, float [n, 4]."""

    def compute() -> FloatArray:
        answered = (data.clusters[:, member] >= 0).astype(np.float64)
        return np.column_stack([_numbers(_texts(data, member)), answered])

    return data.remember(f"answer numbers {member}", compute)


def _questions(data: RuleRun) -> list[str]:
    return [query.question for query in data.run.queries]


def _texts(data: RuleRun, member: int) -> list[str]:
    rows = data.run.generations[data.run.manifest.members[member]]
    return [row.response or row.answer or "" for row in rows]


def _counts(texts: list[str]) -> "csr_matrix":
    from sklearn.feature_extraction.text import HashingVectorizer

    vectoriser = HashingVectorizer(
        n_features=_WIDTH,
        ngram_range=(1, 2),
        token_pattern=r"\w+|[^\w\s]",
        alternate_sign=False,
        norm=None,
    )
    counts: csr_matrix = vectoriser.transform(texts)
    return counts


def _numbers(texts: list[str]) -> FloatArray:
    return np.array(
        [
            [
                np.log1p(len(text)),
                np.log1p(sum(any(c.isdigit() for c in word) for word in text.split())),
                np.log1p(text.count(".") + text.count("\n")),
            ]
            for text in texts
        ]
    )
