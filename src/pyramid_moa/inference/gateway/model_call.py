"""One call of a model: what its breaker is told, and whose fault it is where it takes too long."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from pyramid_moa.backends import Failure
from pyramid_moa.backends.openai_reply import token_count
from pyramid_moa.backends.outgoing import sending_with
from pyramid_moa.inference.gateway.circuit_breaker import CircuitBreaker, Permit
from pyramid_moa.inference.gateway.request_time import is_over
from pyramid_moa.inference.gateway.settings import Faults
from pyramid_moa.inference.gateway.tracing import NO_STAGE, Stage

__all__ = ["CallResult", "ModelCall"]

CallResult = Literal[
    "answered", "failed", "timed_out", "refused", "left_out", "given_up", "crowded_out"
]
"""How a call ended: a model refuses a prompt that it can't take; it is left out while its breaker
is open; it is given up where the client has gone, or the request's own time is over; and crowded
out where others took the model's time until its own was over."""

# A call that had so much of a whole request's time for itself has had enough of it.
_ENOUGH = 1 / 3


class ModelCall:
    """Told once how it ended, whoever knows first.

    Attributes:
        permit: of the breaker; None for a call that may not be made.
        stage: of the request that it is made for.
    """

    def __init__(
        self,
        name: str,
        breaker: CircuitBreaker,
        faults: Faults,
        ended: Callable[[str, CallResult, float], None],
        stage: Callable[[], Stage] = lambda: NO_STAGE,
        *,
        early: bool = False,
    ) -> None:
        """Ask the breaker for leave.

        Args:
            name: the model's.
            breaker: the model's.
            faults: how long a call may take.
            ended: told the model's name, how the call ended, and after how many seconds.
            stage: begins what a trace has of the call.
            early: see ``CircuitBreaker.admit``.
        """
        self.permit: Permit | None = breaker.admit(early=early)
        self._name, self._breaker, self._faults, self._ended = name, breaker, faults, ended
        self._started = asyncio.get_running_loop().time()
        self._began_at: float | None = None
        self._listens_since: float | None = None
        self._settled = False
        self.stage = stage() if self.permit is not None else NO_STAGE

    def sending(self) -> AbstractContextManager[None]:
        """What is sent meanwhile says which trace it belongs to."""
        return sending_with(headers) if (headers := self.stage.headers) else nullcontext()

    def note_usage(self, reply: Mapping[str, object]) -> None:
        """Tell the trace of the tokens that a server has counted, if it has."""
        usage = reply.get("usage") if self.stage is not NO_STAGE else None
        if isinstance(usage, dict):
            counts = [token_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion")]
            self.stage.note_tokens(*counts)

    def begin(self) -> None:
        """The model has been given the prompt: what it takes from now on is its own doing."""
        if self._began_at is None:
            self._began_at = asyncio.get_running_loop().time()

    def shows_life(self) -> None:
        """The first of an answer has come.

        A breaker that waits for the outcome of one try need not wait for the end of its stream,
        which may last minutes; how that ends is told by another permit.
        """
        if self.permit is not None and self.permit.is_probe:
            self.permit.succeeded()
            self.permit = self._breaker.admit()

    def listens(self) -> None:
        """After a part of the answer, the next one is waited for."""
        self._listens_since = asyncio.get_running_loop().time()

    def end(self, until: float, limit_s: float | None) -> float:
        """When its time is over, on the event loop's clock."""
        return until if limit_s is None else min(until, self._started + limit_s)

    def timed_out(self, until: float) -> Failure:
        """Settle a call that took too long: its fault, unless the request had less time."""
        now = asyncio.get_running_loop().time()
        if self._began_at is None:
            self.settle("crowded_out")
            return Failure(
                message=f"{self._name} has more to do than it can at once (max_concurrency)",
                can_retry=True,
                latency_s=now - self._started,
            )
        seconds = now - self._began_at
        faults = self._faults
        # A request that came to the model with most of its time gone says little about it.
        enough_s = min(faults.member_timeout_s, _ENOUGH * faults.deadline_s)
        if self._listens_since is None:
            # Nor does one that has waited for a place for most of it.
            in_line_s = self._began_at - self._started
            own = seconds >= enough_s or (not is_over(until) and in_line_s < seconds)
        else:
            # One that goes on speaking is not to blame for a long answer, nor for slow readers.
            own = now - self._listens_since >= enough_s
        self.settle("timed_out" if own else "given_up")
        return Failure(
            message=f"{self._name} gave no answer within {seconds:.1f} s",
            can_retry=True,
            latency_s=seconds,
        )

    def settle(self, result: CallResult) -> None:
        """Tell the breaker and who else wants to know; what is told later counts no more."""
        if self._settled:
            return
        self._settled = True
        if self.permit is not None:
            _tell(self.permit, result)
        seconds = asyncio.get_running_loop().time() - self._started
        self._ended(self._name, result, seconds)
        self.stage.note(result=result)
        self.stage.end(error=None if result == "answered" else result)


def _tell(permit: Permit, result: CallResult) -> None:
    if result in ("failed", "timed_out"):
        permit.failed()
    elif result in ("given_up", "crowded_out"):
        permit.abandoned()
    else:
        # A prompt that is refused comes from a model that works.
        permit.succeeded()
