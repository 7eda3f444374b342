"""What the router reads from the members' answers; one function for training and serving.

Nothing here depends on who the members are or how many: a value has the same name and meaning for
every answer of every model. What is not known (a member that failed, a backend without
log-probabilities) is NaN: the network knows what to do with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import Grader, Vote, vote
from pyramid_moa.records import Generation
from pyramid_moa.router_model.answer_signs import ANSWER_SIGNS, answer_signs
from pyramid_moa.router_model.question_signs import QUESTION_SIGNS, question_signs
from pyramid_moa.router_model.relations import RELATIONS, relations

if TYPE_CHECKING:
    from pyramid_moa.router_model.verifier import Verifier

__all__ = [
    "DEFAULT_GROUPS",
    "FEATURE_GROUPS",
    "NOT_ASKED",
    "NO_ANSWER",
    "Evidence",
    "FeatureGroup",
    "FeatureSpec",
    "gather_evidence",
    "groups_for",
]

FeatureGroup = Literal[
    "agreement",
    "confidence",
    "lengths",
    "form",
    "arithmetic",
    "semantics",
    "closeness",
    "question",
    "stated",
    "verifier",
]
FEATURE_GROUPS: tuple[FeatureGroup, ...] = get_args(FeatureGroup)
_NO_DEFAULTS: tuple[FeatureGroup, ...] = ("stated", "verifier")
DEFAULT_GROUPS: tuple[FeatureGroup, ...] = tuple(g for g in FEATURE_GROUPS if g not in _NO_DEFAULTS)
_NUMERIC: tuple[FeatureGroup, ...] = ("arithmetic", "closeness")
_RELATION_GROUPS: dict[FeatureGroup, tuple[str, ...]] = {
    "semantics": ("same_words", "same_numbers"),
    "closeness": ("closeness",),
    "verifier": ("similarity",),
}
# A verifier's stand behind the others: they are read off another kind of model.
_VERIFIER_SIGNS = ("verifier/logit",)

# Clusters are numbers from 0; these stand in their place.
NO_ANSWER = -1
NOT_ASKED = -2


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features.

    Attributes:
        groups: names of feature groups. ``agreement``, who answers alike, is always among them.
            ``arithmetic`` and ``closeness`` only make sense where answers are numbers, and
            ``stated``, the confidence that a source recorded, only where answers come with one:
            no model that is run here states any. ``verifier`` wants a trained verifier.
    """

    groups: tuple[FeatureGroup, ...]

    def __post_init__(self) -> None:
        """Refuse unknown and missing names."""
        unknown = [group for group in self.groups if group not in FEATURE_GROUPS]
        if unknown or "agreement" not in self.groups:
            raise ConfigError(
                f"features: expected groups among {', '.join(FEATURE_GROUPS)} with agreement, "
                f"found {list(self.groups)}"
            )

    @property
    def answer_names(self) -> tuple[str, ...]:
        """Names of an answer's features, in order."""
        own = tuple(
            f"{group}/{name}"
            for group, names in ANSWER_SIGNS.items()
            if group in self.groups
            for name in names
        )
        return (*own, *(_VERIFIER_SIGNS if self.reads_verifier else ()))

    @property
    def relation_names(self) -> tuple[str, ...]:
        """Names of what two answers have in common, in order."""
        return tuple(
            f"{group}/{name}"
            for group, names in _RELATION_GROUPS.items()
            if group in self.groups
            for name in names
        )

    @property
    def question_names(self) -> tuple[str, ...]:
        """Names of the question's features, in order."""
        return (
            tuple(f"question/{name}" for name in QUESTION_SIGNS)
            if "question" in self.groups
            else ()
        )

    @property
    def reads_verifier(self) -> bool:
        """Whether a verifier reads the answers."""
        return "verifier" in self.groups

    @property
    def names(self) -> tuple[str, ...]:
        """All names: of the answers, of their relations, of the question."""
        return (*self.answer_names, *self.relation_names, *self.question_names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What M members' answers to one question say.

    Attributes:
        vote: the plurality among the answers.
        answers: features of each answer, float32 [M, A]; NaN where unknown.
        clusters: for each member the first one with an equal answer; ``NO_ANSWER`` and
            ``NOT_ASKED`` otherwise; int64 [M].
        relations: what two answers have in common, float32 [M, M, R]; NaN where unknown.
        question: features of the question, float32 [Q].
    """

    vote: Vote
    answers: NDArray[np.float32]
    clusters: NDArray[np.int64]
    relations: NDArray[np.float32]
    question: NDArray[np.float32]


def gather_evidence(
    spec: FeatureSpec,
    question: str,
    generations: Sequence[Generation | None],
    equal: Callable[[str, str], bool],
    *,
    verifier: "Verifier | None" = None,
) -> Evidence:
    """Compute the features of one query.

    Args:
        spec: the feature groups.
        question: its text.
        generations: one entry a member, best member first; None for one that was not asked.
        equal: the grader's equality of answers.
        verifier: reads the answers, where the groups want one.

    Returns:
        The vote and the features.

    Raises:
        ConfigError: the groups want a verifier, and there is none.
    """
    result = vote([row.answer if row is not None else None for row in generations], equal)
    clusters = [
        (NO_ANSWER if row is not None else NOT_ASKED) if cluster is None else cluster
        for row, cluster in zip(generations, result.clusters, strict=True)
    ]
    groups = [group for group in ANSWER_SIGNS if group in spec.groups]
    answers = [
        [value for group in groups for value in answer_signs(group, question, row)]
        for row in generations
    ]
    named = spec.relation_names
    columns = [i for i, name in enumerate(RELATIONS) if any(n.endswith(f"/{name}") for n in named)]
    compared = (
        relations(generations, numeric="closeness" in spec.groups)[:, :, columns]
        if columns
        else np.zeros((len(generations), len(generations), 0), dtype=np.float32)
    )
    values = np.array(answers, dtype=np.float32).reshape(len(generations), -1)
    if spec.reads_verifier:
        if verifier is None:
            raise ConfigError("the feature group verifier wants a verifier, found none")
        said = verifier.signs(question, generations)
        values = np.concatenate([values, said.answers], axis=1)
        compared = np.concatenate([compared, said.relations], axis=2)
    return Evidence(
        vote=result,
        answers=values,
        clusters=np.array(clusters, dtype=np.int64),
        relations=compared,
        question=np.array(
            question_signs(question) if spec.question_names else [], dtype=np.float32
        ),
    )


def groups_for(groups: Sequence[FeatureGroup], grader: Grader) -> tuple[FeatureGroup, ...]:
    """Drop the groups that make no sense for a grader's answers."""
    return tuple(group for group in groups if group not in _NUMERIC or grader.numeric)
