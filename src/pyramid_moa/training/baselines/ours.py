"""Our router as a rule among the others. What it learns and how is plugged in here alone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.training.baselines.predicted_failure import (
    EnsembleScores,
    FailureRule,
    vote_scores_of,
)
from pyramid_moa.training.baselines.rule import FittedRule
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.source_hash import source_hash
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import fit_network
from pyramid_moa.training.train import choose_hidden_key

__all__ = ["OurRule"]


@dataclass(frozen=True, kw_only=True)
class OurRule:
    """The router that `train` fits.

    Where all training queries are of one class it falls back on the vote rule's scores.

    Attributes:
        config: how it is trained; the seed is added to the benchmark's.
    """

    config: TrainConfig

    name = "router"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        config = {k: v for k, v in asdict(self.config).items() if k != "tracking"}
        return config | {"code": source_hash(_sources())}

    def absent(self, data: RuleRun) -> str | None:
        """It can always be had."""
        return None

    def fit(self, data: RuleRun, train: Positions, seed: int) -> FittedRule:
        """Train it."""
        if len(np.unique(data.vote_fails[train])) < 2:
            return FailureRule.fitted(data, _by_share(data, train), _by_share, fell_back=True)
        config = replace(self.config, seed=self.config.seed + seed)
        return FailureRule.fitted(data, *_trained(data, train, config))


def _sources() -> list[Path]:
    """What fits the router."""
    training = Path(__file__).parent.parent
    fitting = ("config", "data_module", "examples", "fit", "module", "train")
    return [
        *(training.parent / "router_model").glob("*.py"),
        *(training / f"{name}.py" for name in fitting),
        Path(__file__),
    ]


def _trained(
    data: RuleRun, train: Positions, config: TrainConfig
) -> tuple[EnsembleScores, Callable[[RuleRun, Positions], EnsembleScores]]:
    """Fit a router: out-of-fold scores of the training queries, and what scores others."""
    fitted = fit_network(_examples(data, config).take(train.tolist()), config)

    def score(data: RuleRun, positions: Positions) -> EnsembleScores:
        test = _examples(data, config).take(positions.tolist())
        with torch.inference_mode():
            inputs = fitted.network.many_inputs(test.features, test.hidden)
            p_fail = fitted.network.probabilities(inputs)[:, 0]
        return vote_scores_of(data, positions, p_fail.double().numpy())

    out_of_fold = fitted.out_of_fold[:, 0].double().numpy()
    return vote_scores_of(data, train, out_of_fold), score


def _examples(data: RuleRun, config: TrainConfig) -> Examples:
    """Features of the whole run; labels are read of the queries that are taken for training."""

    def compute() -> Examples:
        spec = FeatureSpec(
            members=tuple(data.run.manifest.members),
            groups=groups_for(config.groups, data.run.grader),
        )
        key = choose_hidden_key(data.run, config.hidden_states)
        return gather_examples(data.run, spec, hidden_key=key)

    return data.remember(f"examples {config.groups} {config.hidden_states}", compute)


def _by_share(data: RuleRun, positions: Positions) -> EnsembleScores:
    return vote_scores_of(data, positions, 1.0 - data.share[positions])
