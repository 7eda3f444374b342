"""Out-of-fold scores."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.training.cross_validation import cross_validated_scores, question_folds
from synthetic import MEMBERS, quick_config


@pytest.fixture(scope="module")
def run(labelled_run):
    return read_labelled_run(labelled_run)


def repeated(run):
    """Every question three times, in other spacing."""
    queries = [
        replace(query, question=f" {run.queries[index // 3].question}  " + " " * (index % 3))
        for index, query in enumerate(run.queries)
    ]
    return replace(run, queries=queries)


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_disjoint_by_question(run, folds):
    for data in (run, repeated(run)):
        tested = []
        for fold in question_folds(data, folds=folds, seed=0):
            assert sorted([*fold.train, *fold.test]) == list(range(len(data.queries)))
            known = {" ".join(data.queries[i].question.split()) for i in fold.train}
            asked = {" ".join(data.queries[i].question.split()) for i in fold.test}
            assert not known & asked
            tested += fold.test
        assert sorted(tested) == list(range(len(data.queries)))


def test_every_fold_has_its_share_of_failures(run):
    rate = np.mean([not label.vote_correct for label in run.labels])
    for fold in question_folds(run, folds=5, seed=0):
        own = np.mean([not run.labels[i].vote_correct for i in fold.test])
        assert abs(own - rate) <= 1.5 / len(fold.test)


def test_the_seed_decides_the_folds(run):
    def tests(seed):
        return [fold.test for fold in question_folds(run, folds=3, seed=seed)]

    assert tests(1) == tests(1) != tests(2)


@pytest.mark.parametrize("folds", [1, 25])
def test_too_few_questions(run, folds):
    with pytest.raises(RunFolderError, match="different questions"):
        list(question_folds(run, folds=folds, seed=0))


def test_scores_are_of_networks_that_have_not_seen_the_query(run, monkeypatch):
    """Whatever the labels of a fold are, its own scores do not depend on them."""
    config = quick_config()
    folds = list(question_folds(run, folds=3, seed=0))
    scores = cross_validated_scores(run, config, folds=3, seed=0)
    assert len(scores) == len(run.queries)
    monkeypatch.setattr(
        "pyramid_moa.training.cross_validation.question_folds", lambda *_, **__: iter(folds)
    )
    own = set(folds[1].test)
    labels = [
        replace(label, oracle_correct=not label.oracle_correct) if i in own else label
        for i, label in enumerate(run.labels)
    ]
    generations = {
        name: [
            replace(row, correct=not row.correct) if i in own else row for i, row in enumerate(rows)
        ]
        for name, rows in run.generations.items()
    }
    other = replace(run, labels=labels, generations=generations)
    again = cross_validated_scores(other, config, folds=3, seed=0)
    assert [again[i] for i in folds[1].test] == [scores[i] for i in folds[1].test]
    assert [again[i] for i in folds[0].test] != [scores[i] for i in folds[0].test]


def test_they_beat_agreement_where_there_is_more_to_see(run):
    scores = cross_validated_scores(run, quick_config(), folds=3, seed=0)
    failed = [not label.vote_correct for label in run.labels]
    agreement = roc_auc_score(failed, [-label.vote_share for label in run.labels])
    assert roc_auc_score(failed, [s.p_vote_fails for s in scores]) > agreement
    nobody = [i for i, label in enumerate(run.labels) if label.vote_answer is None]
    assert nobody == [7, 8]
    assert [scores[i].p_ensemble_fails for i in nobody] == [1.0, 1.0]
    assert [scores[i].choice for i in nobody] == [None, None]
    chosen = [
        score.choice is not None and run.generations[MEMBERS[score.choice]][i].correct
        for i, score in enumerate(scores)
    ]
    assert np.mean(chosen) >= 1 - np.mean(failed)  # who is chosen is right as often as the vote
