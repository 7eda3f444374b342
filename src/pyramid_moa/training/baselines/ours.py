"""Our router as a rule among the others. What it learns and how is plugged in here alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.router_model.verifier_files import read_card
from pyramid_moa.training.baselines.ours_trained import TrainedRouter, examples_of
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
from pyramid_moa.training.fit import nothing_to_learn
from pyramid_moa.training.hidden_choice import choose_hidden_key

__all__ = ["OurRule", "is_ours"]


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
        if self.config.verifier:
            _, config["verifier"] = read_card(Path(self.config.verifier))
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
        trained = self.trained(data, train, seed, held_out)
        if trained is None:
            return FailureRule.fitted(data, _by_share(data, train), _by_share, fell_back=True)
        return FailureRule.fitted(data, trained.out_of_fold(data, train), trained.ensemble_scores)

    def trained(
        self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut
    ) -> TrainedRouter | None:
        """The router, trained once for all rules that ask it; None where there is nothing to learn.

        Args:
            data: the run.
            train: positions of the queries whose labels may be read.
            seed: of all that is drawn.
            held_out: whether a question, by its hash, is kept from this fit.
        """
        labelled = train[_first_labelled(data, train, self.labels, seed)]
        digest = hashlib.sha256(labelled.tobytes()).hexdigest()
        wanted = self.config.hidden_states
        key = data.remember(
            f"hidden state {wanted} {digest}",
            lambda: choose_hidden_key(data.run, wanted, labelled.tolist()),
        )
        config = replace(self.config, hidden_states=key or "none", seed=self.config.seed + seed)
        fitting = [start for start in self.starts if start.absent(data, config) is None]
        examples = examples_of(data, config).take(labelled.tolist())
        if not fitting and nothing_to_learn(examples):
            return None

        def make() -> TrainedRouter:
            start = fitting[0].network(config, held_out) if fitting else None
            return TrainedRouter.fit(config, labelled, examples, start)

        start = fitting[0].content_hash if fitting else None
        return data.remember(f"router {config} {start} {digest}", make)


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


# Of router_model, what keeps and follows a router and has no part in what it says.
_NEVER_FITTED = {
    "card",
    "checkpoint",
    "policy",
    "route",
    "router",
    "state_values",
    "step_policy",
}


def is_ours(path: Path) -> bool:
    """Whether a file of this folder is the router's, on which no other rule depends."""
    return path.name.startswith(("ours", "starts"))


def _sources() -> list[Path]:
    """What fits the router."""
    training = Path(__file__).parent.parent
    names = (
        "config",
        "data_module",
        "draws",
        "examples",
        "fit",
        "hidden_choice",
        "module",
        "new_features",
        "set_scores",
    )
    return [
        *(
            path
            for path in (training.parent / "router_model").glob("*.py")
            if path.stem not in _NEVER_FITTED
        ),
        *(training / f"{name}.py" for name in names),
        *(path for path in Path(__file__).parent.glob("*.py") if is_ours(path)),
    ]


def _by_share(data: RuleRun, positions: Positions) -> EnsembleScores:
    return vote_scores_of(data, positions, 1.0 - data.share[positions])
