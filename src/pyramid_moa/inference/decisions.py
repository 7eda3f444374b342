"""From a judgement and, where it was asked, the oracle's answer to the decision with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyramid_moa.backends import ModelSpec, generation_cost_usd, generation_flops
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.grading import Vote
from pyramid_moa.records import Decision, Generation
from pyramid_moa.router_model.policy import OperatingPoint, Scores

__all__ = ["Judgement", "build_decision"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is known of a query once the members have spoken.

    Attributes:
        query_id: the query.
        generations: one a member, best first.
        vote: the plurality among their answers.
        scores: what the rule makes of them.
        escalated: whether the oracle is to be asked.
        rule: ``router`` or ``vote``.
        members_s: seconds in the members.
        router_s: seconds in grading, features and router.
    """

    query_id: str
    generations: tuple[Generation, ...]
    vote: Vote
    scores: Scores
    escalated: bool
    rule: str
    members_s: float
    router_s: float


def build_decision(
    pyramid: Pyramid,
    judgement: Judgement,
    point: OperatingPoint,
    oracle: Generation | None,
    oracle_s: float,
) -> Decision:
    """Choose the final answer and account for it.

    Args:
        pyramid: the models with their prices.
        judgement: of the members' answers.
        point: the operating point.
        oracle: the oracle's generation, None where it was not asked.
        oracle_s: seconds in the oracle, where it was asked.

    Returns:
        The decision.
    """
    supporter = _supporter(judgement)
    degraded = oracle is not None and oracle.error is not None
    chosen = oracle if oracle is not None and not degraded else supporter
    calls = (*judgement.generations, *([oracle] if oracle is not None else []))
    return Decision(
        query_id=judgement.query_id,
        answer=chosen.answer if chosen is not None else None,
        response=chosen.response if chosen is not None else None,
        answered_by=chosen.model if chosen is not None else None,
        escalated=judgement.escalated,
        ensemble_answer=supporter.answer if supporter is not None else None,
        p_ensemble_fails=judgement.scores.p_ensemble_fails,
        p_oracle_right=judgement.scores.p_oracle_right,
        threshold=point.threshold,
        rule=judgement.rule,
        reason=_reason(judgement, point, degraded=degraded),
        models_called=tuple(row.model for row in calls),
        generations=calls,
        cost_usd=sum(row.cost_usd or 0.0 for row in calls),
        oracle_cost_usd=_oracle_cost(pyramid.oracle, judgement.generations, oracle),
        flops=_flops(pyramid, calls),
        members_s=judgement.members_s,
        router_s=judgement.router_s,
        oracle_s=oracle_s if oracle is not None else 0.0,
        degraded=degraded,
    )


def _supporter(judgement: Judgement) -> Generation | None:
    """The first-listed member behind the ensemble's answer, whose text carries it."""
    if judgement.vote.winner is None:
        return None
    if judgement.scores.choice is not None:
        return judgement.generations[judgement.scores.choice]
    return judgement.generations[judgement.vote.clusters.index(judgement.vote.winner)]


def _behind(judgement: Judgement) -> int:
    """How many members stand behind the ensemble's answer."""
    clusters = judgement.vote.clusters
    choice = judgement.scores.choice
    winner = judgement.vote.winner if choice is None else clusters[choice]
    return sum(cluster is not None and cluster == winner for cluster in clusters)


def _reason(judgement: Judgement, point: OperatingPoint, *, degraded: bool) -> str:
    members = len(judgement.generations)
    behind = _behind(judgement)
    if judgement.vote.winner is None:
        seen = f"none of {members} members gave an answer"
    elif judgement.rule == "vote":
        seen = f"{behind} of {members} members agree"
    else:
        p = judgement.scores.p_ensemble_fails
        sign = ">" if judgement.escalated else "<="
        seen = (
            f"p(ensemble fails) {p:.3f} {sign} {point.threshold:.3f}, "
            f"{behind} of {members} members agree"
        )
    if degraded and judgement.vote.winner is None:
        return f"{seen}: the oracle was asked and failed too, so there is no answer"
    if degraded:
        return f"{seen}: the oracle was asked and failed, so the ensemble's answer is given"
    if judgement.vote.winner is None and not judgement.escalated:
        return f"{seen}: the threshold never asks the oracle, so there is no answer"
    return f"{seen}: " + ("the oracle is asked" if judgement.escalated else "accepted")


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
