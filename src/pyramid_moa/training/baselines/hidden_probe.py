"""A probe on hidden states alone (SharedTrunkNet-like)."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pyramid_moa.router_model.calibration import fit_platt
from pyramid_moa.router_model.hidden_rows import float_rows, spans
from pyramid_moa.training.baselines.inner_folds import inner_folds
from pyramid_moa.training.baselines.predicted_failure import (
    EnsembleScores,
    FailureRule,
    vote_scores_of,
)
from pyramid_moa.training.baselines.rule import FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.trunk import train_trunks
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["HiddenProbeRule"]


@dataclass(frozen=True, kw_only=True)
class HiddenProbeRule:
    """P(the vote fails) from all members' hidden states: scaler, PCA, shared trunk, two heads.

    Source: "LLM Router: Prefill is All You Need" (arXiv 2603.20895): two hidden layers of 256 and
    128, dropout .3 and .2, Adam at 1e-3 with weight decay 1e-4, patience 15, ten seeds of which
    the best five are averaged. Every part of the training queries is left out by some of the seeds,
    which stops these early and gives the out-of-fold scores that calibrate and fix the dial.
    The hidden state (layer and pooling) is the one with the least held-out loss.

    Attributes:
        components: principal components of all members' states together.
        seeds: networks that are trained.
        kept: networks that are averaged.
    """

    components: int = 64
    seeds: int = 10
    kept: int = 5

    name = "hidden-probe"

    def settings(self) -> dict[str, Any]:
        """All that decides how it is fitted."""
        return asdict(self)

    def absent(self, data: RuleRun) -> str | None:
        """It needs a hidden state of every member."""
        return None if data.run.hidden_keys else "there are no hidden states of all members"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Fit one probe a hidden state and keep the best."""
        fits = [self._fit(data, train, key, seed) for key in data.run.hidden_keys]
        _, rule = min(fits, key=lambda fit: fit[0])
        return rule

    def _fit(
        self, data: RuleRun, train: Positions, key: str, seed: int
    ) -> tuple[float, FailureRule]:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        states = _states(data, train, key)
        scaler = StandardScaler().fit(states)
        reduce = PCA(min(self.components, *states.shape), random_state=seed)
        reduce.fit(scaler.transform(states))
        spread = np.sqrt(np.maximum(reduce.explained_variance_, 1e-12)).mean()

        def inputs(data: RuleRun, positions: Positions) -> torch.Tensor:
            reduced = reduce.transform(scaler.transform(_states(data, positions, key))) / spread
            return torch.from_numpy(reduced).float()

        fails = torch.from_numpy(data.vote_fails[train]).float()
        labels = torch.stack(
            [fails, torch.from_numpy(data.correct[train, data.oracle]).float()], dim=1
        )
        folds = inner_folds(data, train, seed)
        held_out = torch.zeros(len(train), self.seeds, dtype=torch.bool)
        for number in range(self.seeds):
            held_out[folds[number % len(folds)][1], number] = True
        own = inputs(data, train)
        trunks = train_trunks(own, labels, held_out, seed=seed)
        logits = torch.logit(trunks.probabilities(own)[..., 0], eps=1e-6)  # [S, n]
        left_out = (logits * held_out.T).sum(dim=0) / held_out.sum(dim=1)
        slope, offset = fit_platt(left_out, fails)
        best = torch.argsort(trunks.loss)[: self.kept]

        def score(data: RuleRun, positions: Positions) -> EnsembleScores:
            p = trunks.probabilities(inputs(data, positions))[best, :, 0]
            mean = torch.logit(p, eps=1e-6).mean(dim=0)
            return vote_scores_of(data, positions, _sigmoid(slope * mean + offset))

        out_of_fold = vote_scores_of(data, train, _sigmoid(slope * left_out + offset))
        single = len(np.unique(data.vote_fails[train])) < 2
        rule = FailureRule.fitted(data, out_of_fold, score, fell_back=single)
        return float(trunks.loss.mean()), rule


def _states(data: RuleRun, positions: Positions, key: str) -> FloatArray:
    """All members' states side by side, float [n, sum of widths]."""

    def gather() -> FloatArray:
        states = data.run.hidden_states
        return np.hstack(
            [
                np.concatenate(
                    [np.asarray(float_rows(states[name][key], s)) for s in spans(data.n)]
                )
                for name in data.run.manifest.members
            ]
        )

    return data.remember(f"states {key}", gather)[positions]


def _sigmoid(values: torch.Tensor) -> FloatArray:
    p: FloatArray = torch.sigmoid(values).double().numpy()
    return p
