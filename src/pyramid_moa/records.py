"""The words of the project as data: query, log-probability statistics, generation, decision."""

import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Decision", "Generation", "LogprobStatistics", "Query", "question_hash"]


def question_hash(question: str) -> str:
    """Identify a question whatever its spacing and Unicode form.

    Args:
        question: the question's text.

    Returns:
        SHA-256 of the normalised text, 64 hexadecimal digits.
    """
    normal = " ".join(unicodedata.normalize("NFC", question).split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question of a data set.

    Attributes:
        query_id: unique inside its run.
        question: what the models are asked.
        gold: the reference answer, or None where there is none.
        split: ``train``, ``validation``, ``calibration``, ``test``, or a name of the user's;
            None until it has been assigned.
    """

    query_id: str
    question: str
    gold: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class LogprobStatistics:
    """Natural log-probabilities of generated tokens, summed up; None for what is not known.

    Attributes:
        mean: over all tokens of the response, the end token included.
        minimum: the least probable token of the response.
        tail_mean: over the last eight tokens of the response.
        answer_mean: over the tokens that overlap the extracted answer; None where no answer
            was found.
        answer_minimum: the least probable of those.
    """

    mean: float | None = None
    minimum: float | None = None
    tail_mean: float | None = None
    answer_mean: float | None = None
    answer_minimum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer of one model to one query.

    Attributes:
        query_id: the query.
        model: name of the member or oracle in its pyramid.
        variant: prompt and decoding in words, where one model answers in several ways.
        sample: number of the sample, from 0.
        response: the text, or None where it failed or was not recorded.
        answer: what the grader extracted, or None.
        correct: equality with the reference, or None where there is no reference (yet).
        finish_reason: ``stop``, ``length`` or as the backend calls it.
        error: why there is no response, or None.
        can_retry: with ``error``: whether asking again can help.
        prompt_tokens: number of tokens of the prompt.
        completion_tokens: number of generated tokens, the end token included.
        tokens_estimated: whether those counts are estimates.
        latency_s: seconds this answer took (a batch's time shared among its rows).
        cost_usd: price of this answer in US dollars.
        confidence: a confidence that its source recorded, larger is surer.
        logprobs: statistics of the token log-probabilities, where the backend gives them.
        hidden_states: float16 vectors by ``layer<k>/<pooling>``, each of shape [hidden size].
    """

    query_id: str
    model: str
    variant: str = ""
    sample: int = 0
    response: str | None = None
    answer: str | None = None
    correct: bool | None = None
    finish_reason: str | None = None
    error: str | None = None
    can_retry: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    latency_s: float | None = None
    cost_usd: float | None = None
    confidence: float | None = None
    logprobs: LogprobStatistics | None = None
    hidden_states: "Mapping[str, NDArray[np.float16]] | None" = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate did with one query, and why.

    Attributes:
        query_id: the query.
        answer: the final extracted answer, or None where nobody gave one.
        response: the text that carries it, or None.
        answered_by: name of the model whose text it is, or None.
        escalated: whether the oracle was asked.
        ensemble_answer: what the members alone would have answered.
        p_ensemble_fails: the router's probability that this answer is wrong; for the vote rule
            the share of members that do not stand behind it.
        p_oracle_right: the router's probability that the oracle is right, or None (vote rule).
        threshold: the oracle is asked where ``p_ensemble_fails`` is larger.
        rule: ``router`` or ``vote``.
        reason: the decision in words.
        models_called: every model that was asked, in order.
        generations: what they said.
        cost_usd: price of all calls together.
        oracle_cost_usd: what asking the oracle alone costs: measured where it was asked,
            otherwise estimated.
        flops: 2 x active parameters x tokens, over all calls; None where a count is unknown.
        members_s: seconds in the members.
        router_s: seconds in features and router.
        oracle_s: seconds in the oracle.
        degraded: the oracle was wanted and failed; the answer is the ensemble's.
        policy: ``parallel`` or ``sequential``.
        path: models that were asked together, in order.
        outvoted: the oracle gave another answer, and the ensemble's was kept.
        budget_exhausted: a budget forbade what would otherwise have been done; the answer is the
            best so far.
    """

    query_id: str
    answer: str | None
    response: str | None
    answered_by: str | None
    escalated: bool
    ensemble_answer: str | None
    p_ensemble_fails: float
    p_oracle_right: float | None
    threshold: float
    rule: str
    reason: str
    models_called: tuple[str, ...]
    generations: tuple[Generation, ...]
    cost_usd: float
    oracle_cost_usd: float
    flops: float | None
    members_s: float
    router_s: float
    oracle_s: float
    degraded: bool = False
    policy: str = "parallel"
    path: tuple[tuple[str, ...], ...] = ()
    outvoted: bool = False
    budget_exhausted: bool = False
