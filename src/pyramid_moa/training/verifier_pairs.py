"""Which recorded answers a verifier learns from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.verifier_text import answer_text

__all__ = ["Pair", "draw_pairs", "is_held_out"]

_HELD_OUT_PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A question and one answer.

    Attributes:
        question: its text.
        hashed: its hash.
        text: of the answer, as ``answer_text`` gives it.
        right: whether the answer is.
    """

    question: str
    hashed: str
    text: str
    right: bool


def is_held_out(hashed: str, *, seed: int) -> bool:
    """Whether a question stops the training instead of being learned from: a fifth of them.

    Args:
        hashed: of the question.
        seed: of the division.
    """
    digest = hashlib.sha256(f"stops the verifier {seed} {hashed}".encode()).digest()
    return int.from_bytes(digest[:8]) % _HELD_OUT_PARTS == 0


def draw_pairs(
    run: LabelledRun, positions: Sequence[int], models: Sequence[str], *, count: int, seed: int
) -> list[Pair]:
    """Draw answers: of every question as many right ones as wrong ones.

    So the classes are balanced, and nothing is gained by learning questions by heart. Every
    question gives one of each before any gives two; questions that are always or never answered
    rightly give none.

    Args:
        run: where the answers are.
        positions: of the questions.
        models: whose answers.
        count: the most pairs.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    rounds: dict[int, list[Pair]] = {}
    for position in generator.permutation(np.array(positions, dtype=np.int64)):
        own = _pairs(run, int(position), models)
        right, wrong = ([pair for pair in own if pair.right is kind] for kind in (True, False))
        # The rarer kind says how many.
        both = zip(
            generator.permutation(len(right)), generator.permutation(len(wrong)), strict=False
        )
        for number, (one, other) in enumerate(both):
            rounds.setdefault(number, []).extend((right[one], wrong[other]))
    drawn = [pair for number in sorted(rounds) for pair in rounds[number]]
    return drawn[: count - count % 2]


def _pairs(run: LabelledRun, position: int, models: Sequence[str]) -> list[Pair]:
    question = run.queries[position].question
    rows = (run.generations[name][position] for name in models)
    return [
        Pair(question=question, hashed=question_hash(question), text=text, right=bool(row.correct))
        for row in rows
        if (text := answer_text(row)) is not None and row.correct is not None
    ]
