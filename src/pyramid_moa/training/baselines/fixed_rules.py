"""Rules that learn nothing: the vote, members only, oracle only, random, and hindsight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyramid_moa.training.baselines.dial import escalate, share_dial
from pyramid_moa.training.baselines.rule import Choices, FailureScores, FittedRule, HeldOut
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import FloatArray

__all__ = [
    "ALL_AGREE",
    "HindsightRule",
    "MembersOnly",
    "OracleOnly",
    "RandomRule",
    "VoteRule",
]

ALL_AGREE = 1.0
"""The vote rule's setting that is ABC's default; above it the oracle is always asked."""

Decide = Callable[[RuleRun, Positions], Choices]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fixed:
    dial: FloatArray
    train: Choices
    by: Decide
    fell_back: bool = False

    def decide(self, data: RuleRun, positions: Positions) -> Choices:
        return self.by(data, positions)


class _FixedRule:
    """What rules without settings have in common."""

    def settings(self) -> dict[str, Any]:
        """Nothing is set."""
        return {}

    def absent(self, data: RuleRun) -> str | None:
        """They can always be had."""
        return None


def _fixed(data: RuleRun, train: Positions, dial: FloatArray, by: Decide) -> FittedRule:
    return _Fixed(dial=dial, train=by(data, train), by=by)


class VoteRule(_FixedRule):
    """Accept the vote where its share is at least theta and it is not empty (ABC, MoT).

    Source: Agreement-Based Cascading, parallel form. The dial is theta: 0, every share that m
    members can have, and 2, above all of them.
    """

    name = "vote"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """Lay out every theta."""
        shares = np.arange(2, data.members + 1) / data.members
        dial = np.concatenate([[0.0], shares[:-1], [ALL_AGREE, 2.0]])

        def decide(data: RuleRun, positions: Positions) -> Choices:
            share = data.share[positions]
            # A share such as 2/3 may come from another order of rounding than theta did.
            asked = (share < dial[:, None] - 1e-9) | (data.winner[positions] < 0)
            scores = FailureScores(
                values=1.0 - share,
                answer=np.full(len(positions), data.vote),
                is_probability=False,
            )
            return escalate(data, asked, failure=scores)

        return _fixed(data, train, dial, decide)


class MembersOnly(_FixedRule):
    """Never ask the oracle."""

    name = "members-only"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """One setting."""
        return _fixed(data, train, np.zeros(1), _constant(asked=False))


class OracleOnly(_FixedRule):
    """Ask the oracle alone, every time."""

    name = "oracle-only"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """One setting."""
        return _fixed(data, train, np.ones(1), _constant(asked=True))


def _constant(*, asked: bool) -> Decide:
    def decide(data: RuleRun, positions: Positions) -> Choices:
        return escalate(data, np.full((1, len(positions)), asked), members_first=False)

    return decide


class RandomRule(_FixedRule):
    """Ask all members, and the oracle at random."""

    name = "random"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """The dial is the share that is escalated."""
        dial = share_dial()

        def decide(data: RuleRun, positions: Positions) -> Choices:
            rng = np.random.default_rng([seed, len(positions), int(positions[0])])
            return escalate(data, rng.random(len(positions)) < dial[:, None])

        return _fixed(data, train, dial, decide)


class HindsightRule(_FixedRule):
    """Know every answer beforehand: ask the oracle only where it helps. No rule, but the frame.

    All members are asked. The dial is the share of the queries which the oracle helps that go to
    it, those with the cheapest oracle answer first. It alone reads labels to decide.
    """

    name = "hindsight"

    def fit(self, data: RuleRun, train: Positions, seed: int, held_out: HeldOut) -> FittedRule:
        """The dial is a share of what can be won."""
        dial = share_dial()

        def decide(data: RuleRun, positions: Positions) -> Choices:
            correct = data.correct[positions]
            helped = correct[:, data.oracle] & ~correct[:, data.vote]
            cost = np.where(helped, data.cost[positions, data.oracle], np.inf)
            place = np.argsort(np.argsort(cost, kind="stable"), kind="stable")
            return escalate(data, helped & (place < np.round(dial * helped.sum())[:, None]))

        return _fixed(data, train, dial, decide)
