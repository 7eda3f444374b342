"""Agreement among answers by a grader's equality, and the plurality vote."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Vote", "cluster", "vote"]


@dataclass(frozen=True)
class Vote:
    """Outcome of a plurality vote.

    Attributes:
        answer: the winner's answer, in the form of its first-listed member; None where nobody
            answered.
        share: members behind the winner over all members, those without an answer included.
        winner: index of the winner's first-listed member, or None.
        clusters: as ``cluster`` gives them.
    """

    answer: str | None
    share: float
    winner: int | None
    clusters: tuple[int | None, ...]


def cluster(
    answers: Sequence[str | None], equal: Callable[[str, str], bool]
) -> tuple[int | None, ...]:
    """Group equal answers.

    Each answer is compared with the first member of every group so far, in order, so that the
    outcome is determined even where equality is not transitive (numbers within a tolerance).

    Args:
        answers: one a member, None where a member gave none.
        equal: the grader's equality.

    Returns:
        For each answer the index of the first member of its group, or None for no answer.
    """
    first_of_group: list[tuple[int, str]] = []
    groups: list[int | None] = []
    for index, answer in enumerate(answers):
        if answer is None:
            groups.append(None)
            continue
        group = next((first for first, text in first_of_group if equal(text, answer)), None)
        if group is None:
            group = index
            first_of_group.append((index, answer))
        groups.append(group)
    return tuple(groups)


def vote(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> Vote:
    """Hold a plurality vote; a tie goes to the group with the member listed first.

    Args:
        answers: one a member, best member first, None where a member gave none.
        equal: the grader's equality.
    """
    clusters = cluster(answers, equal)
    sizes = Counter(group for group in clusters if group is not None)
    if not sizes:
        return Vote(answer=None, share=0.0, winner=None, clusters=clusters)
    winner = min(sizes, key=lambda group: (-sizes[group], group))
    return Vote(
        answer=answers[winner],
        share=sizes[winner] / len(answers),
        winner=winner,
        clusters=clusters,
    )
