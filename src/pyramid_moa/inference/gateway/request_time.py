"""Whether a request's time is over, on a clock whose timers may go off early."""

import asyncio

__all__ = ["is_over"]

# uvloop rounds to the nearest millisecond: who is woken when the time is over may be half of one
# too early to see that it is.
_EARLY_S = 0.001


def is_over(until: float) -> bool:
    """Whether it is.

    Args:
        until: when it ends, on the running event loop's clock.
    """
    return asyncio.get_running_loop().time() >= until - _EARLY_S
