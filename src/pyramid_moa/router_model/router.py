"""The router: the members' answers to one question in, calibrated probabilities out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyramid_moa.errors import CheckpointError
from pyramid_moa.grading import Grader, Vote, load_stored_grader
from pyramid_moa.records import Generation
from pyramid_moa.router_model.card import RouterCard
from pyramid_moa.router_model.checkpoint import (
    CheckpointFiles,
    read_checkpoint,
    write_checkpoint,
)
from pyramid_moa.router_model.features import Evidence, FeatureSpec, gather_evidence, groups_for
from pyramid_moa.router_model.known_questions import KnownQuestions
from pyramid_moa.router_model.network import (
    UNKNOWN,
    NetworkInputs,
    RouterNetwork,
    chosen_places,
)
from pyramid_moa.router_model.policy import Scores
from pyramid_moa.router_model.pretrained import checkpoint_folder, is_pretrained
from pyramid_moa.router_model.question_signs import question_signs
from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.router_model.step_policy import StepPolicy
from pyramid_moa.router_model.verifier import Verifier

__all__ = ["Reading", "Router"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a router makes of the members' answers to one question.

    Attributes:
        vote: the plurality among them.
        scores: calibrated.
        of_set: the same as the networks say it, which the worth of further steps is read from; of
            one query.
    """

    vote: Vote
    scores: Scores
    of_set: SetScores


class Router:
    """A trained router."""

    def __init__(
        self,
        card: RouterCard,
        network: RouterNetwork,
        *,
        verifier: Verifier | None = None,
        steps: StepPolicy | None = None,
        known: KnownQuestions | None = None,
        own_grader: str | None = None,
    ) -> None:
        """Put card and network together.

        Args:
            card: what the checkpoint says of itself.
            network: its weights.
            verifier: reads the answers, where the router reads what a verifier says.
            steps: what each further step is worth; None for a router that only knows to ask all
                members at once.
            known: what the questions of training look like; None for a router that can't say.
            own_grader: the caller's own ``module:function``, without which a router that names
                one can be read and exported, but not asked.

        Raises:
            CheckpointError: the features of the checkpoint are not those of this version, or the
                verifier is not the one it was trained with.
        """
        if (verifier.sha256 if verifier is not None else None) != card.verifier_sha256:
            raise CheckpointError("the verifier is not the one that the router was trained with")
        self.card = card
        self.verifier = verifier
        self.steps = steps
        self.known = known
        self.network = network.eval()
        self._own_grader = own_grader
        self.features = FeatureSpec(groups=tuple(card.feature_groups))
        self._numbers = {name: number for number, name in enumerate(card.member_names)}
        if list(self.features.names) != card.feature_names:
            ours, theirs = set(self.features.names), set(card.feature_names)
            raise CheckpointError(
                "the checkpoint's features are not the ones that this version computes: "
                f"missing {sorted(theirs - ours)[:5]}, new {sorted(ours - theirs)[:5]}; train again"
            )

    @property
    def weights_identity(self) -> str:
        """All weights that decide a score, as one text."""
        card = self.card
        return " ".join(part for part in (card.weights_sha256, card.verifier_sha256) if part)

    @cached_property
    def grader(self) -> Grader:
        """Compares answers as in training."""
        return load_stored_grader(self.card.grader, own=self._own_grader)

    @classmethod
    def load(cls, folder: str | Path, *, own_grader: str | None = None) -> "Router":
        """Read a checkpoint folder.

        Args:
            folder: the checkpoint, or ``pretrained:NAME``.
            own_grader: as in the constructor.

        Raises:
            CheckpointError: it is missing, damaged, or of another version.
        """
        files = CheckpointFiles(checkpoint_folder(folder))
        card, network, steps, known = read_checkpoint(files.folder)
        verifier = None
        if card.verifier_sha256 is not None:
            verifier = Verifier.load(files.verifier, sha256=card.verifier_sha256)
        return cls(
            card, network, verifier=verifier, steps=steps, known=known, own_grader=own_grader
        )

    def graded_by(self, grader: str, members: Sequence[str]) -> "Router | None":
        """The same router where another grader compares the answers.

        What has to fit are the features. A grader of numbers has others than one of other answers,
        and a router that knows some of the members was trained on a run of them: there another
        grader is a mistake.

        Args:
            grader: its name, or the caller's own ``module:function``.
            members: names of those who answer.

        Returns:
            The router, or None where it does not fit.
        """
        if grader == self.card.grader:
            return self
        own = load_stored_grader(grader, own=self._own_grader)
        fits = groups_for(self.card.feature_groups, own) == tuple(self.card.feature_groups)
        known = set(members) & set(self.card.member_names)
        if known or not fits:
            return None
        return Router(
            replace(self.card, grader=grader),
            self.network,
            verifier=self.verifier,
            steps=self.steps,
            known=self.known,
            own_grader=self._own_grader,
        )

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder; see ``write_checkpoint``.

        Raises:
            CheckpointError: the folder holds something else, or comes with the package.
        """
        if is_pretrained(folder):
            raise CheckpointError(
                f"{folder} comes with the package and stays as it is; expected a checkpoint of "
                f"your own: pyramid-moa export --router {folder} --out DIR makes one"
            )
        source = self.verifier.folder if self.verifier is not None else None
        self.card = write_checkpoint(
            Path(folder),
            self.card,
            self.network,
            verifier=source,
            steps=self.steps,
            known=self.known,
        )

    def evidence(self, question: str, generations: Mapping[str, Generation | None]) -> Evidence:
        """Features and vote of one question.

        Args:
            question: its text.
            generations: by member, best first; None for one that was not asked.
        """
        return gather_evidence(
            self.features,
            question,
            list(generations.values()),
            self.grader.equal,
            verifier=self.verifier,
        )

    def hidden_states(
        self, generations: Mapping[str, Generation | None]
    ) -> list[NDArray[np.float16]]:
        """The vectors that the router reads, one a member, zeros where there is none.

        Raises:
            CheckpointError: a vector has another length than in training.
        """
        if self.card.hidden_key is None:
            return []
        return [
            self._vector(member.name, member.hidden_size or 0, generations.get(member.name))
            for member in self.card.members
        ]

    def score(self, question: str, generations: Mapping[str, Generation | None]) -> Scores:
        """Score the members' answers to one question.

        Args:
            question: its text.
            generations: by member, best first. One that failed or is missing lowers what is
                known, and one that the router was not trained on is read as a stranger's answer;
                both are scored all the same.

        Returns:
            Calibrated probabilities; where nobody answered, the ensemble has failed for certain.
        """
        # Where nobody is named, nobody was asked: the network wants at least one place.
        generations = generations or dict.fromkeys(self.card.member_names)
        return self.read(question, generations).scores

    def read(self, question: str, generations: Mapping[str, Generation | None]) -> Reading:
        """Score the answers, and say what the worth of further steps is read from.

        Args:
            question: its text.
            generations: as in ``score``, of one member at least.
        """
        return self.read_evidence(
            self.evidence(question, generations),
            list(generations),
            self.hidden_states(generations),
        )

    def question_columns(self, question: str) -> NDArray[np.float64]:
        """What the first step is chosen by, before anybody has answered: [1, Q]."""
        signs = question_signs(question) if self.features.question_names else []
        with torch.inference_mode():
            standard = self.network.standard_question(torch.tensor([signs], dtype=torch.float32))
        columns: NDArray[np.float64] = standard.double().numpy()
        return columns

    def read_evidence(
        self, evidence: Evidence, members: Sequence[str], hidden: Sequence[NDArray[np.float16]]
    ) -> Reading:
        """Score evidence that is already gathered.

        Every query is scored by itself, in batches of one, in evaluation and live alike: a
        matrix product of another shape may round differently, and a decision must not hang on
        the company a query is in.

        Args:
            evidence: of the M members.
            members: their names, in its order.
            hidden: as ``hidden_states`` gives them.
        """
        numbers = [self._numbers.get(name, UNKNOWN) for name in members]
        with torch.inference_mode():
            reduced = self.network.reduce(
                [torch.from_numpy(vector.astype(np.float32))[None] for vector in hidden]
            )
            inputs = NetworkInputs(
                answers=torch.from_numpy(evidence.answers)[None],
                relations=torch.from_numpy(evidence.relations)[None],
                clusters=torch.from_numpy(evidence.clusters)[None],
                question=torch.from_numpy(evidence.question)[None],
                members=torch.tensor([numbers]),
                components=reduced[:, [max(number, 0) for number in numbers]]
                if hidden
                else reduced,
            )
            raw, right = self.network.said(inputs)
            fails, vote_fails, oracle = self.network.calibrated(raw)[0].tolist()
            choice = int(chosen_places(right[:, 1:], inputs.clusters))
            best = right[0, 1:].double().topk(min(2, len(members))).values.tolist()
        nobody = evidence.vote.winner is None
        scores = Scores(
            p_ensemble_fails=1.0 if nobody else fails,
            p_oracle_right=oracle,
            p_vote_fails=1.0 if nobody else vote_fails,
            choice=None if nobody else choice,
        )
        of_set = SetScores(
            right=np.array(best[:1]),
            runner_up=np.array(best[1:] or [0.0]),
            nobody=right[:, 0].double().numpy(),
            oracle=torch.sigmoid(raw[:, 2]).double().numpy(),
            choice=np.array([-1 if nobody else choice]),
        )
        return Reading(vote=evidence.vote, scores=scores, of_set=of_set)

    def _vector(self, member: str, size: int, generation: Generation | None) -> NDArray[np.float16]:
        states = (generation.hidden_states or {}) if generation is not None else {}
        vector = states.get(self.card.hidden_key or "")
        if vector is None:
            return np.zeros(size, np.float16)
        if vector.shape != (size,):
            raise CheckpointError(
                f"member {member!r}: expected hidden states of length {size}, as the router was "
                f"trained on, found {vector.shape[0]}; is it another model?"
            )
        return vector
