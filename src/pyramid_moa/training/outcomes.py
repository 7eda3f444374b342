"""What every query came to: the columns that an evaluation is computed from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.errors import DataError
from pyramid_moa.router_model.policy import PolicyKind, Rule

__all__ = ["BoolArray", "FloatArray", "Outcomes"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_TUPLES = (
    "questions",
    "golds",
    "member_answers",
    "vote_answer",
    "ensemble_answer",
    "oracle_answer",
    "held_answer",
    "final_answer",
    "models_called",
    "paths",
)
_BOOLS = (
    "vote_correct",
    "ensemble_correct",
    "oracle_correct",
    "held_correct",
    "escalated",
    "final_correct",
)
_AMOUNTS = (
    "oracle_cost_usd",
    "oracle_flops",
    "final_cost_usd",
    "oracle_latency_s",
    "final_latency_s",
)
_MEMBER_AMOUNTS = ("member_cost_usd", "member_flops", "member_latency_s")
_MID_AMOUNTS = ("mid_cost_usd", "mid_flops")
_SHARES = ("vote_share", "p_ensemble_fails", "p_vote_fails", "p_oracle_right")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Members, vote, oracle, router and final decision for n queries and m members.

    Attributes:
        query_ids: n distinct names of the queries.
        questions: n texts.
        golds: n reference answers, None where there is none.
        members: names of the m members, best first.
        member_answers: extracted answers, n rows of m.
        member_correct: whether they are right, bool [n, m].
        member_cost_usd: price of each member's answer, float [n, m]; nan where unknown.
        member_flops: 2 x active parameters x tokens, float [n, m]; nan where unknown.
        member_latency_s: seconds of each member's answer, float [n, m]; nan where unknown.
        vote_answer: n answers of the majority vote, None where no member gave one.
        vote_share: share of the members that stand behind the vote, float [n].
        vote_correct: bool [n].
        ensemble_answer: what the router answers without the oracle, all members asked, n.
        ensemble_correct: bool [n].
        oracle: the oracle's name.
        oracle_answer: n answers.
        oracle_correct: bool [n].
        oracle_cost_usd: price of the oracle's answer to each query, float [n]; nan where unknown.
        oracle_flops: float [n]; nan where unknown.
        oracle_latency_s: float [n]; nan where unknown.
        p_ensemble_fails: the router's probability that the ensemble is wrong, float [n].
        p_vote_fails: that the majority is wrong, float [n].
        p_oracle_right: that the oracle is right, float [n]; nan where the router states none.
        held_answer: the best answer at the operating point before the oracle was asked, of whoever
            had been asked by then, n; None where nobody had, or nobody gave one.
        held_correct: bool [n].
        final_answer: n answers at the operating point.
        models_called: names of the models asked at the operating point, n tuples in order.
        paths: the same names, those asked together in one tuple, n.
        escalated: whether the oracle was asked at the operating point, bool [n].
        final_correct: bool [n].
        final_cost_usd: price of all calls at the operating point, float [n]; nan where unknown.
        final_latency_s: seconds until the answer, those asked together at once, float [n]; nan
            where unknown.
        threshold: the operating point's; what it means, policy and rule say.
        operating_point: its name.
        reference: what ``correct`` is measured against: gold answers, or the oracle's where the
            data has none.
        price_note: what a reader must know of the prices, or an empty string.
        tokens_estimated: whether costs rest on estimated token counts.
        failed_generations: number of answers that are missing because a call failed.
        mid_oracles: names of the tiers between members and oracle.
        mid_answers: their extracted answers, n rows of them.
        mid_correct: bool [n, mid oracles].
        mid_cost_usd: price of their answers, float [n, mid oracles]; nan where unknown.
        mid_flops: FLOPs of their answers, float [n, mid oracles]; nan where unknown.
        policy: the operating point's.
        rule: the operating point's.
        outvote: the operating point's.

    Raises:
        DataError: a column has the wrong length, type or range; all problems are named at once.
    """

    query_ids: tuple[str, ...]
    questions: tuple[str, ...]
    golds: tuple[str | None, ...]
    members: tuple[str, ...]
    member_answers: tuple[tuple[str | None, ...], ...]
    member_correct: BoolArray
    member_cost_usd: FloatArray
    member_flops: FloatArray
    member_latency_s: FloatArray
    vote_answer: tuple[str | None, ...]
    vote_share: FloatArray
    vote_correct: BoolArray
    ensemble_answer: tuple[str | None, ...]
    ensemble_correct: BoolArray
    oracle: str
    oracle_answer: tuple[str | None, ...]
    oracle_correct: BoolArray
    oracle_cost_usd: FloatArray
    oracle_flops: FloatArray
    oracle_latency_s: FloatArray
    p_ensemble_fails: FloatArray
    p_vote_fails: FloatArray
    p_oracle_right: FloatArray
    held_answer: tuple[str | None, ...]
    held_correct: BoolArray
    final_answer: tuple[str | None, ...]
    models_called: tuple[tuple[str, ...], ...]
    paths: tuple[tuple[tuple[str, ...], ...], ...]
    escalated: BoolArray
    final_correct: BoolArray
    final_cost_usd: FloatArray
    final_latency_s: FloatArray
    threshold: float
    operating_point: str
    reference: Literal["gold", "oracle"]
    price_note: str = ""
    tokens_estimated: bool = False
    failed_generations: int = 0
    mid_oracles: tuple[str, ...] = ()
    mid_answers: tuple[tuple[str | None, ...], ...] | None = None
    mid_correct: BoolArray | None = None
    mid_cost_usd: FloatArray | None = None
    mid_flops: FloatArray | None = None
    policy: PolicyKind = "parallel"
    rule: Rule = "failure"
    outvote: float | None = None

    def __post_init__(self) -> None:
        """Refuse columns that do not fit each other."""
        problems = _shape_problems(self)
        if not problems:  # ranges and rows can be looked at only where the shapes are right
            problems = _value_problems(self)
        if problems:
            raise DataError("outcomes do not fit together: " + "; ".join(problems))

    @property
    def n(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    @property
    def members_called(self) -> BoolArray:
        """Which members were asked at the operating point, bool [n, m]."""
        rows = [[name in called for name in self.members] for called in self.models_called]
        return np.array(rows, dtype=np.bool_)

    @property
    def asked_nobody_before(self) -> BoolArray:
        """Where the oracle was asked before anybody else, bool [n]."""
        first = [path[:1] == ((self.oracle,),) for path in self.paths]
        return np.array(first, dtype=np.bool_)

    @property
    def final_flops(self) -> FloatArray:
        """FLOPs of the calls made at the operating point, float [n]; nan where unknown."""
        members = np.where(self.members_called, self.member_flops, 0.0).sum(axis=1)
        flops: FloatArray = members + np.where(self.escalated, self.oracle_flops, 0.0)
        if not self.mid_oracles:
            return flops
        assert self.mid_flops is not None
        asked = [[name in called for name in self.mid_oracles] for called in self.models_called]
        spent: FloatArray = flops + np.where(asked, self.mid_flops, 0.0).sum(axis=1)
        return spent

    @property
    def vote_accepted(self) -> BoolArray:
        """Where all members agree on an answer (the vote rule at theta 1), bool [n]."""
        return self.accepted_by_vote(1.0)

    def accepted_by_vote(self, theta: float) -> BoolArray:
        """Where the vote has an answer whose share is at least ``theta``, bool [n]."""
        answered = np.array([answer is not None for answer in self.vote_answer], dtype=np.bool_)
        # Shares such as 2/3 may come from another order of rounding than theta did.
        return answered & (self.vote_share >= theta - 1e-9)


def _shape_problems(rows: Outcomes) -> list[str]:
    n, m = len(rows.query_ids), len(rows.members)
    problems = []
    if n == 0:
        problems.append("expected at least one query, found none")
    if m == 0:
        problems.append("expected at least one member, found none")
    for name in _TUPLES:
        if len(getattr(rows, name)) != n:
            problems.append(f"{name}: expected {n} rows, found {len(getattr(rows, name))}")
    if any(len(answers) != m for answers in rows.member_answers):
        problems.append(f"member_answers: expected {m} answers in every row")
    return problems + _column_problems(rows)


def _column_problems(rows: Outcomes) -> list[str]:
    n, m, mids = len(rows.query_ids), len(rows.members), len(rows.mid_oracles)
    problems = []
    if mids and [len(answers) for answers in rows.mid_answers or ()] != [mids] * n:
        problems.append(f"mid_answers: expected {n} rows of {mids} answers")
    kinds: list[tuple[tuple[str, ...], tuple[int, ...], type[np.generic]]] = [
        (_BOOLS, (n,), np.bool_),
        (("member_correct",), (n, m), np.bool_),
        (_AMOUNTS + _SHARES, (n,), np.float64),
        (_MEMBER_AMOUNTS, (n, m), np.float64),
    ]
    if mids:
        kinds += [(("mid_correct",), (n, mids), np.bool_), (_MID_AMOUNTS, (n, mids), np.float64)]
    for names, shape, dtype in kinds:
        for name in names:
            column = getattr(rows, name)
            if not isinstance(column, np.ndarray):
                problems.append(f"{name}: expected an array, found {type(column).__name__}")
            elif column.shape != shape or column.dtype != dtype:
                problems.append(
                    f"{name}: expected {np.dtype(dtype)} {list(shape)}, "
                    f"found {column.dtype} {list(column.shape)}"
                )
    return problems


def _value_problems(rows: Outcomes) -> list[str]:
    problems = []
    mid = _MID_AMOUNTS if rows.mid_oracles else ()
    for name in _AMOUNTS + _MEMBER_AMOUNTS + mid:
        column = getattr(rows, name)
        if np.any(column < 0) or np.any(np.isinf(column)):
            problems.append(f"{name}: expected numbers from 0, or nan where unknown")
    for name in _SHARES:
        column = getattr(rows, name)
        unknown = np.isnan(column) if name == "p_oracle_right" else np.zeros(rows.n, dtype=np.bool_)
        if not np.all(unknown | ((column >= 0) & (column <= 1))):
            problems.append(f"{name}: expected numbers from 0 to 1")
    if np.isnan(rows.threshold):
        problems.append("threshold: expected a number, found nan")
    if rows.reference not in ("gold", "oracle"):
        problems.append(f"reference: expected gold or oracle, found {rows.reference!r}")
    return problems + _name_problems(rows)


def _name_problems(rows: Outcomes) -> list[str]:
    problems = []
    if len(set(rows.query_ids)) != rows.n:
        problems.append("query_ids: expected distinct ids")
    names = (*rows.members, *rows.mid_oracles, rows.oracle)
    if len(set(names)) != len(names):
        problems.append(f"members and oracle: expected distinct names, found {', '.join(names)}")
    strangers = {name for called in rows.models_called for name in called} - set(names)
    if strangers:
        problems.append(f"models_called: unknown models {', '.join(sorted(strangers))}")
    asked = np.array([rows.oracle in called for called in rows.models_called], dtype=np.bool_)
    if np.any(asked != rows.escalated):
        problems.append("escalated: expected true exactly where models_called names the oracle")
    flat = tuple(tuple(name for group in path for name in group) for path in rows.paths)
    if flat != rows.models_called:
        problems.append("paths: expected the names of models_called, in their order")
    return problems
