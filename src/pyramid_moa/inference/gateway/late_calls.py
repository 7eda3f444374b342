"""Calls that are made when the course of a question is over, and what becomes of its decision."""

from collections.abc import Mapping
from dataclasses import replace

from pyramid_moa.backends import Completion, Failure, ModelSpec, generation_flops
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.inference.course import Rules
from pyramid_moa.records import Decision, Generation, Query

__all__ = ["after_all", "any_text", "cut_short", "rescued", "taken_over"]


def rescued(
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
        _with_call(decision, rules.pyramid.oracle, row),
        answer=row.answer,
        response=row.response,
        answered_by=None if failed else row.model,
        escalated=True,
        degraded=failed,
        reason=reason
        + ("the oracle was asked and failed too" if failed else "the oracle is asked"),
        oracle_cost_usd=row.cost_usd or decision.oracle_cost_usd,
        oracle_s=seconds,
    )


def taken_over(
    rules: Rules,
    query: Query,
    decision: Decision,
    name: str,
    outcome: Completion | Failure,
    seconds: float,
) -> Decision:
    """A decision for want of the oracle, once the fallback oracle has been asked.

    Args:
        rules: what decides.
        query: the question.
        decision: with the ensemble's answer, where there is one, which stays if this fails, too.
        name: the fallback oracle's; where it had been asked before, that answer is taken.
        outcome: what it answered.
        seconds: that waiting for it took.
    """
    spec = rules.pyramid.spec(name)
    row = graded_generation(query, spec, outcome, rules.grader)
    known = name in decision.models_called
    asked = decision if known else _with_call(decision, spec, row)
    asked = replace(asked, oracle_s=decision.oracle_s + seconds)
    # What was to be given instead is no longer true of it.
    seen = decision.reason.partition(": the oracle was asked and failed")[0]
    if row.error is not None:
        return replace(asked, reason=f"{decision.reason}; {name}, the fallback oracle, failed too")
    return replace(
        asked,
        answer=row.answer,
        response=row.response,
        answered_by=name,
        degraded=True,
        reason=f"{seen}: the oracle was asked and failed: {name}, the fallback oracle, answers",
    )


def after_all(
    rules: Rules,
    query: Query,
    decision: Decision,
    outcomes: Mapping[str, Completion | Failure],
    seconds: float,
) -> Decision:
    """A decision for which nobody was left, once others have been asked all the same.

    Args:
        rules: what decides.
        query: the question.
        decision: without any text.
        outcomes: what they answered, the best of them first.
        seconds: that waiting for them took.
    """
    said: Generation | None = None
    for name, outcome in outcomes.items():
        spec = rules.pyramid.spec(name)
        row = graded_generation(query, spec, outcome, rules.grader)
        decision = _with_call(decision, spec, row)
        better = said is None or (said.answer is None and row.answer is not None)
        if row.response is not None and better:
            said = row
    decision = replace(decision, members_s=decision.members_s + seconds)
    if said is None:
        return decision
    return replace(
        decision,
        answer=said.answer,
        response=said.response,
        answered_by=said.model,
        degraded=True,
        reason=f"{decision.reason}; nobody else was left: {said.model} stands in",
    )


def cut_short(decision: Decision) -> Decision:
    """A decision of a request whose own time is over: nobody has failed, and more was wanted."""
    return replace(
        decision,
        degraded=False,
        budget_exhausted=True,
        reason=f"{decision.reason}; max_latency_ms is over",
    )


def any_text(decision: Decision) -> Decision:
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


def _with_call(decision: Decision, spec: ModelSpec, row: Generation) -> Decision:
    return replace(
        decision,
        models_called=(*decision.models_called, row.model),
        generations=(*decision.generations, row),
        cost_usd=decision.cost_usd + (row.cost_usd or 0.0),
        flops=_sum(decision.flops, _flops(spec, row)),
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
