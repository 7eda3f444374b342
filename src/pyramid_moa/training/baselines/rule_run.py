"""A labelled run in columns, as decision rules read it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import RunFolderError
from pyramid_moa.grading import vote
from pyramid_moa.records import Generation, question_hash
from pyramid_moa.router_model.hidden_rows import float_rows, spans
from pyramid_moa.training.outcomes import BoolArray, FloatArray

__all__ = ["Positions", "RuleRun", "content_hash", "rule_run"]

Positions = NDArray[np.int64]
"""Numbers of queries of a run."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleRun:
    """Answers, costs and labels of n queries, m members and an oracle.

    Columns of models are the members, best first, then the oracle: m + 1. Columns of answers are
    those and the majority vote: m + 2.

    Attributes:
        run: what the columns are of.
        hashes: of the questions, n.
        clusters: for each member's answer the first member with an equal one, -1 where there is no
            answer, int [n, m].
        winner: member behind the vote that is listed first, -1 where nobody answered, int [n].
        share: of the members behind the vote, float [n].
        confidence: recorded beside each member's answer, float [n, m]; nan where unknown.
        cost: of each model's answer in USD, float [n, m + 1]; a call that failed costs nothing.
        correct: whether each answer is right, bool [n, m + 2]. Where the oracle failed its column
            holds the vote's, which the gate falls back on.
    """

    run: LabelledRun
    hashes: tuple[str, ...]
    clusters: NDArray[np.int64]
    winner: NDArray[np.int64]
    share: FloatArray
    confidence: FloatArray
    cost: FloatArray
    correct: BoolArray
    _remembered: dict[str, object] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of queries."""
        return len(self.hashes)

    @property
    def members(self) -> int:
        """Number of members, m."""
        return int(self.clusters.shape[1])

    @property
    def oracle(self) -> int:
        """The oracle's column."""
        return self.members

    @property
    def vote(self) -> int:
        """The vote's column of answers."""
        return self.members + 1

    @property
    def vote_fails(self) -> BoolArray:
        """Where the vote is wrong, bool [n]."""
        fails: BoolArray = ~self.correct[:, self.vote]
        return fails

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """Compute once for all folds and rules what depends on no label but those in its name.

        Args:
            key: a name for it; where labels were read, with a hash of the queries that they are of.
            make: computes it.
        """
        if key not in self._remembered:
            self._remembered[key] = make()
        return cast("T", self._remembered[key])

    def forget(self) -> None:
        """Let go of what was remembered, but for the content hash."""
        kept = self.content_hash()
        self._remembered.clear()
        self._remembered["content hash"] = kept

    def content_hash(self) -> str:
        """SHA-256 over everything that a rule can read of this run."""
        return self.remember("content hash", lambda: content_hash(self.run))


def content_hash(run: LabelledRun) -> str:
    """SHA-256 over everything that a rule can read of a run."""
    digest = hashlib.sha256()
    for part in _content(run):
        digest.update(part)
    return digest.hexdigest()


def rule_run(run: LabelledRun) -> RuleRun:
    """Lay out a labelled run.

    Raises:
        RunFolderError: a cost is unknown, or the oracle costs nothing.
    """
    members, oracle = run.manifest.members, run.manifest.oracle
    rows = [run.generations[name] for name in (*members, oracle)]
    cost = np.array([[_cost(row) for row in own] for own in rows]).T
    _check_costs(run, cost)
    answers = [[run.generations[name][i].answer for name in members] for i in range(len(cost))]
    votes = [vote(own, run.grader.equal) for own in answers]
    by_vote = np.array([label.vote_correct for label in run.labels], dtype=bool)
    by_oracle = np.array([label.oracle_correct for label in run.labels], dtype=bool)
    failed = np.array([row.error is not None for row in run.generations[oracle]], dtype=bool)
    return RuleRun(
        run=run,
        hashes=tuple(question_hash(query.question) for query in run.queries),
        clusters=np.array(
            [[-1 if group is None else group for group in result.clusters] for result in votes]
        ),
        winner=np.array([-1 if result.winner is None else result.winner for result in votes]),
        share=np.array([result.share for result in votes]),
        confidence=np.array(
            [[np.nan if r.confidence is None else r.confidence for r in own] for own in rows[:-1]]
        ).T,
        cost=cost,
        correct=np.column_stack(
            [
                *([bool(row.correct) for row in own] for own in rows[:-1]),
                np.where(failed, by_vote, by_oracle),
                by_vote,
            ]
        ),
    )


def _cost(row: Generation) -> float:
    if row.error is not None:
        return 0.0
    return np.nan if row.cost_usd is None else row.cost_usd


def _check_costs(run: LabelledRun, cost: FloatArray) -> None:
    models = (*run.manifest.members, run.manifest.oracle)
    unknown = [
        name
        for name, known in zip(models, np.isnan(cost.sum(axis=0)).tolist(), strict=True)
        if known
    ]
    if unknown:
        raise RunFolderError(
            f"expected the cost of every answer, found none for some of {', '.join(unknown)}; "
            "import again with --prices, or give the pyramid's entries a price"
        )
    if not cost[:, -1].sum() > 0:
        raise RunFolderError(
            f"expected an oracle that costs something, found that all answers of {models[-1]} are "
            "free; costs are compared with asking it every time: give it a price"
        )


def _content(run: LabelledRun) -> "list[bytes]":
    manifest = run.manifest
    head = [manifest.dataset_hash, manifest.members, manifest.oracle, manifest.grader]
    parts = [_json([*head, [asdict(cost) for cost in manifest.costs]])]
    parts += [_json([query.question, query.gold]) for query in run.queries]
    parts += [_json(asdict(label)) for label in run.labels]
    for name in manifest.models:
        # Times differ between two runs that are the same otherwise.
        parts += [
            _json({k: v for k, v in vars(row).items() if k not in ("hidden_states", "latency_s")})
            for row in run.generations[name]
        ]
    for name, states in run.hidden_states.items():
        for key, values in states.items():
            parts.append(_json([name, key]))
            parts += [
                hashlib.sha256(np.asarray(float_rows(values, span)).tobytes()).digest()
                for span in spans(len(values))
            ]
    return parts


def _json(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON or a dataclass of it holds
    return json.dumps(value, sort_keys=True, default=asdict).encode("utf-8", "surrogatepass")
