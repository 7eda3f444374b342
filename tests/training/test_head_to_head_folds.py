"""A question's fold."""

from collections import Counter

import pytest

from pyramid_moa.errors import RunFolderError
from pyramid_moa.records import question_hash
from pyramid_moa.training.head_to_head_folds import fold_of, folds_of

HASHES = [question_hash(f"question {number}") for number in range(500)]


def test_the_same_question_has_the_same_fold_in_every_run():
    whole = dict(zip(HASHES, folds_of(HASHES, folds=5, seed=0, name="run"), strict=True))
    some = [*HASHES[::-3], *HASHES[::-3]]
    assert [whole[text] for text in some] == folds_of(some, folds=5, seed=0, name="r").tolist()


def test_folds_are_about_equal_and_the_seed_moves_them():
    sizes = Counter(fold_of(text, folds=5, seed=0) for text in HASHES)
    assert sorted(sizes) == [0, 1, 2, 3, 4]
    assert max(sizes.values()) < 1.5 * min(sizes.values())
    moved = sum(fold_of(h, folds=5, seed=0) != fold_of(h, folds=5, seed=1) for h in HASHES)
    assert 0.7 < moved / len(HASHES) < 0.9  # four of five by chance


def test_too_few_questions():
    with pytest.raises(RunFolderError, match="run: expected 2 folds or more with 10 different"):
        folds_of(HASHES[:50], folds=5, seed=0, name="run")
    with pytest.raises(RunFolderError, match="2 folds or more"):
        folds_of(HASHES, folds=1, seed=0, name="run")
    with pytest.raises(RunFolderError, match="found 20 questions"):
        folds_of(HASHES[:20] * 20, folds=5, seed=0, name="run")
