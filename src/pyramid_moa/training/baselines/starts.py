"""What a router may start from, whatever the pyramid: a pool of answers, or a checkpoint."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.features import FeatureSpec, groups_for
from pyramid_moa.router_model.network import RouterNetwork
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.router_model.verifier_files import read_card
from pyramid_moa.training.baselines.rule import HeldOut
from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import Examples, gather_examples
from pyramid_moa.training.fit import fit_network

__all__ = ["CheckpointStart", "Pool", "Start"]


class Start(Protocol):
    """A router of other members.

    Attributes:
        content_hash: of all that it is made of.
    """

    @property
    def content_hash(self) -> str: ...  # noqa: D102 - told above

    def absent(self, data: RuleRun, config: TrainConfig) -> str | None:
        """Why a run's router can't start from it, or None where it can."""
        ...

    def network(self, config: TrainConfig, held_out: HeldOut) -> RouterNetwork:
        """The router, fitted on nothing that is held out."""
        ...


class Pool:
    """Answers of many models to start from: a router of them is fitted for every fold."""

    def __init__(self, run: LabelledRun, *, content_hash: str) -> None:
        """Hold a run; its features are computed when they are first asked for."""
        self.run = run
        self.left_out: frozenset[str] = frozenset()
        self._content_hash = content_hash
        self._hashes = [question_hash(query.question) for query in run.queries]
        self._examples: dict[tuple[object, ...], Examples] = {}
        self._networks: dict[str, RouterNetwork] = {}

    def without(self, models: Collection[str]) -> "Pool":
        """The same pool without some models; features are shared with this one.

        Where the oracle is left out, the best of the others takes its place.
        """
        other = Pool(self.run, content_hash=self._content_hash)
        other.left_out = self.left_out.union(models)
        other._examples = self._examples
        return other

    @property
    def content_hash(self) -> str:
        """Of the run, and who is left out."""
        left_out = sorted(self.left_out)
        return f"{self._content_hash} without {left_out}" if left_out else self._content_hash

    def absent(self, data: RuleRun, config: TrainConfig) -> str | None:
        """A pool serves the runs of its grader."""
        grader = data.run.manifest.grader
        return None if self.run.manifest.grader == grader else f"no pool is graded by {grader}"

    def network(self, config: TrainConfig, held_out: HeldOut) -> RouterNetwork:
        """A router of its models, fitted on the questions that are not held out."""
        positions = [i for i, text in enumerate(self._hashes) if not held_out(text)]
        key = f"{config} {positions}"
        if key not in self._networks:
            examples = self.examples(config).take(positions)
            self._networks[key] = fit_network(examples, config).network
        return self._networks[key]

    def examples(self, config: TrainConfig) -> Examples:
        """Features and labels of all its questions and of the models that are not left out."""
        groups = groups_for(config.groups, self.run.grader)
        read = (groups, config.verifier)
        if read not in self._examples:
            spec = FeatureSpec(groups=groups)
            verifier = Verifier.load(config.verifier) if config.verifier else None
            self._examples[read] = gather_examples(
                self.run, spec, hidden_key=None, verifier=verifier
            )
        everybody, manifest = self._examples[read], self.run.manifest
        kept = [i for i, name in enumerate(manifest.members) if name not in self.left_out]
        oracle_right = everybody.oracle_right
        if manifest.oracle in self.left_out:
            oracle_right = everybody.right[:, kept.pop(0)]
        return replace(everybody.of_members(kept), oracle_right=oracle_right)


class CheckpointStart:
    """A trained router, for runs of whose questions it has seen none."""

    def __init__(self, router: Router) -> None:
        """Hold it."""
        self._router = router

    @property
    def content_hash(self) -> str:
        """Of the weights."""
        return self._router.card.weights_sha256

    def absent(self, data: RuleRun, config: TrainConfig) -> str | None:
        """Features have to be the same, and questions others."""
        card = self._router.card
        spec = FeatureSpec(groups=groups_for(config.groups, data.run.grader))
        if list(spec.names) != card.feature_names or card.hidden_key is not None:
            return "the checkpoint to start from reads other features"
        verifier = read_card(Path(config.verifier))[1] if config.verifier else None
        if verifier != card.verifier_sha256:
            return "the checkpoint to start from has another verifier"
        known = set(card.seen_questions)
        if seen := sum(text[:16] in known for text in data.hashes):
            return f"the checkpoint to start from was trained on {seen} of the {data.n} questions"
        return None

    def network(self, config: TrainConfig, held_out: HeldOut) -> RouterNetwork:
        """It as it is."""
        return self._router.network
