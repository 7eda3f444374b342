"""From probabilities to the next step: pure functions that evaluation and the gate share."""

from dataclasses import dataclass

__all__ = ["OperatingPoint", "Scores", "escalates", "vote_point", "vote_scores"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is believed of one query.

    Attributes:
        p_ensemble_fails: probability that the members' answer is wrong.
        p_oracle_right: probability that the oracle's would be right; None where nobody says.
        p_vote_fails: probability that the majority's answer is wrong; None where nobody says.
        choice: place of the member whose answer is the ensemble's; None for the majority's.
    """

    p_ensemble_fails: float
    p_oracle_right: float | None
    p_vote_fails: float | None = None
    choice: int | None = None


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """One position of the dial between quality and cost.

    Attributes:
        name: what it is called.
        threshold: the oracle is asked where ``p_ensemble_fails`` is larger.
        target: what it was chosen for, in words.
        split: the split it was chosen on; empty where nothing was chosen.
        questions: how many questions that were.
        accuracy: accuracy on them.
        escalation_rate: share of them that asked the oracle.
        cost_ratio: all-in cost over that of asking the oracle every time; None where the oracle
            costs nothing.
    """

    name: str
    threshold: float
    target: str
    split: str = ""
    questions: int = 0
    accuracy: float | None = None
    escalation_rate: float | None = None
    cost_ratio: float | None = None


def escalates(scores: Scores, threshold: float) -> bool:
    """Whether the oracle is asked; where nothing can be said of the ensemble (NaN), it is."""
    return not scores.p_ensemble_fails <= threshold


def vote_scores(share: float) -> Scores:
    """The vote rule's belief: the share of members that do not stand behind the answer."""
    return Scores(p_ensemble_fails=1.0 - share, p_oracle_right=None)


def vote_point(theta: float = 1.0) -> OperatingPoint:
    """Agreement-based cascading: accept where at least ``theta`` of the members agree.

    Source: Agreement-Based Cascading; its default is that all agree.
    """
    # Shares are fractions of small numbers: what is meant as two thirds must not fail by a
    # rounding error.
    return OperatingPoint(
        name="vote", threshold=1.0 - theta + 1e-9, target=f"vote share of at least {theta:g}"
    )
