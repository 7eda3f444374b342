"""From probabilities to the next step: pure functions that evaluation and the gate share."""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "OperatingPoint",
    "PolicyKind",
    "Promise",
    "Rule",
    "Scores",
    "escalates",
    "goes_up",
    "log_odds",
    "outvotes",
    "vote_point",
    "vote_scores",
]

PolicyKind = Literal["parallel", "sequential"]
"""Whether all members are asked at once, or one step after another."""
Rule = Literal["failure", "gain"]
"""What is compared with the threshold."""


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
class Promise:
    """What an operating point keeps to, and how sure that is.

    Attributes:
        kind: ``target_accuracy``, ``max_drop``, ``target_cost_ratio`` or ``max_usd_per_1000``.
        value: the target, in the units of its flag.
        confidence: with this probability, over draws of the calibration questions, the promise
            holds for all questions of their kind.
        questions: how many calibration questions that rests on.
        method: how it was found.
        most_differ: share of all questions whose answers may differ from the oracle's while it is
            kept, as far as these questions tell: what audits, which know no gold, hold it against.
            None where they can't.
        others: kinds and values of more targets, which are kept to together with the first: the
            confidence is that of all at once. Checkpoints of earlier versions have none.
    """

    kind: str
    value: float
    confidence: float
    questions: int
    method: str
    most_differ: float | None = None
    others: tuple[tuple[str, float], ...] = ()

    @property
    def targets(self) -> tuple[tuple[str, float], ...]:
        """Kind and value of everything that it keeps to."""
        return ((self.kind, self.value), *self.others)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """One position of the dial between quality and cost.

    Attributes:
        name: what it is called.
        threshold: with the rule ``failure`` the oracle is asked where ``p_ensemble_fails`` is
            larger. With ``gain``, and step by step, it is the accuracy that the price of one
            oracle call has to buy.
        target: what it was chosen for, in words.
        split: the split it was chosen on; empty where nothing was chosen.
        questions: how many questions that were.
        accuracy: accuracy on them.
        escalation_rate: share of them that asked the oracle.
        cost_ratio: all-in cost over that of asking the oracle every time; None where the oracle
            costs nothing.
        policy: whether all members are asked at once, or one step after another.
        rule: what the threshold of the parallel policy is compared with: the probability that the
            ensemble fails, or the accuracy that the oracle is expected to gain.
        outvote: where members and oracle disagree, the ensemble's answer is kept if its log-odds of
            being right are larger than the oracle's by more than this; None takes the oracle's.
        promise: what it keeps to for questions that nobody has seen; None for no such promise.
    """

    name: str
    threshold: float
    target: str
    split: str = ""
    questions: int = 0
    accuracy: float | None = None
    escalation_rate: float | None = None
    cost_ratio: float | None = None
    policy: PolicyKind = "parallel"
    rule: Rule = "failure"
    outvote: float | None = None
    promise: Promise | None = None


def escalates(scores: Scores, threshold: float) -> bool:
    """Whether the oracle is asked; where nothing can be said of the ensemble (NaN), it is."""
    return not scores.p_ensemble_fails <= threshold


def goes_up(scores: Scores, point: OperatingPoint) -> bool:
    """Whether the parallel policy asks the next tier; where nothing can be said (NaN), it does.

    With the rule ``gain`` it does where the value of computation is worth its price: where
    P(ensemble wrong, oracle right) - P(ensemble right, oracle wrong), which is
    P(oracle right) - P(ensemble right), is larger than the threshold.
    """
    if point.rule == "failure":
        return escalates(scores, point.threshold)
    if scores.p_oracle_right is None:
        return True
    return not scores.p_oracle_right - (1.0 - scores.p_ensemble_fails) <= point.threshold


def outvotes(scores: Scores, margin: float) -> bool:
    """Whether the ensemble's answer is kept against an oracle that gave another one.

    Args:
        scores: of the members' answers.
        margin: by how much its log-odds of being right have to be larger than the oracle's.
    """
    if scores.p_oracle_right is None:
        return False
    own, oracle = 1.0 - scores.p_ensemble_fails, scores.p_oracle_right
    return log_odds(own) - log_odds(oracle) > margin


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


def log_odds(p: float) -> float:
    """Of a probability, within those of one in a million and all but that."""
    p = min(max(p, 1e-6), 1.0 - 1e-6)
    return math.log(p / (1.0 - p))
