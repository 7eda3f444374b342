"""Our router as a rule among the others. What it learns and how is plugged in here alone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.router_model.verifier_files import read_card
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
from pyramid_moa.training.fit import Scored, fit_network, scored
from pyramid_moa.training.train import choose_hidden_key

__all__ = ["OurRule", "Pool", "run_examples"]


class Pool:
    """Answers of many models that a router may start from, whatever the pyramid."""

    def __init__(self, run: LabelledRun, *, content_hash: str) -> None:
        """Hold a run; its features are computed when they are first asked for."""
        self.run = run
        self.content_hash = content_hash
        self._hashes = [question_hash(query.question) for query in run.queries]
        self._examples: dict[tuple[object, ...], Examples] = {}
        self._networks: dict[str, RouterNetwork] = {}

    def network(self, config: TrainConfig, held_out: HeldOut) -> RouterNetwork:
        """A router of all its models, fitted on the questions that are not held out."""
        groups = groups_for(config.groups, self.run.grader)
        read = (groups, config.verifier)
        if read not in self._examples:
            spec = FeatureSpec(groups=groups)
            self._examples[read] = gather_examples(
                self.run, spec, hidden_key=None, verifier=_verifier(config)
            )
        positions = [i for i, text in enumerate(self._hashes) if not held_out(text)]
        key = f"{config} {positions}"
        if key not in self._networks:
            examples = self._examples[read].take(positions)
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
        if self.config.verifier:
            _, config["verifier"] = read_card(Path(self.config.verifier))
        return config | {"code": source_hash(_sources()), "pools": pools}

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had, where there is a pool for it if it is to start from one."""
        graders = {pool.run.manifest.grader for pool in self.pools}
        grader = data.run.manifest.grader
        return f"no pool is graded by {grader}" if graders and grader not in graders else None

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Train it."""
        if len(np.unique(data.vote_fails[train])) < 2:
            return FailureRule.fitted(data, _by_share(data, train), _by_share, fell_back=True)
        config = replace(self.config, seed=self.config.seed + seed)
        grader = data.run.manifest.grader
        pool = next((one for one in self.pools if one.run.manifest.grader == grader), None)
        start = pool.network(config, held_out) if pool is not None else None
        return FailureRule.fitted(data, *_trained(data, train, config, start))


def _sources() -> list[Path]:
    """What fits the router."""
    training = Path(__file__).parent.parent
    fitting = ("config", "data_module", "draws", "examples", "fit", "module", "train")
    return [
        *(training.parent / "router_model").glob("*.py"),
        *(training / f"{name}.py" for name in fitting),
        Path(__file__),
    ]


def _trained(
    data: RuleRun, train: Positions, config: TrainConfig, start: RouterNetwork | None
) -> tuple[EnsembleScores, Callable[[RuleRun, Positions], EnsembleScores]]:
    """Fit a router: out-of-fold scores of the training queries, and what scores others."""
    fitted = fit_network(run_examples(data, config).take(train.tolist()), config, start=start)

    def score(data: RuleRun, positions: Positions) -> EnsembleScores:
        test = run_examples(data, config).take(positions.tolist())
        return _ensemble_scores(data, positions, scored(fitted.network, test))

    return _ensemble_scores(data, train, fitted.out_of_fold), score


def _ensemble_scores(data: RuleRun, positions: Positions, said: Scored) -> EnsembleScores:
    """What the router says; an ensemble without an answer fails for sure."""
    nobody = data.winner[positions] < 0
    return EnsembleScores(
        p_fail=np.where(nobody, 1.0, said.probabilities[:, 0].double().numpy()),
        answer=np.where(nobody, data.vote, said.choice.numpy()),
        p_vote_fails=np.where(nobody, 1.0, said.probabilities[:, 1].double().numpy()),
    )


def run_examples(data: RuleRun, config: TrainConfig) -> Examples:
    """Features of the whole run; labels are read of the queries that are taken for training."""

    def compute() -> Examples:
        spec = FeatureSpec(groups=groups_for(config.groups, data.run.grader))
        key = choose_hidden_key(data.run, config.hidden_states)
        return gather_examples(data.run, spec, hidden_key=key, verifier=_verifier(config))

    read = f"{config.groups} {config.hidden_states} {config.verifier}"
    return data.remember(f"examples {read}", compute)


def _verifier(config: TrainConfig) -> Verifier | None:
    return Verifier.load(config.verifier) if config.verifier else None


def _by_share(data: RuleRun, positions: Positions) -> EnsembleScores:
    return vote_scores_of(data, positions, 1.0 - data.share[positions])
