"""From a query's way through the pyramid to the decision with its reason."""

from collections.abc import Sequence

from pyramid_moa.backends import ModelSpec, generation_cost_usd, generation_flops
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.records import Decision, Generation
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.route import Belief, Route

__all__ = ["build_decision"]


def build_decision(
    pyramid: Pyramid,
    query_id: str,
    route: Route,
    point: OperatingPoint,
    *,
    rule: str,
    members_s: float,
    router_s: float,
    oracle_s: float,
) -> Decision:
    """Account for what was done.

    Args:
        pyramid: the models with their prices.
        query_id: the query.
        route: its way, at its end.
        point: the operating point.
        rule: ``router`` or ``vote``.
        members_s: seconds in members and mid oracles.
        router_s: seconds in grading, features and router.
        oracle_s: seconds in the oracle.
    """
    belief, rows = route.belief, route.generations
    calls = tuple(rows.values())
    chosen = rows[route.answered_by] if route.answered_by is not None else None
    supporter = rows[belief.supporter] if belief is not None and belief.supporter else None
    oracle = rows.get(pyramid.oracle.name)
    members = [row for row in calls if row.model != pyramid.oracle.name]
    return Decision(
        query_id=query_id,
        answer=chosen.answer if chosen is not None else None,
        response=chosen.response if chosen is not None else None,
        answered_by=chosen.model if chosen is not None else None,
        escalated=route.escalated,
        ensemble_answer=supporter.answer if supporter is not None else None,
        p_ensemble_fails=1.0 if belief is None else belief.scores.p_ensemble_fails,
        p_oracle_right=None if belief is None else belief.scores.p_oracle_right,
        threshold=point.threshold,
        rule=rule,
        reason=_reason(route, point, rule),
        models_called=tuple(row.model for row in calls),
        generations=calls,
        cost_usd=sum(row.cost_usd or 0.0 for row in calls),
        oracle_cost_usd=_oracle_cost(pyramid.oracle, members, oracle),
        flops=_flops(pyramid, calls),
        members_s=members_s,
        router_s=router_s,
        oracle_s=oracle_s,
        degraded=route.degraded,
        policy=point.policy,
        path=tuple(route.path),
        outvoted=route.outvoted,
        budget_exhausted=route.limited,
    )


def _reason(route: Route, point: OperatingPoint, rule: str) -> str:
    belief = route.belief
    nobody = belief is None or belief.supporter is None
    seen = _seen(belief, point, rule, escalated=route.escalated)
    if route.limited:
        seen = f"{seen}, the budget has no room for more"
    if route.degraded:
        return (
            f"{seen}: the oracle was asked and failed too, so there is no answer"
            if nobody
            else f"{seen}: the oracle was asked and failed, so the ensemble's answer is given"
        )
    if route.outvoted:
        return f"{seen}: the oracle was asked and outvoted"
    if route.escalated:
        return f"{seen}: the oracle is asked"
    if not nobody:
        return f"{seen}: accepted"
    if route.limited:
        return f"{seen}: there is no answer"
    return f"{seen}: the threshold never asks the oracle, so there is no answer"


def _seen(belief: Belief | None, point: OperatingPoint, rule: str, *, escalated: bool) -> str:
    """What was known when the last step was chosen."""
    if belief is None:
        return "nobody was asked before" if escalated else "nobody was asked"
    members, behind = len(belief.models), _behind(belief)
    if belief.supporter is None:
        return f"none of {members} members gave an answer"
    agree = f"{behind} of {members} members agree"
    if rule == "vote":
        return agree
    fails, oracle = belief.scores.p_ensemble_fails, belief.scores.p_oracle_right
    if point.policy == "parallel" and point.rule == "failure":
        sign = ">" if escalated else "<="
        return f"p(ensemble fails) {fails:.3f} {sign} {point.threshold:.3f}, {agree}"
    return (
        f"p(ensemble fails) {fails:.3f}, p(oracle right) {oracle:.3f}, an oracle call has to gain "
        f"{point.threshold:.3f}, {agree}"
    )


def _behind(belief: Belief) -> int:
    """How many stand behind the ensemble's answer."""
    clusters, supporter = belief.vote.clusters, belief.supporter
    if supporter is None:
        return 0
    winner = clusters[belief.models.index(supporter)]
    return sum(cluster is not None and cluster == winner for cluster in clusters)


def _oracle_cost(
    oracle: ModelSpec, members: Sequence[Generation], generation: Generation | None
) -> float:
    """What the oracle alone costs: as measured, or for an answer as long as the members'."""
    if generation is not None and generation.cost_usd:
        return generation.cost_usd
    known = [
        (row.prompt_tokens, row.completion_tokens)
        for row in members
        if row.prompt_tokens is not None and row.completion_tokens is not None
    ]
    if not known:
        return 0.0
    prompt = sum(tokens for tokens, _ in known) / len(known)
    answer = sum(tokens for _, tokens in known) / len(known)
    return generation_cost_usd(oracle, round(prompt), round(answer))


def _flops(pyramid: Pyramid, calls: Sequence[Generation]) -> float | None:
    total = 0.0
    for row in calls:
        if row.error is not None:
            continue
        if row.prompt_tokens is None or row.completion_tokens is None:
            return None
        own = generation_flops(pyramid.spec(row.model), row.prompt_tokens, row.completion_tokens)
        if own is None:
            return None
        total += own
    return total
