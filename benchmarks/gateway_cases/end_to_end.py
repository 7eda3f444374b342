"""The same questions through evaluation and through the gateway: are they decided alike?

Each question is asked at every dial in turn, and of the oracle's server by itself just before, so
that what the gateway adds is the difference of two times a moment apart.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any, Literal

import openai

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.progress import Steps
from pyramid_moa.records import Query
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.replay import replay, score_run

__all__ = [
    "P_TOLERANCE",
    "Cause",
    "Dial",
    "Difference",
    "Figures",
    "Reply",
    "TimedOracle",
    "ask_everything",
    "compared",
    "expected_outcomes",
    "given_dial",
    "named_dial",
]

# Batches that fall differently change the last digits of log-probabilities, and so of these.
P_TOLERANCE = 1e-4

Cause = Literal["not judged", "a model answered otherwise", "on the threshold", "unexplained"]
"""Why a decision is not evaluation's: the gateway did not hand the question to the router; a model
did not answer as it did when the run was labelled; it did, but the last digits of the probability
are others, and the threshold is between the two; or none of these: an error."""


@dataclass(frozen=True, kw_only=True)
class Dial:
    """One way of asking.

    Attributes:
        name: what the table calls it.
        model: that the client names.
        options: of the request, in its block ``pyramid``.
        point: the operating point that these come to, which evaluation replays.
    """

    name: str
    model: str
    options: Mapping[str, object]
    point: OperatingPoint


def named_dial(router: Router, name: str) -> Dial:
    """An operating point of the checkpoint, asked for by its name."""
    point = router.card.operating_point(name)
    return Dial(name=name, model=f"pyramid@{name}", options={}, point=point)


def given_dial(router: Router, threshold: float) -> Dial:
    """A threshold in the request, beside the checkpoint's first point."""
    first = router.card.operating_point()
    point = OperatingPoint(
        name="given",
        threshold=threshold,
        target="given by the client",
        policy=first.policy,
        rule=first.rule,
    )
    options = {"threshold": threshold}
    return Dial(name=f"threshold {threshold:g}", model="pyramid", options=options, point=point)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the gateway said to one question.

    Attributes:
        block: the reason, as the client gets it.
        seconds: from the request to the whole answer, at the client.
        oracle_alone_s: of the oracle's server asked the same directly.
    """

    block: Mapping[str, Any]
    seconds: float
    oracle_alone_s: float

    @property
    def added_s(self) -> float:
        """Beyond asking the oracle alone."""
        return self.seconds - self.oracle_alone_s


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A decision that is not evaluation's.

    Attributes:
        query_id: on which question.
        cause: why.
        expected: by evaluation.
        found: from the gateway.
        probabilities: that the ensemble fails, as evaluation and the gateway have it.
    """

    query_id: str
    cause: Cause
    expected: Mapping[str, object]
    found: Mapping[str, object]
    probabilities: tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one dial came to over all questions; first of each pair the gateway, then evaluation.

    Attributes:
        dial: which.
        questions: how many.
        accuracy: share of right answers.
        cost_ratio: all calls, over asking the oracle every time.
        escalated: share that was asked of the oracle.
        differences: decisions that are not evaluation's: by answer, models called, escalation or
            cost.
        other_answers: answers of single models that are not those of the run.
        largest_p_difference: of p(ensemble fails), where the models answered as they had; None
            where nothing can be compared, as the sequential policy may stop earlier.
        added_s: mean, median and 95th percentile of seconds beyond the oracle alone.
        added_accepted_s: mean over accepted answers; None where there are none.
        added_escalated_s: mean over escalated ones; likewise.
        router_s: mean seconds in grading, features and router.
    """

    dial: str
    questions: int
    accuracy: tuple[float, float]
    cost_ratio: tuple[float, float]
    escalated: tuple[float, float]
    differences: Sequence[Difference]
    other_answers: int
    largest_p_difference: float | None
    added_s: tuple[float, float, float]
    added_accepted_s: float | None
    added_escalated_s: float | None
    router_s: float


def expected_outcomes(
    run: LabelledRun, positions: Sequence[int], router: Router, dials: Sequence[Dial]
) -> list[Outcomes]:
    """What evaluation decides at each dial, by its own functions."""
    scores = score_run(run, router, positions)
    return [replay(run, positions, scores, dial.point, router=router) for dial in dials]


@dataclass(frozen=True, kw_only=True)
class TimedOracle:
    """The oracle's server, asked by itself.

    Attributes:
        client: of its address.
        model: its name.
        max_tokens: of an answer.
    """

    client: openai.OpenAI
    model: str
    max_tokens: int

    def seconds(self, question: str) -> float:
        """What an answer takes, with the log-probabilities that the gateway asks for, too."""
        started = time.perf_counter()
        self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": question}],
            max_tokens=self.max_tokens,
            temperature=0.0,
            logprobs=True,
        )
        return time.perf_counter() - started


def ask_everything(
    client: openai.OpenAI,
    oracle: TimedOracle,
    queries: Sequence[Query],
    dials: Sequence[Dial],
    *,
    progress: Steps,
) -> list[list[Reply]]:
    """Ask every question at every dial, one request after another, every other one streamed.

    Returns:
        For each dial, a reply to each question.
    """
    replies: list[list[Reply]] = [[] for _ in dials]
    for query in queries:
        alone_s = oracle.seconds(query.question)
        for own, dial in zip(replies, dials, strict=True):
            started = time.perf_counter()
            block = _ask(client, dial, query.question, stream=len(own) % 2 == 1)
            seconds = time.perf_counter() - started
            own.append(Reply(block=block, seconds=seconds, oracle_alone_s=alone_s))
            progress.advance()
    return replies


def _ask(client: openai.OpenAI, dial: Dial, question: str, *, stream: bool) -> Mapping[str, Any]:
    reply: Any = client.chat.completions.create(
        model=dial.model,
        messages=[{"role": "user", "content": question}],
        extra_body={"pyramid": dict(dial.options)} if dial.options else None,
        stream=stream,
    )
    block: Mapping[str, Any] = (list(reply)[-1] if stream else reply).pyramid
    return block


def compared(
    dial: Dial,
    replies: Sequence[Reply],
    outcomes: Outcomes,
    run: LabelledRun,
    positions: Sequence[int],
) -> Figures:
    """Set the gateway's replies beside what evaluation decides.

    Args:
        dial: at which the questions were asked.
        replies: one a question.
        outcomes: of the same questions, as evaluation has them.
        run: the run that was evaluated.
        positions: of the questions in it.
    """
    pairs = [
        _Pair(block=reply.block, outcomes=outcomes, place=place, run=run, index=index)
        for place, (index, reply) in enumerate(zip(positions, replies, strict=True))
    ]
    oracle_usd = float(outcomes.oracle_cost_usd.sum())
    added = [reply.added_s for reply in replies]
    percentiles = quantiles(added, n=100)
    return Figures(
        dial=dial.name,
        questions=len(pairs),
        accuracy=(fmean(pair.is_right for pair in pairs), float(outcomes.final_correct.mean())),
        cost_ratio=(
            sum(pair.block["cost_usd"] for pair in pairs) / oracle_usd,
            float(outcomes.final_cost_usd.sum()) / oracle_usd,
        ),
        escalated=(
            fmean(pair.block["escalated"] for pair in pairs),
            float(outcomes.escalated.mean()),
        ),
        differences=[pair.difference(dial) for pair in pairs if not pair.is_same],
        other_answers=sum(len(pair.other_answers) for pair in pairs),
        largest_p_difference=max(
            (pair.p_difference for pair in pairs if pair.is_comparable(dial)), default=None
        ),
        added_s=(fmean(added), percentiles[49], percentiles[94]),
        added_accepted_s=_mean_added(replies, escalated=False),
        added_escalated_s=_mean_added(replies, escalated=True),
        router_s=fmean(pair.block.get("router_s", 0.0) for pair in pairs),
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One question: the gateway's reason, and its place in evaluation and run."""

    block: Mapping[str, Any]
    outcomes: Outcomes
    place: int
    run: LabelledRun
    index: int

    @property
    def expected(self) -> dict[str, Any]:
        return {
            "answer": self.outcomes.final_answer[self.place],
            "models_called": list(self.outcomes.models_called[self.place]),
            "escalated": bool(self.outcomes.escalated[self.place]),
            "cost_usd": float(self.outcomes.final_cost_usd[self.place]),
        }

    @property
    def found(self) -> dict[str, Any]:
        return {name: self.block.get(name) for name in self.expected}

    @property
    def is_same(self) -> bool:
        expected, found = self.expected, self.found
        costs = expected.pop("cost_usd"), found.pop("cost_usd")
        return expected == found and math.isclose(*costs, rel_tol=1e-9)

    @property
    def is_right(self) -> bool:
        answer, gold = self.block.get("answer"), self.outcomes.golds[self.place]
        return answer is not None and gold is not None and self.run.grader.equal(answer, gold)

    @property
    def other_answers(self) -> list[str]:
        """Models that did not say what they said when the run was labelled."""
        return [
            name
            for name, told in self.block.get("models", {}).items()
            if self._is_other(name, told)
        ]

    def _is_other(self, name: str, told: Mapping[str, Any]) -> bool:
        row = self.run.generations[name][self.index]
        return (told["answer"], told["completion_tokens"]) != (row.answer, row.completion_tokens)

    @property
    def expected_p(self) -> float:
        return float(self.outcomes.p_ensemble_fails[self.place])

    @property
    def p_difference(self) -> float:
        return abs(self.expected_p - self.block["p_ensemble_fails"])

    def is_comparable(self, dial: Dial) -> bool:
        """Whether both probabilities are of the same answers of all members."""
        return (
            dial.point.policy == "parallel"
            and self.block["route"] == "router"
            and not self.other_answers
        )

    def difference(self, dial: Dial) -> Difference:
        return Difference(
            query_id=self.run.queries[self.index].query_id,
            cause=self._cause(dial),
            expected=self.expected,
            found=self.found,
            probabilities=(self.expected_p, self.block.get("p_ensemble_fails")),
        )

    def _cause(self, dial: Dial) -> Cause:
        if self.block["route"] != "router":
            return "not judged"
        if self.other_answers:
            return "a model answered otherwise"
        if self.is_comparable(dial) and 0 < self.p_difference < P_TOLERANCE:
            return "on the threshold"
        return "unexplained"


def _mean_added(replies: Sequence[Reply], *, escalated: bool) -> float | None:
    added = [reply.added_s for reply in replies if reply.block["escalated"] is escalated]
    return fmean(added) if added else None
