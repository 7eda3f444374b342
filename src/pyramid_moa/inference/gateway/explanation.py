"""Why an answer is what it is: the ``pyramid`` block of a response, and its headers."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.inference.gateway.live_course import Finished, Judged
from pyramid_moa.inference.gateway.question import Cause
from pyramid_moa.records import Generation

__all__ = [
    "IN_HEADERS",
    "direct_block",
    "gated_block",
    "judged_block",
    "pyramid_headers",
    "several_blocks",
    "total_usage",
]

IN_HEADERS = (
    "route",
    "escalated",
    "degraded",
    "answered_by",
    "p_ensemble_fails",
    "threshold",
    "models_called",
    "cost_usd",
    "saved_usd",
    "members_s",
    "router_s",
    "oracle_s",
    "cause",
    "question_distance",
    "reason",
)
_LONGEST = 500


def gated_block(
    finished: Finished, pyramid: Pyramid, *, as_trained: bool, distance: float | None
) -> dict[str, Any]:
    """The whole reason of one decision.

    Args:
        finished: the decision.
        pyramid: whose.
        as_trained: whether models answered as they did when the router was trained.
        distance: of the question from those of training; None where the router can't say.
    """
    decision = finished.decision
    block: dict[str, Any] = {
        "route": decision.rule,
        "escalated": decision.escalated,
        "degraded": decision.degraded,
        "outvoted": decision.outvoted,
        "budget_exhausted": decision.budget_exhausted,
        "answered_by": decision.answered_by,
        "answer": decision.answer,
        "ensemble_answer": decision.ensemble_answer,
        "p_ensemble_fails": decision.p_ensemble_fails,
        "p_oracle_right": decision.p_oracle_right,
        "threshold": decision.threshold,
        "policy": decision.policy,
        "reason": decision.reason,
        "models_called": list(decision.models_called),
        "models": {
            row.model: _model(row, finished.groups.get(row.model)) for row in decision.generations
        },
        "cost_usd": decision.cost_usd,
        "oracle_cost_usd": decision.oracle_cost_usd,
        "saved_usd": decision.oracle_cost_usd - decision.cost_usd,
        "members_s": decision.members_s,
        "router_s": decision.router_s,
        "oracle_s": decision.oracle_s,
        "sampling_as_trained": as_trained,
        "question_distance": distance,
    }
    if pyramid.price_note:
        block["price_note"] = pyramid.price_note
    return block


def _model(row: Generation, group: int | None) -> dict[str, Any]:
    return {
        "answer": row.answer,
        "group": group,
        "error": row.error,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "tokens_estimated": row.tokens_estimated,
        "cost_usd": row.cost_usd,
        "latency_s": row.latency_s,
    }


def several_blocks(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One block for all choices: the only one's own, or sums with each one's under ``choices``."""
    if len(blocks) == 1:
        return dict(blocks[0])
    sums = ("cost_usd", "oracle_cost_usd", "saved_usd", "members_s", "router_s", "oracle_s")
    return {
        "route": blocks[0]["route"],
        "escalated": any(block["escalated"] for block in blocks),
        "degraded": any(block["degraded"] for block in blocks),
        "threshold": blocks[0]["threshold"],
        "reason": "; ".join(str(block["reason"]) for block in blocks),
        "models_called": [name for block in blocks for name in block["models_called"]],
        **{name: sum(block[name] for block in blocks) for name in sums},
        "choices": list(blocks),
    }


def direct_block(
    model: str,
    reason: str,
    *,
    cause: Cause,
    distance: float | None,
    is_oracle: bool,
    cost_usd: float | None,
    seconds: float | None,
) -> dict[str, Any]:
    """The reason of an answer that no router has judged."""
    return {
        "route": "direct",
        "escalated": is_oracle,
        "degraded": False,
        "answered_by": model,
        "reason": reason,
        "cause": cause,
        "question_distance": distance,
        "models_called": [model],
        "cost_usd": cost_usd,
        "saved_usd": 0.0 if is_oracle else None,
        "oracle_s" if is_oracle else "members_s": seconds,
    }


def judged_block(judged: Judged) -> dict[str, Any]:
    """What can be said of a decision as soon as it falls."""
    belief = judged.belief
    return {
        "escalated": judged.escalated,
        "p_ensemble_fails": None if belief is None else belief.scores.p_ensemble_fails,
        "threshold": judged.threshold,
        "models_called": [] if belief is None else list(belief.models),
    }


def pyramid_headers(block: Mapping[str, Any]) -> dict[str, str]:
    """The short ones of a block's values, as ``x-pyramid-*`` headers."""
    return {
        f"x-pyramid-{name.replace('_', '-')}": _written(block[name])
        for name in IN_HEADERS
        if block.get(name) is not None
    }


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    # Names and reasons may hold any printable character, headers only some.
    return quote(text[:_LONGEST], safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~\"")


def total_usage(rows: Sequence[Generation]) -> dict[str, int]:
    """Tokens of all calls together; those of a call that nobody has counted are left out."""
    prompt = sum(row.prompt_tokens or 0 for row in rows)
    completion = sum(row.completion_tokens or 0 for row in rows)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
