"""Two ways of doing the same, measured in turn in one run: A B, B A, A B, ..."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

__all__ = ["Pairs", "measure_pairs"]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Seconds of both ways.

    Attributes:
        ours_s: of ours.
        theirs_s: of what it is compared with, pair by pair.
        queries: answered by each.
    """

    ours_s: list[float]
    theirs_s: list[float]
    queries: int

    @property
    def ratios(self) -> list[float]:
        """Queries per second of ours over theirs, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.ours_s, self.theirs_s, strict=True)]

    def row(self, name: str) -> str:
        """A line of the table."""
        ours, theirs = (self.queries / median(s) for s in (self.ours_s, self.theirs_s))
        spread = f"{min(self.ratios):.3f} to {max(self.ratios):.3f}"
        return f"| {name} | {ours:.1f} | {theirs:.1f} | {median(self.ratios):.3f} ({spread}) |"


def measure_pairs(
    ours: Callable[[], float], theirs: Callable[[], float], *, queries: int, pairs: int
) -> Pairs:
    """Run both once unmeasured, then in pairs, the other one first each time.

    Args:
        ours: does it and says how many seconds it took.
        theirs: likewise.
        queries: answered by each.
        pairs: how many.
    """
    ours(), theirs()
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            found[index].append((ours, theirs)[index]())
    return Pairs(ours_s=found[0], theirs_s=found[1], queries=queries)
