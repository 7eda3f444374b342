"""The program that runs math-verify in a process of its own; `math_process` starts it by its path.

It reads one JSON list of two expressions a line and answers each with true or false. It imports
nothing of this package, so that it starts wherever math-verify is installed.
"""

import json
import logging
import signal
import sys
from functools import lru_cache
from typing import Any, TextIO

_MEMORY_LIMIT_BYTES = 4 << 30
# The asking process ends a slow worker long before; this is for when that process is gone.
_LAST_RESORT_S = 60


def main(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until their end.

    Args:
        requests: lines of JSON.
        replies: gets "ready", or why math-verify cannot be imported; then one line a request.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), file=replies, flush=True)
        return

    @lru_cache(maxsize=8192)
    def parsed(text: str) -> list[Any]:
        return list(parse(f"${text}$", parsing_timeout=None))

    def is_equal(a: str, b: str) -> bool:
        first, second = parsed(a), parsed(b)
        # Both ways: math-verify's comparison is not symmetric.
        return bool(
            verify(first, second, timeout_seconds=None)
            or verify(second, first, timeout_seconds=None)
        )

    print(json.dumps("ready"), file=replies, flush=True)
    for line in requests:
        _set_alarm(_LAST_RESORT_S)
        try:
            reply = is_equal(*json.loads(line))
        except Exception:  # whatever an odd expression sets off in a parser: not equal
            reply = False
        _set_alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def _set_alarm(seconds: int) -> None:
    """Let the system end this process after a time, or not any more (0), where it can."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Let a runaway expression fail here rather than fill the machine, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > _MEMORY_LIMIT_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, hard))


if __name__ == "__main__":
    logging.disable()  # math-verify warns that its time limits are off, which is meant
    _limit_memory()
    replies = sys.stdout
    sys.stdout = sys.stderr  # nothing that a library prints may pass for a reply
    main(sys.stdin, replies)
