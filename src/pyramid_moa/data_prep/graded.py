"""From what a backend gave back to a generation: the answer found, graded, priced."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from pyramid_moa.backends import (
    Completion,
    Failure,
    ModelSpec,
    Token,
    generation_cost_usd,
)
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from pyramid_moa.grading import Extraction, Grader
from pyramid_moa.records import Generation, LogprobStatistics, Query

__all__ = ["graded_generation", "logprob_statistics", "storable"]

# Long enough to cover a final answer with its mark, short enough not to be the whole response.
_TAIL_TOKENS = 8
_SURROGATE = re.compile("[\ud800-\udfff]")


def graded_generation(
    query: Query, spec: ModelSpec, outcome: Completion | Failure, grader: Grader
) -> Generation:
    """Make the record of one outcome; labelling and the gate both go through here.

    Args:
        query: the question; its gold, where there is one, decides ``correct``.
        spec: the model that was asked.
        outcome: what its backend gave back.
        grader: finds and compares answers.

    Returns:
        The generation; a recorded one is handed on as it is, as the answer to this query. Where
        the backend has not counted tokens, their number is estimated, and marked so. Its texts can
        be stored whatever the backend and the grader have given.
    """
    if isinstance(outcome, Failure):
        return Generation(
            query_id=query.query_id,
            model=spec.name,
            correct=False if query.gold is not None else None,
            error=storable(outcome.message),
            can_retry=outcome.can_retry,
            latency_s=outcome.latency_s,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            tokens_estimated=outcome.tokens_estimated,
            cost_usd=generation_cost_usd(
                spec, outcome.prompt_tokens or 0, outcome.completion_tokens or 0
            ),
        )
    if outcome.recorded is not None:
        return _replayed(query, outcome.recorded, grader)
    response = storable(outcome.text)
    extraction = grader.extract(response)
    answer = storable(extraction.answer) if extraction else None
    prompt_tokens, completion_tokens = outcome.prompt_tokens, outcome.completion_tokens
    estimated = prompt_tokens is None or completion_tokens is None
    # Nobody's budget may be spent unseen because a server does not count.
    if prompt_tokens is None:
        prompt_tokens = estimate_tokens(storable(query.question))
    if completion_tokens is None:
        completion_tokens = estimate_tokens(response)
    return Generation(
        query_id=query.query_id,
        model=spec.name,
        response=response,
        answer=answer,
        correct=_correct(answer, query.gold, grader),
        finish_reason=storable(outcome.finish_reason),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        latency_s=outcome.latency_s,
        tokens_estimated=estimated,
        cost_usd=generation_cost_usd(spec, prompt_tokens, completion_tokens),
        logprobs=logprob_statistics(outcome.tokens, extraction),
        hidden_states=outcome.hidden_states or None,
    )


def logprob_statistics(
    tokens: Sequence[Token], extraction: Extraction | None
) -> LogprobStatistics | None:
    """Sum up token log-probabilities over the response and over its answer.

    Args:
        tokens: the generated tokens in order.
        extraction: where the answer stands in the text.

    Returns:
        The statistics, or None where there are no tokens.
    """
    if not tokens:
        return None
    values = [token.logprob for token in tokens]
    tail = values[-_TAIL_TOKENS:]
    answer = (
        [t.logprob for t in tokens if t.start < extraction.end and t.end > extraction.start]
        if extraction
        else []
    )
    return LogprobStatistics(
        mean=sum(values) / len(values),
        minimum=min(values),
        tail_mean=sum(tail) / len(tail),
        answer_mean=sum(answer) / len(answer) if answer else None,
        answer_minimum=min(answer) if answer else None,
    )


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
def storable(text: str | None) -> str | None:
    """Replace halves of surrogate pairs, which UTF-8 and so no table can hold.

    Args:
        text: any text; None stays None.

    Returns:
        A text of the same length, so that places in it stay what they are.
    """
    return None if text is None else _SURROGATE.sub("\ufffd", text)


def _replayed(query: Query, row: Generation, grader: Grader) -> Generation:
    if query.gold is None:
        return replace(row, query_id=query.query_id)
    correct = _correct(row.answer, query.gold, grader)
    return replace(row, query_id=query.query_id, correct=correct)


def _correct(answer: str | None, gold: str | None, grader: Grader) -> bool | None:
    if gold is None:
        return None
    return answer is not None and grader.equal(answer, gold)
