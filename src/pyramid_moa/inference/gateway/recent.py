"""What the page shows of what has happened: sums since the start, and the last decisions."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

__all__ = ["Recent", "RecentDecision", "StageTimes"]

_STAGES = ("members", "router", "oracle")
# Times of so many requests make the percentiles.
_TIMES = 1000


@dataclass(frozen=True, kw_only=True)
class RecentDecision:
    """One request that was decided.

    Attributes:
        at: seconds since 1970.
        block: its reason.
        question: its text, where texts may be shown; otherwise None.
    """

    at: float
    block: Mapping[str, Any]
    question: str | None


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """How long a stage took, over the last requests that had it.

    Attributes:
        stage: ``members``, ``router`` or ``oracle``.
        median_s: in seconds.
        p95_s: the 95th percentile, in seconds.
        requests: how many those were.
    """

    stage: str
    median_s: float
    p95_s: float
    requests: int


class Recent:
    """Sums and last decisions of one gateway.

    Attributes:
        judged: requests that router or vote judged.
        escalated: how many of them asked the oracle.
        degraded: answers, judged or not, of models that stand in for others, which failed.
        direct: answers that nobody judged.
        unlike: those of them to questions unlike those of training.
        cost_usd: of everything.
        oracle_cost_usd: what the oracle alone would have cost.
    """

    def __init__(self, *, decisions: int, texts: bool) -> None:
        """Begin with nothing.

        Args:
            decisions: how many are kept.
            texts: whether questions are kept with them.
        """
        self.judged = self.escalated = self.degraded = self.direct = self.unlike = 0
        self.cost_usd = self.oracle_cost_usd = 0.0
        self._texts = texts
        self._last: deque[RecentDecision] = deque(maxlen=decisions)
        self._seconds: dict[str, deque[float]] = {stage: deque(maxlen=_TIMES) for stage in _STAGES}

    def add(self, block: Mapping[str, Any], questions: Sequence[str]) -> None:
        """Take in a request by its ``pyramid`` block."""
        self.cost_usd += block.get("cost_usd") or 0.0
        for place, one in enumerate(block.get("choices", [block])):
            question = questions[min(place, len(questions) - 1)] if questions else None
            self._last.append(
                RecentDecision(
                    at=time.time(), block=one, question=question if self._texts else None
                )
            )
            self.degraded += one["degraded"]
            if one["route"] == "direct":
                self.direct += 1
                self.unlike += one["cause"] == "out_of_distribution"
                self.oracle_cost_usd += one.get("cost_usd") or 0.0
                continue
            self.judged += 1
            self.escalated += one["escalated"]
            self.oracle_cost_usd += one["oracle_cost_usd"]
            for stage, seconds in self._seconds.items():
                if one[f"{stage}_s"] > 0:
                    seconds.append(one[f"{stage}_s"])

    @property
    def last(self) -> list[RecentDecision]:
        """The last decisions, the latest first."""
        return list(reversed(self._last))

    @property
    def saved_share(self) -> float | None:
        """Of the oracle's price, what was saved; None before anything had a price."""
        return 1.0 - self.cost_usd / self.oracle_cost_usd if self.oracle_cost_usd > 0 else None

    @property
    def escalated_share(self) -> float | None:
        """Of judged requests; None before there was one."""
        return self.escalated / self.judged if self.judged else None

    @property
    def times(self) -> list[StageTimes]:
        """Of the stages that have been gone through."""
        return [
            StageTimes(
                stage=stage,
                median_s=_percentile(seconds, 50),
                p95_s=_percentile(seconds, 95),
                requests=len(seconds),
            )
            for stage, seconds in self._seconds.items()
            if seconds
        ]


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]
