"""The division of queries into train, validation, calibration and test."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pyramid_moa.records import Query, question_hash

__all__ = ["assign_splits"]

# Shares in hundredths, in the order in which they are cut off the interval from 0 to 1.
_SHARES = (("train", 50), ("validation", 15), ("calibration", 15), ("test", 20))


def assign_splits(
    queries: Iterable[Query], *, all_in: str | None = None, has_test: bool | None = None
) -> Iterator[Query]:
    """Give every query its split.

    The split follows from the question alone, so that the same question lands in the same split
    whatever data set it comes with and in whatever order. The first eight bytes of its hash, as a
    number u from 0 to 1, decide: below 0.50 train (for fitting), below 0.65 validation (early
    stopping, choices), below 0.80 calibration (thresholds and promises only), otherwise test.

    A data set that brings its own test set (at least one query has the split ``test``) keeps it.
    The queries whose split is None or ``train`` are then divided among the first three in the same
    proportions: u is stretched so that 50/80 are train, 15/80 validation and 15/80 calibration. A
    data set in which no query says ``test`` is divided into all four, its ``train`` included.
    Any other split is kept as it is.

    Args:
        queries: the data set. Without ``has_test`` it has to be one that can be gone over twice.
        all_in: put every query into this split instead.
        has_test: whether any query has the split ``test``; None has them looked through for it.

    Returns:
        The queries in the same order, each with a split, as they are asked for.
    """
    if all_in is not None:
        return (replace(query, split=all_in) for query in queries)
    if has_test is None:
        has_test = any(query.split == "test" for query in queries)
    shares = _SHARES[:-1] if has_test else _SHARES
    return (
        replace(query, split=_split_of(query.question, shares))
        if query.split in (None, "train")
        else query
        for query in queries
    )


def _split_of(question: str, shares: Sequence[tuple[str, int]]) -> str:
    """Look up the part of the interval in which a question's hash falls."""
    # In whole numbers: position / 2**64 is u, and no rounding can move a border.
    position = int(question_hash(question)[:16], 16) * sum(share for _, share in shares)
    border = 0
    for name, share in shares[:-1]:
        border += share
        if position < border << 64:
            return name
    return shares[-1][0]
