"""Draws word problems of a split, in a fixed order for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from pyramid_moa.data_prep.word_problems.backward import tell_backward
from pyramid_moa.data_prep.word_problems.business import BUSINESS
from pyramid_moa.data_prep.word_problems.chain import tell_chain
from pyramid_moa.data_prep.word_problems.everyday import EVERYDAY
from pyramid_moa.data_prep.word_problems.garden import tell_garden
from pyramid_moa.data_prep.word_problems.relations import RELATIONS, tell_relations
from pyramid_moa.data_prep.word_problems.splitting import (
    LONG,
    NOVEL_SKELETONS,
    SPLITS,
    Split,
    is_novel_skeleton,
    split_of,
)
from pyramid_moa.data_prep.word_problems.story import Story, UnsuitableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MOST_STEPS", "SCENARIOS", "STEP_MIX", "WordProblem", "make_problems"]

DISTRACTED = 0.3
"""Share of problems with a sentence that has nothing to do with the question."""

STEP_MIX = {1: 0.12, 2: 0.25, 3: 0.27, 4: 0.19, 5: 0.11, 6: 0.06}
"""The natural mix: share of problems by number of steps."""

MOST_STEPS = max(STEP_MIX)

SCENARIOS: dict[str, Callable[[Story, int], None]] = {
    **{name: partial(tell_chain, chain) for name, chain in {**EVERYDAY, **BUSINESS}.items()},
    **{name: partial(tell_relations, words) for name, words in RELATIONS.items()},
    "garden": tell_garden,
    "backward": tell_backward,
}
"""Every scenario: a function that tells a story of it with a given number of steps."""


@dataclass(frozen=True, kw_only=True)
class WordProblem:
    """A question of grade-school arithmetic with its worked solution.

    Attributes:
        question: the text put to a model.
        solution: one short equation a line, then ``#### N``.
        answer: the number behind ``####``.
        steps: number of equations.
        scenario: what the story is about, a key of ``SCENARIOS``.
    """

    question: str
    solution: str
    answer: str
    steps: int
    scenario: str


def make_problems(
    *, split: Split, count: int, seed: int, steps: int | None = None
) -> list[WordProblem]:
    """Make problems; the same arguments always give the same ones, on every machine.

    A larger ``count`` gives the same problems first. No problem of "train" shares its scenario
    and numbers with one of the other two splits, nor those two with each other.

    Args:
        split: which part of all problems to draw from.
        count: how many, each with a different question.
        seed: another seed gives other problems.
        steps: number of equations of every problem; None for the natural mix.

    Raises:
        ValueError: an unknown split, a negative count, or steps outside 1 to ``MOST_STEPS``.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    if steps is not None and steps not in STEP_MIX:
        raise ValueError(f"steps must be None or from 1 to {MOST_STEPS}, not {steps}")
    problems: dict[str, WordProblem] = {}
    stream = _stream(Random(f"word problems|{split}|{seed}|{steps}"), split, steps)
    while len(problems) < count:
        problem = next(stream)
        problems.setdefault(problem.question, problem)
    return list(problems.values())


def _stream(rng: Random, split: Split, steps: int | None) -> Iterator[WordProblem]:
    """Yield problems of a split without end; a question may come again."""
    while True:
        length = _draw_length(rng) if steps is None else steps
        # Outside of training, new compositions have the share that they have among all problems.
        novel = split != "train" and length >= LONG and rng.random() < NOVEL_SKELETONS
        scenario = rng.choice(list(SCENARIOS))
        yield _draw(rng, split, scenario, length, novel)


def _draw_length(rng: Random) -> int:
    """Draw a number of steps from the natural mix."""
    return rng.choices(list(STEP_MIX), weights=list(STEP_MIX.values()))[0]


def _draw(rng: Random, split: Split, scenario: str, length: int, novel: bool) -> WordProblem:
    """Draw stories until one fits, changing the scenario where it has none that does."""
    attempts = 0
    while True:
        attempts += 1
        if attempts % 200 == 0:
            scenario = rng.choice(list(SCENARIOS))
        story = Story(rng)
        try:
            SCENARIOS[scenario](story, length)
        except UnsuitableError:
            continue
        if is_novel_skeleton(scenario, story) != novel or split_of(scenario, story) != split:
            continue
        if rng.random() < DISTRACTED:
            story.distract()
        return WordProblem(
            question=story.text,
            solution=story.solution,
            answer=str(story.steps[-1].result),
            steps=length,
            scenario=scenario,
        )
