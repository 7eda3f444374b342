"""Out-of-fold scores: every query is scored by a router that was not fitted on it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import RunFolderError
from pyramid_moa.progress import Progress
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.policy import Scores
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.fit import fit_network, scored
from pyramid_moa.training.train import choose_hidden_key

__all__ = ["Fold", "cross_validated_scores", "question_folds"]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Positions of queries.

    Attributes:
        train: fitted on.
        test: scored.
    """

    train: list[int]
    test: list[int]


def question_folds(run: LabelledRun, *, folds: int, seed: int) -> Iterator[Fold]:
    """Divide by question: the same question never stands in two folds.

    Each fold has its share of the ensemble's failures. Otherwise a fold with more of them would
    be scored by a router that has seen fewer, and pooled scores would rank the folds against the
    truth.

    Args:
        run: the labelled data.
        folds: how many.
        seed: of the division.

    Raises:
        RunFolderError: fewer than ten questions a fold.
    """
    groups: dict[str, list[int]] = {}
    for index, query in enumerate(run.queries):
        groups.setdefault(question_hash(query.question), []).append(index)
    if folds < 2 or len(groups) < 10 * folds:
        raise RunFolderError(
            f"expected 2 folds or more and at least {10 * folds} different questions for {folds}, "
            f"found {len(groups)}"
        )
    members = list(groups.values())
    shuffled = np.random.default_rng(seed).permutation(len(members))
    order = sorted(shuffled.tolist(), key=lambda g: run.labels[members[g][0]].vote_correct)
    for fold in range(folds):
        test = {group for position, group in enumerate(order) if position % folds == fold}
        yield Fold(
            train=[i for g, own in enumerate(members) if g not in test for i in own],
            test=[i for g, own in enumerate(members) if g in test for i in own],
        )


def cross_validated_scores(
    run: LabelledRun, config: TrainConfig, *, folds: int = 5, seed: int = 0
) -> list[Scores]:
    """Score every query of a run by a router fitted on the other folds.

    Args:
        run: the labelled data; its splits play no part.
        config: how each router is fitted.
        folds: how many.
        seed: of the division into folds; the fit has its own in ``config``.

    Returns:
        One entry a query, in the order of the run.
    """
    spec = FeatureSpec(groups=groups_for(config.groups, run.grader))
    key = choose_hidden_key(run, config.hidden_states)
    examples = gather_examples(run, spec, hidden_key=key)
    scores: list[Scores | None] = [None] * len(examples)
    with Progress("cross-validation", total=folds) as progress:
        for number, fold in enumerate(question_folds(run, folds=folds, seed=seed)):
            fitted = replace(config, seed=config.seed + number)
            network = fit_network(examples.take(fold.train), fitted).network
            said = scored(network, examples.take(fold.test))
            votes = [run.labels[index].vote_answer for index in fold.test]
            for index, score in zip(fold.test, said.scores(votes), strict=True):
                scores[index] = score
            progress.advance()
    return [score for score in scores if score is not None]
