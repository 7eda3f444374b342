"""Our router as a rule among the others. What it learns and how is plugged in here alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.records import question_hash
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
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import Fitted, Scored, fit_network, held_out_parts, scored
from pyramid_moa.training.hidden_choice import choose_hidden_key
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.set_scores import SetScores, score_sets

__all__ = ["OurRule", "Pool", "TrainedRouter"]


class Pool:
    """Answers of many models that a router may start from, whatever the pyramid."""

    def __init__(self, run: LabelledRun, *, content_hash: str) -> None:
        """Hold a run; its features are computed when they are first asked for."""
        self.run = run
        self.content_hash = content_hash
        self._hashes = [question_hash(query.question) for query in run.queries]
        self._examples: dict[tuple[str, ...], Examples] = {}
        self._networks: dict[str, RouterNetwork] = {}

    def network(self, config: TrainConfig, held_out: HeldOut) -> RouterNetwork:
        """A router of all its models, fitted on the questions that are not held out."""
        groups = groups_for(config.groups, self.run.grader)
        if groups not in self._examples:
            spec = FeatureSpec(groups=groups)
            self._examples[groups] = gather_examples(self.run, spec, hidden_key=None)
        positions = [i for i, text in enumerate(self._hashes) if not held_out(text)]
        key = f"{config} {positions}"
        if key not in self._networks:
            examples = self._examples[groups].take(positions)
            self._networks[key] = fit_network(examples, config).network
        return self._networks[key]


@dataclass(frozen=True, kw_only=True)
class OurRule:
    """The router that `train` fits.

    Where all training queries are of one class it falls back on the vote rule's scores.

    Attributes:
        config: how it is trained; the seed is added to the benchmark's.
        pools: of which the first with a run's grader is started from, where there is any.
        name: in tables.
    """

    config: TrainConfig
    pools: Sequence[Pool] = ()
    name: str = "router"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        config = {k: v for k, v in asdict(self.config).items() if k != "tracking"}
        pools = [pool.content_hash for pool in self.pools]
        return config | {"code": source_hash(_sources()), "pools": pools}

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had, where there is a pool for it if it is to start from one."""
        graders = {pool.run.manifest.grader for pool in self.pools}
        grader = data.run.manifest.grader
        return f"no pool is graded by {grader}" if graders and grader not in graders else None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Train it."""
        trained = self.trained(data, train, seed, held_out)
        if trained is None:
            return FailureRule.fitted(data, _by_share(data, train), _by_share, fell_back=True)
        said = _ensemble_scores(data, train, trained.fitted.out_of_fold)
        return FailureRule.fitted(data, said, trained.ensemble_scores)

    def trained(
        self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut
    ) -> "TrainedRouter | None":
        """The router, trained once for all rules that ask it; None where there is nothing to learn.

        Args:
            data: the run.
            train: positions of the queries whose labels may be read.
            seed: of all that is drawn.
            held_out: whether a question, by its hash, is kept from this fit.
        """
        if len(np.unique(data.vote_fails[train])) < 2:
            return None
        key = choose_hidden_key(data.run, self.config.hidden_states, train.tolist())
        config = replace(self.config, hidden_states=key or "none", seed=self.config.seed + seed)
        grader = data.run.manifest.grader
        pool = next((one for one in self.pools if one.run.manifest.grader == grader), None)

        def make() -> TrainedRouter:
            start = pool.network(config, held_out) if pool is not None else None
            examples = _examples(data, config).take(train.tolist())
            return TrainedRouter(
                config=config,
                examples=examples,
                fitted=fit_network(examples, config, start=start),
            )

        digest = hashlib.sha256(train.tobytes()).hexdigest()
        start = None if pool is None else pool.content_hash
        return data.remember(f"router {config} {start} {digest}", make)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRouter:
    """A router fitted on some of a run's queries.

    Attributes:
        config: how.
        examples: what it was fitted on.
        fitted: the network, and what it says of those out of fold.
    """

    config: TrainConfig
    examples: Examples
    fitted: Fitted

    def ensemble_scores(self, data: RuleRun, positions: Positions) -> EnsembleScores:
        """Score other queries, everybody asked."""
        said = scored(self.fitted.network, self._others(data, positions))
        return _ensemble_scores(data, positions, said)

    def sets(self, data: RuleRun, positions: Positions) -> Sequence[SetScores]:
        """Score other queries, every set of members asked."""
        return score_sets(self.fitted.network, self._others(data, positions))

    def out_of_fold_sets(self) -> Sequence[SetScores]:
        """The same of the queries it was fitted on, by the networks that had left them out."""
        return score_sets(self.fitted.network, self.examples, self._held_out)

    def questions(self, data: RuleRun, positions: Positions) -> FloatArray:
        """Signs of questions, standardised as the network reads them, [n, Q]."""
        raw = _examples(data, self.config).question[positions]
        return self.fitted.network.standard_question(raw).double().numpy()

    @property
    def _held_out(self) -> torch.Tensor:
        seeds, seed = self.config.network.seeds, self.config.seed
        return held_out_parts(self.examples.questions, seeds=seeds, seed=seed)

    def _others(self, data: RuleRun, positions: Positions) -> Examples:
        return _examples(data, self.config).take(positions.tolist())


def _sources() -> list[Path]:
    """What fits the router."""
    training = Path(__file__).parent.parent
    fitting = ("config", "data_module", "draws", "examples", "fit", "hidden_choice", "module")
    scoring = ("set_scores",)
    return [
        *(training.parent / "router_model").glob("*.py"),
        *(training / f"{name}.py" for name in (*fitting, *scoring)),
        *Path(__file__).parent.glob("ours*.py"),
    ]


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
        key = None if config.hidden_states == "none" else config.hidden_states
        return gather_examples(data.run, spec, hidden_key=key)

    return data.remember(f"examples {config.groups} {config.hidden_states}", compute)


def _by_share(data: RuleRun, positions: Positions) -> EnsembleScores:
    return vote_scores_of(data, positions, 1.0 - data.share[positions])
