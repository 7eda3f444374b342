"""What a run may cost: money is set aside for an answer before it is asked for."""

import threading

__all__ = ["Budget"]


class Budget:
    """Counts what was spent and what answers under way may come to; any thread may use it."""

    def __init__(self, most_usd: float | None, *, spent_usd: float) -> None:
        """Begin.

        Args:
            most_usd: what the whole run may cost; None for any amount.
            spent_usd: what it has cost so far.
        """
        self.most_usd = most_usd
        self._spent = spent_usd
        self._set_aside = 0.0
        self._lock = threading.Lock()

    @property
    def spent_usd(self) -> float:
        """What has been spent."""
        return self._spent

    def reserve(self, usd: float) -> bool:
        """Set aside what an answer may cost at most; False where that is not there."""
        with self._lock:
            if self.most_usd is not None and self._spent + self._set_aside + usd > self.most_usd:
                return False
            self._set_aside += usd
            return True

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        """Put what an answer has cost in the place of what was set aside for it."""
        with self._lock:
            self._set_aside -= reserved_usd
            self._spent += cost_usd
