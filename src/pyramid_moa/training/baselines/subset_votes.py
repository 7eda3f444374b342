"""What some of the members say together: vote and agreement of every set of members."""

from dataclasses import dataclass

import numpy as np

from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.text_features import answer_numbers
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["SubsetVote", "members_of", "subset_vote"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SubsetVote:
    """The vote of a set of members on n queries.

    Attributes:
        answer: column of the answer, as in `RuleRun.correct`, int [n].
        features: whether each answered, who agrees with whom, the share behind the vote and its
            square, lengths: float [n, F].
    """

    answer: Positions
    features: FloatArray


def members_of(subset: int) -> list[int]:
    """Members whose bits are set."""
    return [member for member in range(subset.bit_length()) if subset >> member & 1]


def subset_vote(data: RuleRun, subset: int) -> SubsetVote:
    """Hold the vote among a set of members, for every query of a run.

    Args:
        data: the run.
        subset: one bit a member; not 0.
    """
    return data.remember(f"vote of {subset}", lambda: _vote(data, members_of(subset)))


def _vote(data: RuleRun, members: list[int]) -> SubsetVote:
    clusters = data.clusters[:, members]  # [n, s]
    answered = clusters >= 0
    agree = (clusters[:, :, None] == clusters[:, None, :]) & answered[:, :, None]  # [n, s, s]
    votes = agree.sum(axis=2)  # [n, s]
    first = votes.argmax(axis=1)  # a tie goes to the member listed first
    share = votes.max(axis=1) / len(members)
    upper = np.triu_indices(len(members), k=1)
    answer = np.array(members)[first]
    if len(members) == data.members:
        answer = np.full(data.n, data.vote)
    lengths = [answer_numbers(data, member) for member in members]
    return SubsetVote(
        answer=answer,
        features=np.column_stack([agree[:, *upper], share, np.square(share), *lengths]),
    )
