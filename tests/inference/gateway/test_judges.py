"""Where grading and scoring run."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from pyramid_moa.grading import load_grader
from pyramid_moa.inference.gateway.judges import Judges


@pytest.mark.parametrize(
    ("grader", "verifier", "characters", "here"),
    [
        ("gsm8k", None, 300, True),
        ("multiple-choice", None, 300, True),
        ("gsm8k", None, 300_000, False),
        # It may wait five seconds for computer algebra.
        ("math-verify", None, 300, False),
        ("gsm8k", "reads every word", 300, False),
    ],
)
def test_the_loop_waits_only_for_what_is_quick(grader, verifier, characters, here):
    router = SimpleNamespace(verifier=verifier)
    rules = SimpleNamespace(grader=load_grader(grader), router=router)

    async def work():
        judges = Judges(rules)
        try:
            return await judges.run(threading.get_ident, characters=characters)
        finally:
            judges.close()

    assert (asyncio.run(work()) == threading.get_ident()) is here
