"""What the router reads from the members' answers; one function for training and serving.

A value that is not known (a member that failed, a backend without log-probabilities) is NaN: the
network knows what to do with it.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import ConfigError
from pyramid_moa.grading import Grader, Vote, vote
from pyramid_moa.records import Generation, LogprobStatistics
from pyramid_moa.router_model.arithmetic import ArithmeticSigns, arithmetic_signs

__all__ = [
    "DEFAULT_GROUPS",
    "FEATURE_GROUPS",
    "Evidence",
    "FeatureGroup",
    "FeatureSpec",
    "gather_evidence",
    "groups_for",
]

FeatureGroup = Literal["agreement", "confidence", "lengths", "arithmetic", "stated"]
FEATURE_GROUPS: tuple[FeatureGroup, ...] = get_args(FeatureGroup)
DEFAULT_GROUPS: tuple[FeatureGroup, ...] = ("agreement", "confidence", "lengths", "arithmetic")

# Pairwise agreement of many members would be mostly the same few bits over and over.
_MOST_MEMBERS_IN_PAIRS = 6
_LOGPROB_FIELDS = ("mean", "minimum", "tail_mean", "answer_mean", "answer_minimum")
# Beyond it a value says nothing, and its square would overflow where it is standardised.
_LARGEST = 1e12


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features, of which members.

    Attributes:
        members: names, best first.
        groups: names of feature groups; ``arithmetic`` only makes sense where answers are
            numbers, and ``stated``, the confidence that a source recorded, only where every
            answer comes with one: no model that is run here states any.
    """

    members: tuple[str, ...]
    groups: tuple[FeatureGroup, ...]

    def __post_init__(self) -> None:
        """Refuse unknown and missing names."""
        unknown = [group for group in self.groups if group not in FEATURE_GROUPS]
        if unknown or "agreement" not in self.groups or not self.members:
            raise ConfigError(
                f"features: expected members and groups among {', '.join(FEATURE_GROUPS)} with "
                f"agreement, found members {list(self.members)} and groups {list(self.groups)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features in order."""
        nobody = [None] * len(self.members)
        return tuple(gather_evidence(self, "", nobody, _no_grader).named)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the members' answers to one question say.

    Attributes:
        vote: the plurality among the answers.
        named: features by name, in the order of ``FeatureSpec.names``.
    """

    vote: Vote
    named: dict[str, float]

    @property
    def values(self) -> NDArray[np.float32]:
        """The features as an array of shape [F]."""
        return np.fromiter(self.named.values(), dtype=np.float32, count=len(self.named))


def gather_evidence(
    spec: FeatureSpec,
    question: str,
    generations: Sequence[Generation | None],
    equal: Callable[[str, str], bool],
) -> Evidence:
    """Compute the features of one query.

    Args:
        spec: members and groups.
        question: its text.
        generations: one entry a member, in the order of ``spec.members``; None for a member that
            was not asked.
        equal: the grader's equality of answers.

    Returns:
        The vote and the features.
    """
    assert len(generations) == len(spec.members)
    answers = [row.answer if row is not None else None for row in generations]
    result = vote(answers, equal)
    named = _agreement(spec.members, result)
    if "confidence" in spec.groups:
        named |= _confidence(spec.members, generations, result)
    if "stated" in spec.groups:
        for name, row in zip(spec.members, generations, strict=True):
            named[f"stated/{name}"] = _known(row.confidence if row is not None else None)
    if "lengths" in spec.groups:
        named |= _lengths(spec.members, question, generations)
    if "arithmetic" in spec.groups:
        named |= _arithmetic(question, generations, result)
    return Evidence(vote=result, named=named)


def groups_for(groups: Sequence[FeatureGroup], grader: Grader) -> tuple[FeatureGroup, ...]:
    """Drop the groups that make no sense for a grader's answers."""
    return tuple(group for group in groups if group != "arithmetic" or grader.numeric)


def _no_grader(first: str, second: str) -> bool:
    return first == second


def _agreement(members: Sequence[str], result: Vote) -> dict[str, float]:
    clusters = result.clusters
    sizes = sorted(Counter(c for c in clusters if c is not None).values(), reverse=True)
    total = len(clusters)
    answered = sum(sizes)
    shares = [size / total for size in sizes] + [1 / total] * (total - answered)
    named = {
        "agreement/share": result.share,
        "agreement/margin": (sizes[0] - (sizes[1] if len(sizes) > 1 else 0)) / total
        if sizes
        else 0.0,
        "agreement/entropy": -sum(share * math.log(share) for share in shares),
        "agreement/answers": len(sizes) / total,
        "agreement/unanimous": float(bool(sizes) and sizes[0] == total),
        "agreement/answered": answered / total,
    }
    for name, cluster in zip(members, clusters, strict=True):
        named[f"agreement/{name}/with_winner"] = float(
            cluster is not None and cluster == result.winner
        )
        named[f"agreement/{name}/answered"] = float(cluster is not None)
    if 3 <= len(members) <= _MOST_MEMBERS_IN_PAIRS:
        for one, other in combinations(range(total), 2):
            same = clusters[one] is not None and clusters[one] == clusters[other]
            named[f"agreement/{members[one]}+{members[other]}"] = float(same)
    return named


def _confidence(
    members: Sequence[str], generations: Sequence[Generation | None], result: Vote
) -> dict[str, float]:
    named = {}
    table = []
    for name, row in zip(members, generations, strict=True):
        logprobs = (row.logprobs if row is not None else None) or LogprobStatistics()
        values = [_known(getattr(logprobs, field)) for field in _LOGPROB_FIELDS]
        table.append(values)
        for field, value in zip(_LOGPROB_FIELDS, values, strict=True):
            named[f"confidence/{name}/{field}"] = value
    # The surest voice on each side: what the winner's supporters and the dissenters would stake.
    sides = {"winner": True, "others": False}
    for column, field in enumerate(_LOGPROB_FIELDS):
        for side, wanted in sides.items():
            own = [
                values[column]
                for values, cluster in zip(table, result.clusters, strict=True)
                if cluster is not None and (cluster == result.winner) is wanted
            ]
            named[f"confidence/{side}/{field}"] = _largest(own)
    return named


def _lengths(
    members: Sequence[str], question: str, generations: Sequence[Generation | None]
) -> dict[str, float]:
    named = {
        "lengths/question": math.log1p(len(question)),
        "lengths/question_numbers": math.log1p(_count_numbers(question)),
    }
    for name, row in zip(members, generations, strict=True):
        tokens = row.completion_tokens if row is not None and row.error is None else None
        named[f"lengths/{name}/answer"] = math.log1p(tokens) if tokens is not None else math.nan
        reason = row.finish_reason if row is not None else None
        named[f"lengths/{name}/cut_off"] = math.nan if reason is None else float(reason == "length")
    return named


def _arithmetic(
    question: str, generations: Sequence[Generation | None], result: Vote
) -> dict[str, float]:
    signs = [
        arithmetic_signs(question, row.response, row.answer)
        if row is not None and row.response is not None
        else ArithmeticSigns()
        for row in generations
    ]
    named = {}
    for field in (
        "wrong_equations",
        "equations",
        "unused_numbers",
        "new_answer",
        "integer",
        "size",
    ):
        values = [getattr(sign, field) for sign in signs]
        for side, wanted in {"winner": True, "others": False}.items():
            own = [
                value
                for value, cluster in zip(values, result.clusters, strict=True)
                if cluster is not None
                and (cluster == result.winner) is wanted
                and not math.isnan(value)
            ]
            named[f"arithmetic/{side}/{field}"] = sum(own) / len(own) if own else math.nan
    return named


def _count_numbers(text: str) -> int:
    inside = False
    count = 0
    for character in text:
        digit = character.isdigit()
        count += digit and not inside
        inside = digit or (inside and character in ".,")
    return count


def _known(value: float | None) -> float:
    return float(value) if value is not None and abs(value) <= _LARGEST else math.nan


def _largest(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known else math.nan
