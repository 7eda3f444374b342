"""Outcomes for tests: five queries worked out by hand, and any number simulated."""

from dataclasses import fields

import numpy as np
import pytest

from pyramid_moa.training.outcomes import Outcomes


def _changed(outcomes, **columns):
    """The same outcomes with other columns, checked again."""
    values = {field.name: getattr(outcomes, field.name) for field in fields(outcomes)}
    if "models_called" in columns and "paths" not in columns:
        columns["paths"] = _paths(columns["models_called"], columns.get("oracle", outcomes.oracle))
    return Outcomes(**(values | columns))


def _paths(models_called, oracle):
    """All that were asked before the oracle at once."""
    groups = [
        (tuple(name for name in called if name != oracle), (oracle,) if oracle in called else ())
        for called in models_called
    ]
    return tuple(tuple(group for group in path if group) for path in groups)


def _five_queries():
    """Queries 0 and 1 fail; the oracle fails at 4; threshold 0.5 asks it for 0, 1 and 2."""
    escalated = np.array([True, True, True, False, False])
    oracle_cost = np.array([1.0, 2.0, 1.0, 2.0, 4.0])
    called = (("a", "b", "big"),) * 3 + (("a", "b"),) * 2
    vote = ("1", "2", "7", "7", "7")
    return Outcomes(
        query_ids=("q0", "q1", "q2", "q3", "q4"),
        questions=("What is 0?", "What is 1?", "What is 2?", "What is 3?", "What is 4?"),
        golds=("7",) * 5,
        members=("a", "b"),
        member_answers=(("1", "1"), ("2", "7"), ("7", "3"), ("7", "7"), ("7", "7")),
        member_correct=np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], dtype=np.bool_),
        member_cost_usd=np.full((5, 2), 0.1),
        member_flops=np.full((5, 2), 10.0),
        member_latency_s=np.tile([1.0, 2.0], (5, 1)),
        vote_answer=vote,
        vote_share=np.array([1.0, 0.5, 0.5, 1.0, 1.0]),
        vote_correct=np.array([0, 0, 1, 1, 1], dtype=np.bool_),
        ensemble_answer=vote,
        ensemble_correct=np.array([0, 0, 1, 1, 1], dtype=np.bool_),
        oracle="big",
        oracle_answer=("7", "7", "7", "7", "8"),
        oracle_correct=np.array([1, 1, 1, 1, 0], dtype=np.bool_),
        oracle_cost_usd=oracle_cost,
        oracle_flops=np.full(5, 100.0),
        oracle_latency_s=np.full(5, 5.0),
        p_ensemble_fails=np.array([0.9, 0.6, 0.6, 0.2, 0.1]),
        p_vote_fails=np.array([0.9, 0.7, 0.6, 0.3, 0.1]),
        p_oracle_right=np.full(5, np.nan),
        held_answer=vote,
        held_correct=np.array([0, 0, 1, 1, 1], dtype=np.bool_),
        final_answer=("7", "7", "7", "7", "7"),
        models_called=called,
        paths=_paths(called, "big"),
        escalated=escalated,
        final_correct=np.ones(5, dtype=np.bool_),
        final_cost_usd=0.2 + escalated * oracle_cost,
        final_latency_s=2.0 + escalated * 5.0,
        threshold=0.5,
        operating_point="half",
        reference="gold",
    )


def _simulated(n, *, members=3, seed=0, **columns):
    """Members that share the questions' difficulty, and a router that half sees it."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    ease = (1.5 - 1.5 * difficulty)[:, None] - np.linspace(-0.6, 0.6, members)
    correct = rng.random((n, members)) < 1 / (1 + np.exp(-ease))
    answers = tuple(tuple("7" if c else str(rng.integers(3)) for c in row) for row in correct)
    votes = tuple(max(a, key=lambda x, a=a: (a.count(x), -a.index(x))) for a in answers)
    share = np.array([a.count(v) / members for a, v in zip(answers, votes, strict=True)])
    right = np.array([vote == "7" for vote in votes])
    oracle_right = rng.random(n) < 0.97
    oracle_answer = tuple("7" if c else "1" for c in oracle_right)
    oracle_cost = rng.uniform(0.002, 0.004, n)
    logit = difficulty * 1.2 - 2.5 + 3 * (1 - share) + rng.normal(size=n) * 0.3
    p = 1 / (1 + np.exp(-logit))
    escalated = p > 0.3
    names = tuple(f"member-{k}" for k in range(members))
    cost = np.full((n, members), 1e-4)
    values = {
        "query_ids": tuple(f"q{i}" for i in range(n)),
        "questions": tuple(f"What is {i}?" for i in range(n)),
        "golds": ("7",) * n,
        "members": names,
        "member_answers": answers,
        "member_correct": correct,
        "member_cost_usd": cost,
        "member_flops": cost * 1e12,
        "member_latency_s": cost * 1e4,
        "vote_answer": votes,
        "vote_share": share,
        "vote_correct": right,
        "ensemble_answer": votes,
        "ensemble_correct": right,
        "oracle": "oracle",
        "oracle_answer": oracle_answer,
        "oracle_correct": oracle_right,
        "oracle_cost_usd": oracle_cost,
        "oracle_flops": oracle_cost * 1e12,
        "oracle_latency_s": oracle_cost * 1e3,
        "p_ensemble_fails": p,
        "p_vote_fails": p,
        "p_oracle_right": np.full(n, 0.97),
        "held_answer": votes,
        "held_correct": right,
        "final_answer": tuple(
            o if e else v for o, e, v in zip(oracle_answer, escalated, votes, strict=True)
        ),
        "models_called": tuple((*names, "oracle") if e else names for e in escalated),
        "escalated": escalated,
        "final_correct": np.where(escalated, oracle_right, right),
        "final_cost_usd": cost.sum(axis=1) + escalated * oracle_cost,
        "final_latency_s": 1.0 + escalated * oracle_cost * 1e3,
        "threshold": 0.3,
        "operating_point": "balanced",
        "reference": "gold",
    }
    values |= columns
    return Outcomes(**({"paths": _paths(values["models_called"], "oracle")} | values))


@pytest.fixture(scope="session")
def changed():
    """The same outcomes with other columns: ``changed(outcomes, **columns)``."""
    return _changed


@pytest.fixture(scope="session")
def five_queries():
    """Five queries worked out by hand: ``five_queries()``."""
    return _five_queries


@pytest.fixture(scope="session")
def simulated():
    """Any number of queries: ``simulated(n, members=3, seed=0, **columns)``."""
    return _simulated
