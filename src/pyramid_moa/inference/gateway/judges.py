"""Where grading and scoring run: in the event loop where they are quick, else in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyramid_moa.inference.course import Rules

__all__ = ["Judges"]

# Grading and scoring hold the interpreter most of the time: more threads would only wait.
_THREADS = 4
# Those that neither run somebody else's code nor wait for computer algebra.
_QUICK_GRADERS = ("exact", "gsm8k", "multiple-choice")
# With so much to read they take about as long as the way to a thread and back.
_FEW_CHARACTERS = 3000

_T = TypeVar("_T")


class Judges:
    """Runs what decides; belongs to one event loop.

    Attributes:
        pool: the threads, for what need not be quick.
    """

    def __init__(self, rules: Rules) -> None:
        """Look at what decides."""
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="judge")
        reads_text = rules.router is not None and rules.router.verifier is not None
        self._quick = rules.grader.name in _QUICK_GRADERS and not reads_text

    async def run(self, work: Callable[[], _T], *, characters: int) -> _T:
        """Do some work.

        Args:
            work: grades and scores.
            characters: of all that it reads.
        """
        if self._quick and characters <= _FEW_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def close(self) -> None:
        """Begin nothing more."""
        self.pool.shutdown(wait=False, cancel_futures=True)
