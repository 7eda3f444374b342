"""A generator of grade-school word problems with worked solutions and clean splits.

It is what the embedded models were trained on and what the demo asks them: pure Python, the same
problems for the same seed on every machine, and no download. "train" is what the language models
have seen; "validation" and "test" are held out from them, by numbers and by composition
(`splitting`). The generator is frozen: changing it makes the shipped models' cards wrong.
"""

from pyramid_moa.data_prep.word_problems.making import (
    MOST_STEPS,
    SCENARIOS,
    STEP_MIX,
    WordProblem,
    make_problems,
)
from pyramid_moa.data_prep.word_problems.splitting import SPLITS, Split

__all__ = [
    "MOST_STEPS",
    "SCENARIOS",
    "SPLITS",
    "STEP_MIX",
    "Split",
    "WordProblem",
    "make_problems",
]
