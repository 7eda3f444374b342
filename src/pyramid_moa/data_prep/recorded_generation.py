"""From a row of a table of recorded answers to a generation."""

from typing import Any

from pyramid_moa.data_prep.graded import storable
from pyramid_moa.data_prep.manifest import ModelCost
from pyramid_moa.data_prep.token_estimate import estimate_tokens
from pyramid_moa.grading import Grader
from pyramid_moa.records import Generation, LogprobStatistics, Query

__all__ = ["recorded_generation"]


def recorded_generation(
    query: Query,
    row: dict[str, Any],
    name: str,
    cost: ModelCost,
    grader: Grader,
    *,
    prices_given: bool,
) -> Generation:
    """Make the record of a row of a table of recorded answers.

    Args:
        query: the question it answers.
        row: the table's row by column.
        name: what the model is called in its pyramid.
        cost: what its tokens cost.
        grader: finds an answer where the table has none, and compares it with the query's gold.
        prices_given: price it anew, whatever the table says it has cost.
    """
    response, answer = row["response"], row.get("answer")
    # Where the source has looked for answers, a null means that there is none.
    if "answer" not in row and response is not None:
        extraction = grader.extract(response)
        answer = storable(extraction.answer) if extraction else None
    prompt_tokens, completion_tokens = row["prompt_tokens"], row["completion_tokens"]
    estimated = prompt_tokens is None or completion_tokens is None
    if prompt_tokens is None:
        prompt_tokens = estimate_tokens(query.question)
    if completion_tokens is None:
        completion_tokens = estimate_tokens(response if response is not None else answer or "")
    usd = row["cost_usd"]
    if usd is None or prices_given:
        usd = (prompt_tokens * cost.price.input + completion_tokens * cost.price.output) / 1e6
    mean_logprob = row["mean_logprob"]
    return Generation(
        query_id=query.query_id,
        model=name,
        variant=row["variant"],
        sample=row["sample"],
        response=response,
        answer=answer,
        correct=None
        if query.gold is None
        else answer is not None and grader.equal(answer, query.gold),
        finish_reason=row["finish_reason"],
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        tokens_estimated=estimated,
        latency_s=row["latency_s"],
        cost_usd=usd,
        confidence=row["confidence"],
        logprobs=None if mean_logprob is None else LogprobStatistics(mean=mean_logprob),
    )
