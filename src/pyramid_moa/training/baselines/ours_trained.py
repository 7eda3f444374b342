"""A router fitted on some of a run's queries, and what it says of others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.training.baselines.predicted_failure import EnsembleScores
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import Scored, fit_network, held_out_parts, scored
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.set_scores import score_sets

__all__ = ["TrainedRouter", "examples_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRouter:
    """The router, and what it was fitted on.

    Attributes:
        config: how it was fitted.
        network: calibrated.
        labelled: positions of the queries that it was fitted on, int [n].
        examples: of those.
        told: what it says of them, each by the networks that had left it out; None where there are
            none, and the members are strangers to it.
    """

    config: TrainConfig
    network: RouterNetwork
    labelled: Positions
    examples: Examples
    told: Scored | None

    @classmethod
    def fit(
        cls,
        config: TrainConfig,
        labelled: Positions,
        examples: Examples,
        start: RouterNetwork | None,
    ) -> "TrainedRouter":
        """Fit one; without any labels it is what it would have started from.

        Args:
            config: how.
            labelled: positions of the queries, int [n].
            examples: of those.
            start: what it starts from, if anything.
        """
        told = None
        if start is not None and not len(labelled):
            network = start
        else:
            fitted = fit_network(examples, config, start=start)
            network, told = fitted.network, fitted.out_of_fold
        return cls(config=config, network=network, labelled=labelled, examples=examples, told=told)

    def ensemble_scores(self, data: RuleRun, positions: Positions) -> EnsembleScores:
        """Score other queries, everybody asked."""
        others = self.examples_at(data, positions)
        said = scored(self.network, others, strangers=self.told is None)
        return _ensemble_scores(data, positions, said)

    def out_of_fold(self, data: RuleRun, train: Positions) -> EnsembleScores:
        """Score queries of which some were fitted on: those by networks that had left them out."""
        if self.told is not None and len(self.labelled) == len(train):
            return _ensemble_scores(data, train, self.told)
        others = self.ensemble_scores(data, train)
        if self.told is not None:
            own = _ensemble_scores(data, self.labelled, self.told)
            places = np.isin(train, self.labelled)
            for name in ("p_fail", "answer", "p_vote_fails"):
                getattr(others, name)[places] = getattr(own, name)
        return others

    def sets(self, data: RuleRun, positions: Positions) -> Sequence[SetScores]:
        """Score other queries, every set of members asked."""
        return score_sets(self.network, self.examples_at(data, positions))

    def out_of_fold_sets(self) -> Sequence[SetScores]:
        """The same of the queries it was fitted on, by the networks that had left them out."""
        seeds, seed = self.config.network.seeds, self.config.seed
        held_out = held_out_parts(self.examples.questions, seeds=seeds, seed=seed)
        return score_sets(self.network, self.examples, held_out)

    def questions(self, data: RuleRun, positions: Positions) -> FloatArray:
        """Signs of questions, standardised as the network reads them, [n, Q]."""
        raw = examples_of(data, self.config).question[torch.from_numpy(positions)]
        return self.network.standard_question(raw).double().numpy()

    def examples_at(self, data: RuleRun, positions: Positions) -> Examples:
        """Examples of other queries."""
        others = examples_of(data, self.config).take(positions.tolist())
        # Strangers' hidden states are nothing to it.
        return others if self.told is not None else replace(others, hidden=())


def examples_of(data: RuleRun, config: TrainConfig) -> Examples:
    """Features of the whole run; labels are read of the queries that are taken for training.

    Args:
        data: the run.
        config: feature groups, verifier, and which hidden states: none, or a key.
    """

    def compute() -> Examples:
        spec = FeatureSpec(groups=groups_for(config.groups, data.run.grader))
        key = None if config.hidden_states == "none" else config.hidden_states
        verifier = Verifier.load(config.verifier) if config.verifier else None
        examples = gather_examples(data.run, spec, hidden_key=key, verifier=verifier)
        # The rules know members and an oracle; what mid oracles said is nothing to them.
        return (
            examples
            if examples.members == data.members
            else examples.of_members(range(data.members))
        )

    read = f"{config.groups} {config.hidden_states} {config.verifier}"
    return data.remember(f"examples {read}", compute)


def _ensemble_scores(data: RuleRun, positions: Positions, said: Scored) -> EnsembleScores:
    """What the router says; an ensemble without an answer fails for sure."""
    nobody = data.winner[positions] < 0
    return EnsembleScores(
        p_fail=np.where(nobody, 1.0, said.probabilities[:, 0].double().numpy()),
        answer=np.where(nobody, data.vote, said.choice.numpy()),
        p_vote_fails=np.where(nobody, 1.0, said.probabilities[:, 1].double().numpy()),
    )
