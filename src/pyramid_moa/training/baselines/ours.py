"""Our router as a rule among the others. What it learns and how is plugged in here alone."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.training.baselines.predicted_failure import (
    EnsembleScores,
    FailureRule,
    vote_scores_of,
)
from pyramid_moa.training.baselines.rule import FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.source_hash import source_hash
from pyramid_moa.training.baselines.starts import Start
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import Scored, fit_network, nothing_to_learn, scored
from pyramid_moa.training.train import choose_hidden_key

__all__ = ["OurRule"]


@dataclass(frozen=True, kw_only=True)
class OurRule:
    """The router that `train` fits.

    Where there is nothing to learn (one class, too few labels) and nothing to start from, it falls
    back on the vote rule's scores.

    Attributes:
        config: how it is trained; the seed is added to the benchmark's.
        starts: the first that a run's router can start from is started from, where there is any.
        labels: how many of the training queries have a label; all where it is None, and where
            there are fewer. Without any, what is started from reads the members as strangers.
        name: in tables.
    """

    config: TrainConfig
    starts: Sequence[Start] = ()
    labels: int | None = None
    name: str = "router"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        config = {k: v for k, v in asdict(self.config).items() if k != "tracking"}
        return config | {
            "code": source_hash(_sources()),
            "labels": self.labels,
            "starts": [start.content_hash for start in self.starts],
        }

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had, where it can start from something if it is to."""
        reasons = [start.absent(data, self.config) for start in self.starts]
        return reasons[0] if reasons and None not in reasons else None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Train it."""
        config = replace(self.config, seed=self.config.seed + seed)
        fitting = [start for start in self.starts if start.absent(data, config) is None]
        labelled = train[_first_labelled(data, train, self.labels, seed)]
        if not fitting and nothing_to_learn(_examples(data, config).take(labelled.tolist())):
            return FailureRule.fitted(data, _by_share(data, train), _by_share, fell_back=True)
        start = fitting[0].network(config, held_out) if fitting else None
        return FailureRule.fitted(data, *_trained(data, train, labelled, config, start))


def _first_labelled(
    data: RuleRun, train: Positions, labels: int | None, seed: int
) -> NDArray[np.int64]:
    """Places in ``train`` of the queries that have a label, rising.

    They follow from the questions and the seed, so that a few labels are among the many.
    """
    if labels is None or labels >= len(train):
        return np.arange(len(train))
    texts = [f"labelled {seed} {data.hashes[position]}" for position in train]
    order = sorted(range(len(train)), key=lambda i: hashlib.sha256(texts[i].encode()).digest())
    return np.array(sorted(order[:labels]), dtype=np.int64)


def _sources() -> list[Path]:
    """What fits the router."""
    training = Path(__file__).parent.parent
    fitting = (
        "config",
        "data_module",
        "draws",
        "examples",
        "fit",
        "module",
        "new_features",
        "train",
    )
    return [
        *(training.parent / "router_model").glob("*.py"),
        *(training / f"{name}.py" for name in fitting),
        Path(__file__),
        Path(__file__).with_name("starts.py"),
    ]


def _trained(
    data: RuleRun,
    train: Positions,
    labelled: Positions,
    config: TrainConfig,
    start: RouterNetwork | None,
) -> tuple[EnsembleScores, Callable[[RuleRun, Positions], EnsembleScores]]:
    """Fit a router: scores of the training queries, out of fold, and what scores others."""
    if start is not None and not len(labelled):
        network, strangers = start, True
    else:
        fitted = fit_network(_examples(data, config).take(labelled.tolist()), config, start=start)
        network, strangers = fitted.network, False

    def score(data: RuleRun, positions: Positions) -> EnsembleScores:
        examples = _examples(data, config).take(positions.tolist())
        return _ensemble_scores(data, positions, scored(network, examples, strangers=strangers))

    if len(labelled) == len(train):
        return _ensemble_scores(data, train, fitted.out_of_fold), score
    told = score(data, train)
    if not len(labelled):
        return told, score
    own, places = _ensemble_scores(data, labelled, fitted.out_of_fold), np.isin(train, labelled)
    for name in ("p_fail", "answer", "p_vote_fails"):
        getattr(told, name)[places] = getattr(own, name)
    return told, score


def _ensemble_scores(data: RuleRun, positions: Positions, said: Scored) -> EnsembleScores:
    """What the router says; an ensemble without an answer fails for sure."""
    nobody = data.winner[positions] < 0
    return EnsembleScores(
        p_fail=np.where(nobody, 1.0, said.probabilities[:, 0].double().numpy()),
        answer=np.where(nobody, data.vote, said.choice.numpy()),
        p_vote_fails=np.where(nobody, 1.0, said.probabilities[:, 1].double().numpy()),
    )


def _examples(data: RuleRun, config: TrainConfig) -> Examples:
    """Features of the whole run; labels are read of the queries that are taken for training."""

    def compute() -> Examples:
        spec = FeatureSpec(groups=groups_for(config.groups, data.run.grader))
        key = choose_hidden_key(data.run, config.hidden_states)
        return gather_examples(data.run, spec, hidden_key=key)

    return data.remember(f"examples {config.groups} {config.hidden_states}", compute)


def _by_share(data: RuleRun, positions: Positions) -> EnsembleScores:
    return vote_scores_of(data, positions, 1.0 - data.share[positions])
