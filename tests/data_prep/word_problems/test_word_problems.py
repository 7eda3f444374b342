"""The generator: correct, deterministic, split without overlap, frozen, and not guessable."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_moa.data_prep.word_problems import (
    MOST_STEPS,
    SCENARIOS,
    SPLITS,
    STEP_MIX,
    WordProblem,
    make_problems,
)
from pyramid_moa.data_prep.word_problems.splitting import is_novel_skeleton, split_of
from pyramid_moa.data_prep.word_problems.story import LARGEST, Story, UnsuitableError

EQUATION = re.compile(r"[a-zA-Z]+ (\d+) ([-+*/]) (\d+) = (\d+)")

FROZEN = {
    "train": "f3b81fe814fd1ecfc51c085547fac462d2529ad787663b75da489054b5af58fc",
    "validation": "713a31be1249601e1fc7fa44088acf4699afcf69feedefdeafb8e37b7aad28cc",
    "test": "c812b311962e33aaaf09777cfd5e15713816d9e4bf8ed0ca61e9b9d7e75fc9d1",
}
"""Never to be changed: the shipped models and their cards belong to these problems."""


def fingerprint(problems: list[WordProblem]) -> str:
    return sha256("\n\n".join(f"{p.question}\n{p.solution}" for p in problems).encode()).hexdigest()


def numbers_of(problem: WordProblem) -> tuple[str, ...]:
    return (problem.scenario, *re.findall(r"\d+ [-+*/] \d+", problem.solution))


@pytest.mark.parametrize("split", SPLITS)
def test_generator_is_frozen(split):
    assert fingerprint(make_problems(split=split, count=200, seed=0)) == FROZEN[split]


@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.sampled_from([None, *STEP_MIX]))
@settings(max_examples=40, deadline=None)
def test_equations_hold_and_lead_to_the_answer(split, seed, steps):
    for problem in make_problems(split=split, count=5, seed=seed, steps=steps):
        *lines, last = problem.solution.split("\n")
        assert len(lines) == problem.steps
        if steps is not None:
            assert problem.steps == steps
        known = {int(n) for n in re.findall(r"\d+", problem.question)}
        words = {"half": 2, "third": 3, "quarter": 4, "fifth": 5, "twice": 2, "three": 3}
        words |= {"four": 4, "doubled": 2, "fence": 2, "50 %": 2, "25 %": 4, "20 %": 5, "10 %": 10}
        text = problem.question.lower()
        known |= {n for word, n in words.items() if word in text}
        for line in lines:
            a, operation, b, c = EQUATION.fullmatch(line).groups()
            a, b, c = int(a), int(b), int(c)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation] == c
            assert 1 <= c <= LARGEST
            # Nothing comes from nowhere: every number was told or worked out before.
            assert {a, b} <= known
            known.add(c)
        assert last == f"#### {c}"
        assert problem.answer == str(c)


@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_larger_count_gives_the_same_problems_first(split, seed, few, more):
    short = make_problems(split=split, count=few, seed=seed)
    assert make_problems(split=split, count=few + more, seed=seed)[:few] == short


def test_questions_are_distinct_and_seeds_differ():
    problems = make_problems(split="test", count=1500, seed=5, steps=1)
    assert len({p.question for p in problems}) == 1500
    other = {p.question for p in make_problems(split="test", count=1500, seed=6, steps=1)}
    assert len(other & {p.question for p in problems}) < 200


def test_splits_share_neither_question_nor_numbers():
    parts = {s: make_problems(split=s, count=1500, seed=1) for s in SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not {p.question for p in parts[one]} & {p.question for p in parts[other]}
        assert not {numbers_of(p) for p in parts[one]} & {numbers_of(p) for p in parts[other]}


def test_natural_mix_of_steps_and_scenarios():
    problems = make_problems(split="test", count=2000, seed=2)
    steps = Counter(p.steps for p in problems)
    for count, share in STEP_MIX.items():
        assert steps[count] / 2000 == pytest.approx(share, abs=0.035)
    assert set(Counter(p.scenario for p in problems)) == set(SCENARIOS)
    assert min(Counter(p.scenario for p in problems).values()) > 2000 / len(SCENARIOS) / 2
    assert MOST_STEPS == 6


def test_some_long_held_out_problems_have_a_new_composition():
    def compositions(split, count):
        problems = make_problems(split=split, count=count, seed=3, steps=5)
        return [(p.scenario, *re.findall(r"[-+*/](?= )", p.solution)) for p in problems]

    known = set(compositions("train", 5000))
    new = sum(c not in known for c in compositions("test", 200))
    assert 0 < new / 200 < 1 / 4


def test_a_short_problem_has_no_novel_skeleton_and_a_novel_one_is_never_for_training():
    rng, novel = Random(4), 0
    for _ in range(3000):
        story = Story(rng)
        try:
            SCENARIOS["shop"](story, rng.randint(3, 5))
        except UnsuitableError:
            continue
        if is_novel_skeleton("shop", story):
            novel += 1
            assert len(story.steps) >= 4
            assert split_of("shop", story) != "train"
    assert novel > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev", "count": 1, "seed": 0}, "split must be one of train"),
        ({"split": "test", "count": -1, "seed": 0}, "count must be 0 or more"),
        ({"split": "test", "count": 1, "seed": 0, "steps": 7}, "from 1 to 6, not 7"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_problems(**arguments)


def test_no_problems_when_none_are_asked_for():
    assert make_problems(split="train", count=0, seed=0) == []


@pytest.mark.parametrize(
    ("kind", "ngrams"), [("neighbour", (1, 2)), ("bayes", (1, 2)), ("linear", (1, 1))]
)
def test_a_bag_of_words_cannot_answer(kind, ngrams):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier

    model = {
        "neighbour": KNeighborsClassifier(1, metric="cosine"),
        "bayes": MultinomialNB(),
        "linear": RidgeClassifier(solver="sparse_cg", tol=1e-1),
    }[kind]
    train = make_problems(split="train", count=2500, seed=0)
    test = make_problems(split="test", count=300, seed=0)
    words = TfidfVectorizer(token_pattern=r"\w+", ngram_range=ngrams)
    model.fit(words.fit_transform([p.question for p in train]), [p.answer for p in train])
    guesses = model.predict(words.transform([p.question for p in test]))
    right = sum(guess == p.answer for guess, p in zip(guesses, test, strict=True))
    assert right / len(test) < 0.05
