"""A share and its interval that hold at every time at once, however often they are looked at.

A gambler who doubts that a share is ``p`` bets on every observation as if it were another one,
drawn from a beta distribution; where it is ``p`` the wealth ever exceeds 1 / level with a
probability of at most ``level`` (Ville's inequality). All ``p`` that have not been doubted away
make the interval. Source: Robbins, "Statistical methods related to the law of the iterated
logarithm" (1970), sections 1 and 3; Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences" (2021), section 3.
"""

import math

__all__ = ["log_evidence_against", "share_bounds"]

# Where the gambler looks first: small shares, of one in twenty or so.
_HITS, _MISSES = 1.0, 19.0
_HALVINGS = 50


def log_evidence_against(share: float, hits: int, of: int) -> float:
    """Natural logarithm of the wealth of who doubts a share.

    Args:
        share: that is doubted.
        hits: what was seen of it so far.
        of: how many were looked at.

    Returns:
        It; 0 before anything was seen, infinity where the share can't be.
    """
    misses = of - hits
    if (share <= 0 and hits) or (share >= 1 and misses):
        return math.inf
    seen = (math.log(share) * hits if hits else 0.0) + (
        math.log1p(-share) * misses if misses else 0.0
    )
    return _log_beta(_HITS + hits, _MISSES + misses) - _log_beta(_HITS, _MISSES) - seen


def share_bounds(hits: int, of: int, *, level: float) -> tuple[float, float]:
    """An interval that has the true share in it at all times with a probability of 1 - ``level``.

    Args:
        hits: seen so far.
        of: looked at so far, each drawn independently.
        level: between 0 and 1.
    """
    if not of:
        return 0.0, 1.0
    enough, seen = -math.log(level), hits / of
    return _end(0.0, seen, hits, of, enough), _end(1.0, seen, hits, of, enough)


def _end(outside: float, inside: float, hits: int, of: int, enough: float) -> float:
    """The interval's end between a share that was seen and the furthest there is."""
    if log_evidence_against(outside, hits, of) < enough:
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if log_evidence_against(middle, hits, of) >= enough:
            outside = middle
        else:
            inside = middle
    return outside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
