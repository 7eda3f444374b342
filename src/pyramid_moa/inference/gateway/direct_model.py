"""A model that is asked by itself: how, for how long and for how much, and what is said of it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pyramid_moa.backends import ModelSpec, Sampling, generation_cost_usd
from pyramid_moa.backends.openai_reply import MOST_TOKENS, token_count
from pyramid_moa.inference.budget import CHARACTERS_PER_TOKEN
from pyramid_moa.inference.gateway.api_error import bad_request
from pyramid_moa.inference.gateway.api_request import ChatRequest, CompletionRequest, TextRequest
from pyramid_moa.inference.gateway.explanation import direct_block
from pyramid_moa.inference.gateway.plan import Direct
from pyramid_moa.inference.gateway.question import client_sampling
from pyramid_moa.inference.gateway.upstream import Upstream

__all__ = ["DirectModel", "answers_wanted", "known_counts"]

_NOT_RELAYED = {"model", "pyramid", "stream", "stream_options"}
_LIMITS = ("max_tokens", "max_completion_tokens")


class DirectModel:
    """A model that is asked by itself, and what of the pyramid that needs."""

    def __init__(
        self,
        plan: Direct,
        upstream: Upstream,
        *,
        is_oracle: bool,
        sampling: Sampling,
        chat: bool,
        patience: float,
        takes_over: bool,
    ) -> None:
        """Say which, and how.

        Args:
            plan: why.
            upstream: the model.
            is_oracle: whether it is the oracle.
            sampling: what holds for a model in this process where the client says nothing.
            chat: whether such a model is given conversations.
            patience: share of the time that is left that may go by before its next word, so that
                there is some for those that can stand in.
            takes_over: whether it may go on where another has broken off.
        """
        self.plan = plan
        self.upstream = upstream
        self.is_oracle = is_oracle
        self.chat = chat
        self.patience = patience
        self.takes_over = takes_over
        self._sampling = sampling
        self._limit: int | None = None

    @property
    def name(self) -> str:
        """As the pyramid has it."""
        return self.upstream.spec.name

    @property
    def is_stand_in(self) -> bool:
        """Whether it answers in place of the one that should."""
        return self.name != self.plan.model

    def afford(self, request: CompletionRequest, *, spent_usd: float) -> None:
        """See how long an answer the client's budget pays for; to be done before it is asked.

        Without a length of the client's, that of judged answers is the longest: servers refuse a
        larger one than they can give, and nobody knows what that is.

        Args:
            request: the client's.
            spent_usd: on those that were asked before.

        Raises:
            ApiError: there is no room for any.
        """
        if self.plan.max_usd is None:
            return
        wanted, usd = self._wanted(request), self.plan.max_usd - spent_usd
        cap = _affordable_tokens(self.upstream.spec, request, usd)
        self._limit = wanted if cap is None else min(cap, wanted)

    def relayed(self, request: CompletionRequest) -> dict[str, object]:
        """The request as a server is given it."""
        given = {
            name: value
            for name, value in request.model_dump(mode="json", exclude_unset=True).items()
            if name not in _NOT_RELAYED
        }
        limit = self._limit
        if limit is None:
            return given
        return {name: given[name] for name in given if name not in _LIMITS} | {"max_tokens": limit}

    def sampled(self, request: CompletionRequest) -> Sampling:
        """How a model in this process answers it."""
        sampling, limit = client_sampling(request, self._sampling), self._limit
        return sampling if limit is None else replace(sampling, max_tokens=limit)

    def block(
        self,
        usage: Mapping[str, Any],
        seconds: float | None,
        *,
        request: CompletionRequest,
        reasons: Collection[object] = (),
    ) -> dict[str, Any]:
        """The answer's reason and price.

        Args:
            usage: tokens, as the model's server has given them.
            seconds: that it took; None where nobody has measured that.
            request: what was asked.
            reasons: why its answers ended.
        """
        known, cost = known_counts(usage), None
        if "prompt_tokens" in known and "completion_tokens" in known:
            prompt, completion = known["prompt_tokens"], known["completion_tokens"]
            cost = generation_cost_usd(self.upstream.spec, prompt, completion)
        block = direct_block(
            self.name,
            self.plan.reason,
            cause=self.plan.cause,
            distance=self.plan.distance,
            is_oracle=self.is_oracle,
            cost_usd=cost,
            seconds=seconds,
        )
        if self.is_stand_in:
            block["degraded"] = True
            block["reason"] += f", which failed: {self.name} stands in"
        limit = self._limit
        if "length" in reasons and limit is not None and limit < self._wanted(request):
            block["budget_exhausted"] = True
            block["reason"] += "; max_cost_usd pays for no more"
        return block

    def _wanted(self, request: CompletionRequest) -> int:
        """The longest answer that the client wants; the pyramid's where it says nothing."""
        return client_sampling(request, self._sampling).max_tokens


def _affordable_tokens(spec: ModelSpec, request: CompletionRequest, max_usd: float) -> int | None:
    """Tokens that each answer may have; None for any number.

    Raises:
        ApiError: not one, or nobody knows how many the prompt has.
    """
    given: object = None
    if isinstance(request, ChatRequest):
        given = request.model_dump(mode="json", include={"messages", "tools", "functions"})
        if any(
            part.get("type") != "text"
            for message in request.messages
            if isinstance(message.content, list)
            for part in message.content
        ):
            raise bad_request(
                "pyramid.max_cost_usd: expected a request of text, because nobody knows before "
                "what images and the like cost; found other parts: leave them out, or the limit",
                param="pyramid.max_cost_usd",
                code="budget_not_applicable",
            )
    elif isinstance(request, TextRequest):
        given = request.prompt
    characters = len(json.dumps(given, ensure_ascii=False))
    usd = max_usd - generation_cost_usd(spec, round(characters / CHARACTERS_PER_TOKEN), 0)
    a_token = generation_cost_usd(spec, 0, answers_wanted(request, made=True))
    if usd < a_token or usd < 0:
        raise bad_request(
            f"pyramid.max_cost_usd: expected what {spec.name} takes for this prompt and an answer, "
            f"{max_usd - usd + a_token:.3g} USD at the least; found {max_usd:.3g}: allow more",
            param="pyramid.max_cost_usd",
            code="budget_too_small",
        )
    # A budget without an end would pay for more than a number holds.
    return int(min(usd / a_token, MOST_TOKENS)) if a_token > 0 else None


def answers_wanted(request: CompletionRequest, *, made: bool = False) -> int:
    """How many answers a request is to be given; with ``made``, those that are thrown away, too."""
    n = request.n or 1
    if isinstance(request, TextRequest):
        if made:
            n = max(n, request.best_of or 1)
        prompts = request.prompt
        if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
            n *= len(prompts)
    return n


def known_counts(usage: Mapping[str, Any]) -> dict[str, int]:
    """What can be a number of tokens: servers have given other things."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: n for name in names if (n := token_count(usage.get(name))) is not None}
