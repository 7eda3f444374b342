"""One question taken through the pyramid live: models called, failures borne, the answer streamed.

What is decided, and when, is the course's, the same that ``evaluate`` replays; here is only what a
request needs beside it: bounded time, models that fail, tokens as they come.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from pyramid_moa.backends import Completion, Failure, ModelSpec, Sampling, generation_flops
from pyramid_moa.backends.openai_chunks import Piece
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.inference.budget import Budget
from pyramid_moa.inference.course import Course, Rules
from pyramid_moa.inference.gateway.upstream import Upstream
from pyramid_moa.records import Decision, Generation, Query
from pyramid_moa.router_model.route import Belief

__all__ = ["Finished", "Judged", "Models", "take_live"]

# Where members hang, the oracle still has to have its time.
_MEMBERS_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a live course is driven with.

    Attributes:
        upstreams: by name, every model of the pyramid.
        member_timeout_s: seconds for the answer of any model but the oracle.
        judges: where grading and scoring run, so that the event loop does not wait for them.
        audit: hears of every decision when its answer has been given.
    """

    upstreams: Mapping[str, Upstream]
    member_timeout_s: float
    judges: Executor
    audit: Callable[[Rules, str, Decision], None]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The members have spoken, and the oracle is asked or not.

    Attributes:
        escalated: whether it is asked.
        belief: what the router makes of the answers; None where there were none to read.
        threshold: of the operating point.
    """

    escalated: bool
    belief: Belief | None
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The decision stands.

    Attributes:
        decision: with its reason; its response is None where no model has answered.
        completion: what the winner answered, with its tokens; None where nobody has.
        groups: for each model whose answer was read, a number that those with equal answers share;
            None without an answer.
        streamed: whether the winner's text has gone out piece by piece.
        broken_off: the oracle's text has gone out in part before it failed.
    """

    decision: Decision
    completion: Completion | None
    groups: Mapping[str, int | None] = field(default_factory=dict)
    streamed: bool = False
    broken_off: bool = False


async def take_live(
    rules: Rules,
    models: Models,
    question: str,
    sampling: Sampling,
    *,
    budget: Budget,
    until: float,
    live: bool,
) -> AsyncGenerator[Judged | Piece | Finished, None]:
    """Take a question through the pyramid.

    Args:
        rules: what decides.
        models: what answers.
        question: its text.
        sampling: how models answer.
        budget: limits of this question.
        until: when the request's time is over, on the event loop's clock.
        live: give the oracle's text as it comes.

    Yields:
        That it has been judged, once; pieces of the oracle's text, where they are wanted and its
        word will be the last; in the end, what has been decided.

    Raises:
        ConfigError: the budget limits the time, and that of a model is not known.
    """
    loop = asyncio.get_running_loop()
    # Kept here, not counted: which query it is, is nobody's business but this request's.
    query = Query(query_id="live", question=question)
    prompt = rules.pyramid.prompt.render(question)
    oracle = rules.pyramid.oracle.name
    begin = partial(Course, rules, query, budget=budget)
    if rules.point.policy == "parallel":
        # Its first step is known without a look at the question: no need to leave the loop.
        course = begin()
    else:
        course = await loop.run_in_executor(models.judges, begin)
    outcomes: dict[str, Completion | Failure] = {}
    pieces = 0
    judged = False
    while wanted := course.wanted:
        started = time.perf_counter()
        if wanted == (oracle,):
            judged = True
            yield _judged(course, rules, escalated=True)
            # Where the ensemble may outvote it, nobody knows yet whose word is the last.
            stream = live and rules.point.outvote is None
            upstream = models.upstreams[oracle]
            if not stream:
                outcomes[oracle] = await upstream.ask(prompt, sampling, until=until)
            else:
                async with aclosing(upstream.stream(prompt, sampling, until=until)) as items:
                    async for item in items:
                        if isinstance(item, Piece):
                            pieces += 1
                            yield item
                        else:
                            outcomes[oracle] = item
        else:
            limit_s = min(models.member_timeout_s, _MEMBERS_SHARE * (until - loop.time()))
            answers = await asyncio.gather(
                *(
                    models.upstreams[name].ask(prompt, sampling, until=until, limit_s=limit_s)
                    for name in wanted
                )
            )
            outcomes.update(zip(wanted, answers, strict=True))
        receive = partial(
            course.receive,
            {name: outcomes[name] for name in wanted},
            seconds=time.perf_counter() - started,
        )
        await loop.run_in_executor(models.judges, receive)
    if not judged:
        yield _judged(course, rules, escalated=False)
    decision = course.decision
    if decision.response is None and not decision.escalated and not decision.budget_exhausted:
        # A threshold may say never to ask it; a client is still owed an answer.
        started = time.perf_counter()
        outcome = await models.upstreams[oracle].ask(prompt, sampling, until=until)
        seconds = time.perf_counter() - started
        outcomes[oracle] = outcome
        rescue = partial(_rescued, rules, query, decision, outcome, seconds)
        decision = await loop.run_in_executor(models.judges, rescue)
    if decision.response is None:
        decision = _any_text(decision)
    winner = outcomes.get(decision.answered_by or "")
    yield Finished(
        decision=decision,
        completion=winner if isinstance(winner, Completion) else None,
        groups=_groups(course.belief),
        streamed=pieces > 0 and decision.answered_by == oracle,
        broken_off=pieces > 0 and decision.answered_by != oracle,
    )
    models.audit(rules, question, decision)


def _judged(course: Course, rules: Rules, *, escalated: bool) -> Judged:
    return Judged(escalated=escalated, belief=course.belief, threshold=rules.point.threshold)


def _groups(belief: Belief | None) -> dict[str, int | None]:
    if belief is None:
        return {}
    return dict(zip(belief.models, belief.vote.clusters, strict=True))


def _rescued(
    rules: Rules,
    query: Query,
    decision: Decision,
    outcome: Completion | Failure,
    seconds: float,
) -> Decision:
    """A decision without an answer, once the oracle has been asked after all."""
    row = graded_generation(query, rules.pyramid.oracle, outcome, rules.grader)
    reason = decision.reason.removesuffix(
        "the threshold never asks the oracle, so there is no answer"
    )
    failed = row.error is not None
    return replace(
        decision,
        answer=row.answer,
        response=row.response,
        answered_by=None if failed else row.model,
        escalated=True,
        degraded=failed,
        reason=reason
        + ("the oracle was asked and failed too" if failed else "the oracle is asked"),
        models_called=(*decision.models_called, row.model),
        generations=(*decision.generations, row),
        cost_usd=decision.cost_usd + (row.cost_usd or 0.0),
        oracle_cost_usd=row.cost_usd or decision.oracle_cost_usd,
        flops=_sum(decision.flops, _flops(rules.pyramid.oracle, row)),
        oracle_s=seconds,
        path=(*decision.path, (row.model,)),
    )


def _flops(spec: ModelSpec, row: Generation) -> float | None:
    if row.error is not None:
        return 0.0
    if row.prompt_tokens is None or row.completion_tokens is None:
        return None
    return generation_flops(spec, row.prompt_tokens, row.completion_tokens)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _any_text(decision: Decision) -> Decision:
    """The first text that any model gave, where none holds an answer that the grader finds."""
    said: Generation | None = next(
        (row for row in decision.generations if row.response is not None), None
    )
    if said is None:
        return decision
    return replace(
        decision,
        response=said.response,
        answered_by=said.model,
        degraded=True,
        reason=f"{decision.reason}; the text of {said.model} is given, without an answer in it",
    )
