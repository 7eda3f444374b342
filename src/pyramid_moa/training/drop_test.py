"""An exact test that a rule's accuracy lies at most so far below the oracle's."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.outcomes import FloatArray

__all__ = ["DropTest", "evidence_of_drop"]

Counts = FloatArray | NDArray[np.int64]

# Of the level that is spent on bounding what the drop leaves open, and how finely that is looked
# through, in standard deviations of the mean: finer is stronger and slower, so that most is proven
# or given up at a coarse look.
_SPENT = 0.02
_COARSE, _FINE = 0.4, 0.03
# Standard deviations, and counts, beyond which a tail is added whole.
_FAR = 7.0


def evidence_of_drop(lost: Counts, gained: Counts, n: int, drop: float) -> FloatArray:
    """Signed root of the likelihood ratio that the drop is below ``drop`` rather than just that.

    It is about standard normal where the drop is just that, and larger where it is below.

    Args:
        lost: how many questions the oracle had right and the rule wrong, of any shape.
        gained: how many the rule had right and the oracle wrong, likewise.
        n: how many questions there are.
        drop: the oracle's accuracy less the rule's that is tested, from 0 to below 1.
    """
    from scipy.special import xlogy

    lost, gained = np.asarray(lost, dtype=np.float64), np.asarray(gained, dtype=np.float64)
    same = n - lost - gained
    # The share q that gains where the share that loses is q + drop: the root of the likelihood's
    # derivative, a quadratic.
    linear = lost * (1 - drop) + gained * (1 - 3 * drop) - 2 * same * drop
    root = np.sqrt(linear**2 + 8 * n * gained * drop * (1 - drop))
    q = np.clip((linear + root) / (4 * n), 0.0, (1 - drop) / 2)
    free = xlogy(lost, lost / n) + xlogy(gained, gained / n) + xlogy(same, same / n)
    bound = xlogy(lost, q + drop) + xlogy(gained, q) + xlogy(same, 1 - drop - 2 * q)
    sign = np.sign(n * drop - (lost - gained))
    evidence: FloatArray = sign * np.sqrt(2 * np.maximum(free - bound, 0.0))
    return evidence


@dataclass(frozen=True, kw_only=True, eq=False)
class DropTest:
    """Whether n questions prove that a rule's accuracy is at most ``drop`` below the oracle's.

    The three outcomes of a question (lost, gained, the same) are ordered by the likelihood ratio,
    and the probability of what was seen or more is taken at its largest over the share that gains,
    which the drop leaves open, within an exact interval of it; what the interval may miss is added.
    Exact at every n. Source: Berger and Boos 1994, "P values maximized over a confidence set for
    the nuisance parameter".

    Attributes:
        n: questions.
        drop: from 0 to below 1.
        level: probability of a proof where the drop is larger.
    """

    n: int
    drop: float
    level: float
    _known: dict[int, tuple[int, int]] = field(default_factory=dict)

    def proves(self, lost: int, gained: int) -> bool:
        """Whether these counts prove it; what earlier ones have told is remembered."""
        good, bad = self._known.get(gained, (-1, self.n + 1))
        if good < lost < bad:
            if any(self.p_value(lost, gained, step) <= self.level for step in (_COARSE, _FINE)):
                good = lost
            else:
                bad = lost
            self._known[gained] = (good, bad)
        return lost <= good

    def p_value(self, lost: int, gained: int, fineness: float = _FINE) -> float:
        """Largest probability of such evidence, or more, where the drop is not below ``drop``.

        Args:
            lost: questions that the oracle has right and the rule wrong.
            gained: questions that the rule has right and the oracle wrong.
            fineness: how finely shares are looked through, in standard deviations; what is found is
                never smaller than the true p-value.
        """
        from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

        n, drop, spent = self.n, self.drop, self.level * _SPENT
        seen = float(evidence_of_drop(np.array(lost), np.array(gained), n, drop))
        if seen <= 0:
            return 1.0  # as what was measured says
        most = (1 - drop) / 2
        low = float(betaincinv(gained, n - gained + 1, spent / 2)) if gained else 0.0
        high = float(betaincinv(gained + 1, n - gained, 1 - spent / 2)) if gained < n else 1.0
        shares = _between(min(low, most), min(high, most), n, drop, fineness)
        # Between two shares the probability is at most that of the larger one that gains and of
        # the smaller one's that loses, since both only add to the evidence.
        gains = shares[1:]
        loses = np.minimum(shares[:-1] + drop, 1 - gains)
        spread = _FAR * np.sqrt(n * gains.max()) + _FAR**2
        first = max(0, int(n * gains.min() - spread))
        k = np.arange(first, min(n, int(n * gains.max() + spread)) + 1)
        allowed = self._most_lost(k, seen)
        k, allowed = k[allowed >= 0], allowed[allowed >= 0]
        if not len(k):
            return spent
        count = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        mass = np.exp(count + xlogy(k, gains[:, None]) + xlog1py(n - k, -gains[:, None]))
        rest = np.clip(loses / (1 - gains), 0.0, 1.0)[:, None]
        below = bdtr(np.minimum(allowed, n - k).astype(np.float64), n - k, rest)
        # What was left out on both sides of k is less than this.
        return min(1.0, float((mass * below).sum(axis=1).max()) + spent + 1e-10)

    def _most_lost(self, gained: NDArray[np.int64], seen: float) -> NDArray[np.int64]:
        """For each number gained the most lost whose evidence is as strong as that seen, or -1."""
        low = np.full(len(gained), -1, dtype=np.int64)
        high = self.n - gained + 1
        while np.any(high - low > 1):
            middle = (low + high) // 2
            tried = np.clip(middle, 0, self.n - gained)
            strong = evidence_of_drop(tried, gained, self.n, self.drop) >= seen - 1e-9
            low, high = np.where(strong, middle, low), np.where(strong, high, middle)
        return low


def _between(low: float, high: float, n: int, drop: float, fineness: float) -> FloatArray:
    """Shares from low to high, rising, close to each other against the mean's deviation."""
    shares = [low]
    while shares[-1] < high:
        deviation = np.sqrt((drop + 2 * shares[-1] + 1.0 / n) / n)
        shares.append(min(high, shares[-1] + fineness * float(deviation)))
    return np.array(shares if len(shares) > 1 else [low, low])
