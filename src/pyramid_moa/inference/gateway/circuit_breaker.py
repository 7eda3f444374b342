"""A circuit breaker: a model that keeps failing is left alone for a while."""

import time
from collections.abc import Callable
from typing import Literal

__all__ = ["BreakerState", "CircuitBreaker", "Permit"]

BreakerState = Literal["closed", "half-open", "open"]


class CircuitBreaker:
    """Lets calls through until they fail in a row, then none, then one at a time.

    It counts what its caller says, not exceptions: a prompt that a model refuses is no fault of
    the model, and a call that its client gave up says nothing. It belongs to one event loop.
    """

    def __init__(
        self, *, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin closed.

        Args:
            failures: in a row, that open it.
            open_s: seconds that it then stays open.
            clock: in seconds.
        """
        self._most = failures
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        # Calls that began before it opened or closed have nothing to say about what came after.
        self._era = 0

    @property
    def state(self) -> BreakerState:
        """Closed lets all through, open none, half-open one at a time."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self.closes_in_s <= 0 else "open"

    @property
    def closes_in_s(self) -> float:
        """Seconds until it is tried again; 0 where calls are let through."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock())

    def admit(self, *, early: bool = False) -> "Permit | None":
        """Let a call through, whose outcome has to be told; None where it may not be made.

        Args:
            early: try it as if it had been left alone long enough: there is nobody else to ask.
        """
        state = self.state
        if (state == "open" and not early) or (state != "closed" and self._probing):
            return None
        self._probing = state != "closed"
        return Permit(self, self._era, is_probe=self._probing)

    def _settle(self, era: int, succeeded: bool | None) -> None:
        if era != self._era:
            return
        half_open, self._probing = self._probing, False
        if succeeded is None:
            return
        if succeeded:
            self._failures = 0
            if half_open:
                self._opened_at = None
                self._era += 1
            return
        self._failures += 1
        if half_open or self._failures >= self._most:
            self._opened_at = self._clock()
            self._era += 1


class Permit:
    """One call that was let through; the first outcome that is told counts.

    Attributes:
        is_probe: whether others wait for its outcome.
    """

    def __init__(self, breaker: CircuitBreaker, era: int, *, is_probe: bool) -> None:
        """Belong to a breaker as it was."""
        self.is_probe = is_probe
        self._breaker: CircuitBreaker | None = breaker
        self._era = era

    def succeeded(self) -> None:
        """The model works."""
        self._settle(True)

    def failed(self) -> None:
        """The model does not."""
        self._settle(False)

    def abandoned(self) -> None:
        """Nobody waited to see."""
        self._settle(None)

    def _settle(self, succeeded: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self._era, succeeded)
