"""What audits say of an operating point's promise."""

import math
from dataclasses import dataclass

from pyramid_moa.inference.gateway.confidence_sequence import log_evidence_against, share_bounds
from pyramid_moa.router_model.policy import OperatingPoint, Promise

__all__ = ["PromiseWatch", "watches_of"]

# Half of what false alarms may be; the other half is the allowed share's, which was measured.
_LEVEL = 0.025
_INTERVAL = 0.05


@dataclass(kw_only=True)
class PromiseWatch:
    """One operating point's promise beside how often its answers differ from the oracle's.

    Every request at the point takes part in the draw, so that this is about all of them: one that
    asked the oracle costs nothing to compare.

    Attributes:
        point: its name.
        promise: of the point.
        allowed: share of all its answers that may differ from the oracle's while it is kept.
        same: answers that were drawn and are the oracle's, or equal to it.
        differ: others that were drawn.
        broken: the share was once surely larger than allowed; it stays so.
    """

    point: str
    promise: Promise
    allowed: float
    same: int = 0
    differ: int = 0
    broken: bool = False

    def add(self, *, differs: bool) -> None:
        """Count an answer that was drawn."""
        self.differ += differs
        self.same += not differs
        share = self.differ / self.drawn
        # Where the promise holds this is ever so with a probability of at most _LEVEL.
        evidence = log_evidence_against(self.allowed, self.differ, self.drawn)
        if share > self.allowed and evidence >= -math.log(_LEVEL):
            self.broken = True

    @property
    def drawn(self) -> int:
        """Answers that were compared."""
        return self.same + self.differ

    @property
    def share(self) -> tuple[float, float, float]:
        """Of all answers those that differ, with an interval that holds at all times at 95 %."""
        low, high = share_bounds(self.differ, self.drawn, level=_INTERVAL)
        return (self.differ / self.drawn if self.drawn else math.nan), low, high

    @property
    def told(self) -> str:
        """How it stands, in words."""
        share, low, high = self.share
        promised = " and ".join(f"{kind} {value:g}" for kind, value in self.promise.targets)
        return (
            f"operating point {self.point}, {promised}: of "
            f"{self.drawn} answers {share:.3f} differ from the oracle's (95 % interval {low:.3f} "
            f"to {high:.3f}), allowed {self.allowed:.3f}"
        )


def watches_of(points: list[OperatingPoint]) -> dict[str, PromiseWatch]:
    """A watch for every point whose promise audits can say something of, by its name."""
    return {
        point.name: PromiseWatch(
            point=point.name, promise=point.promise, allowed=point.promise.most_differ
        )
        for point in points
        if point.promise is not None and point.promise.most_differ is not None
    }
