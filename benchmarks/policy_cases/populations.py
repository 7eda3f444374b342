"""Questions without end whose true risk is known at every threshold."""

from dataclasses import dataclass

import numpy as np
from policy_cases.scored import Scored

__all__ = ["Curve", "Population", "curve_rows", "of_table", "smoothed"]

_ROWS = 200_000
_GRID = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """What every threshold of a population truly comes to; T thresholds, rising.

    Attributes:
        thresholds: that accept one more row each, [T].
        drop: accuracy of the oracle less that of the policy, [T].
        cost: mean, USD, [T].
        escalation: share, [T].
    """

    thresholds: np.ndarray
    drop: np.ndarray
    cost: np.ndarray
    escalation: np.ndarray

    def at(self, threshold: float) -> int:
        """Place of a threshold, or -1 where it accepts nothing."""
        return int(np.searchsorted(self.thresholds, threshold, side="right")) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Rows that are drawn with replacement; right and wrong are drawn anew each time.

    Attributes:
        p_fails: the router's score, [N].
        outcomes: cumulated probabilities of lost, gained, both right (else both wrong), [N, 3].
        members_usd: [N].
        oracle_usd: [N].
    """

    p_fails: np.ndarray
    outcomes: np.ndarray
    members_usd: np.ndarray
    oracle_usd: np.ndarray

    def draw(self, n: int, rng: np.random.Generator) -> Scored:
        """Draw n questions."""
        rows = rng.integers(len(self.p_fails), size=n)
        kind = (rng.random(n)[:, None] >= self.outcomes[rows]).sum(axis=1)
        return Scored(
            p_fails=self.p_fails[rows],
            ensemble=(kind == 1) | (kind == 2),
            oracle=(kind == 0) | (kind == 2),
            members_usd=self.members_usd[rows],
            oracle_usd=self.oracle_usd[rows],
        )

    def truth(self) -> Curve:
        """What every threshold comes to, exactly, for these rows."""
        order = np.argsort(self.p_fails, kind="stable")
        lost, gained = self.outcomes[order, 0], np.diff(self.outcomes[order, :2], axis=1)[:, 0]
        n, oracle = len(order), self.oracle_usd[order]
        return Curve(
            thresholds=self.p_fails[order],
            drop=np.cumsum(lost - gained) / n,
            cost=self.members_usd.mean() + (oracle.sum() - np.cumsum(oracle)) / n,
            escalation=1 - np.arange(1, n + 1) / n,
        )


def of_table(scored: Scored) -> Population:
    """The questions of a table themselves."""
    lost, gained = scored.oracle & ~scored.ensemble, scored.ensemble & ~scored.oracle
    both = scored.ensemble & scored.oracle
    return Population(
        p_fails=scored.p_fails,
        outcomes=np.cumsum(np.column_stack([lost, gained, both]), axis=1).astype(float),
        members_usd=scored.members_usd,
        oracle_usd=scored.oracle_usd,
    )


def smoothed(scored: Scored, rng: np.random.Generator) -> Population:
    """A table's questions with scores blurred, and right and wrong by what is usual at a score.

    Log-odds are blurred by a normal kernel of the normal-reference width, and the shares of the
    four outcomes are averages under the same kernel (Nadaraya and Watson).
    """
    p = np.clip(scored.p_fails, 1e-4, 1 - 1e-4)
    odds = np.log(p / (1 - p))
    width = 1.06 * odds.std() * scored.n**-0.2
    grid = np.linspace(odds.min() - 3 * width, odds.max() + 3 * width, _GRID)
    kernel = np.exp(-0.5 * ((grid[:, None] - odds) / width) ** 2)
    at_grid = kernel @ of_table(scored).outcomes / kernel.sum(axis=1, keepdims=True)
    rows = rng.integers(scored.n, size=_ROWS)
    blurred = odds[rows] + width * rng.normal(size=_ROWS)
    outcomes = [np.interp(blurred, grid, at_grid[:, column]) for column in range(3)]
    return Population(
        p_fails=1 / (1 + np.exp(-blurred)),
        outcomes=np.column_stack(outcomes),
        members_usd=scored.members_usd[rows],
        oracle_usd=scored.oracle_usd[rows],
    )


def curve_rows(scored: Scored, points: int = 50) -> list[dict[str, float | None]]:
    """The validation curve that a router's card would have of these questions."""
    order = np.argsort(-scored.p_fails, kind="stable")
    ensemble, oracle = scored.ensemble[order], scored.oracle[order]

    def accepted(marked: np.ndarray) -> np.ndarray:
        return (marked.sum() - np.concatenate([[0], np.cumsum(marked)])) / scored.n

    lost, gained = accepted(oracle & ~ensemble), accepted(ensemble & ~oracle)
    p = scored.p_fails[order]
    thresholds = (np.concatenate([[1.0], p]) + np.concatenate([p, [0.0]])) / 2
    return [
        {
            "threshold": float(thresholds[k]),
            "escalation_rate": float(k / scored.n),
            "accuracy": float(oracle.mean() + gained[k] - lost[k]),
            "lost": float(lost[k]),
            "gained": float(gained[k]),
        }
        for k in np.unique(np.linspace(0, scored.n, points).round().astype(int))
    ]
