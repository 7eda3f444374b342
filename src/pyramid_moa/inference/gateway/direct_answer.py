"""Answers of one model that nobody judges: the client's request as it is, handed on."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pyramid_moa.backends import (
    Completion,
    Failure,
    Message,
    Prompt,
    Sampling,
    generation_cost_usd,
)
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.inference.gateway.api_error import ApiError, bad_request, unavailable
from pyramid_moa.inference.gateway.api_request import ChatRequest, CompletionRequest, TextRequest
from pyramid_moa.inference.gateway.explanation import direct_block, pyramid_headers
from pyramid_moa.inference.gateway.gated_answer import Note, Opened, Whole
from pyramid_moa.inference.gateway.merging import all_of
from pyramid_moa.inference.gateway.plan import Direct
from pyramid_moa.inference.gateway.question import client_sampling, plain_texts
from pyramid_moa.inference.gateway.reply import DONE, ReplyForm, event
from pyramid_moa.inference.gateway.upstream import Upstream, piece_of

__all__ = ["DirectModel", "direct_stream", "direct_whole", "local_stream"]

# What of a server's answer is the clients' to see.
_REPLY_FIELDS = ("id", "object", "created", "choices", "system_fingerprint")
_NOT_RELAYED = {"model", "pyramid", "stream", "stream_options"}
_REFUSALS = (400, 413, 415, 422)


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
    ) -> None:
        """Say which, and how.

        Args:
            plan: why.
            upstream: the model.
            is_oracle: whether it is the oracle.
            sampling: what holds for a model in this process where the client says nothing.
            chat: whether such a model is given conversations.
        """
        self.plan = plan
        self.upstream = upstream
        self.is_oracle = is_oracle
        self.sampling = sampling
        self.chat = chat

    @property
    def is_stand_in(self) -> bool:
        """Whether it answers in place of the one that should."""
        return self.upstream.spec.name != self.plan.model

    def block(self, usage: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        """The answer's reason and price."""
        known, cost = _known(usage), None
        if "prompt_tokens" in known and "completion_tokens" in known:
            prompt, completion = known["prompt_tokens"], known["completion_tokens"]
            cost = generation_cost_usd(self.upstream.spec, prompt, completion)
        block = direct_block(
            self.upstream.spec.name,
            self.plan.reason,
            cause=self.plan.cause,
            distance=self.plan.distance,
            is_oracle=self.is_oracle,
            cost_usd=cost,
            seconds=seconds,
        )
        if self.is_stand_in:
            block["degraded"] = True
            block["reason"] += f", which failed: {self.upstream.spec.name} stands in"
        return block


async def direct_whole(
    model: DirectModel, request: CompletionRequest, form: ReplyForm, *, until: float, note: Note
) -> Whole:
    """Answer when all of it is there.

    Raises:
        ApiError: the model refuses the request, or gives no answer.
    """
    if not model.upstream.is_served:
        return await _local_whole(model, request, form, until=until, note=note)
    try:
        reply = await model.upstream.relay(_path(request), _relayed(request), until=until)
    except RelayError as error:
        raise _explained(error) from error
    counts = _counts(reply)
    block = model.block(counts, None)
    note(block, _known(counts))
    body = {**_shown(reply, form), "usage": counts or None, "pyramid": block}
    return Whole(body=body, headers=pyramid_headers(block))


async def direct_stream(
    model: DirectModel,
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    with_usage: bool,
    note: Note,
) -> AsyncGenerator[Opened | bytes, None]:
    """Hand an answer of a server's on as it comes.

    Yields:
        First that the stream can begin, with the model's first words; then its events.

    Raises:
        ApiError: before the stream has begun: the model refuses, or gives no answer.
    """
    usage: dict[str, Any] = {}
    last: dict[str, Any] = {}
    opened = False
    chunks = model.upstream.relay_stream(_path(request), _relayed(request), until=until)
    try:
        async with aclosing(chunks) as live:
            async for chunk in live:
                if not opened:
                    opened = True
                    yield Opened(headers=pyramid_headers(model.block({}, None)))
                usage = _counts(chunk) or usage
                if not chunk.get("choices"):
                    continue
                if last:
                    yield event(last)
                shown = _shown(chunk, form)
                # The last is kept until the tokens are known, so that the reason can go with it.
                last = shown if _is_last(chunk) else {}
                if not last:
                    yield event(shown)
    except RelayError as error:
        if not opened:
            raise _explained(error) from error
        note(model.block(usage, None), _known(usage))
        yield event(_explained(error).body())
        return
    block = model.block(usage, None)
    note(block, _known(usage))
    yield event({**last, "pyramid": block})
    if with_usage:
        yield event(form.usage(_known(usage), block))
    yield DONE


async def _local_whole(
    model: DirectModel, request: CompletionRequest, form: ReplyForm, *, until: float, note: Note
) -> Whole:
    """Ask a model of this process, as far as it can be told what the client wants."""
    prompts = _local_prompts(model, request)
    sampling = client_sampling(request, model.sampling)
    n = request.n or 1
    calls = [
        (prompt, replace(sampling, seed=sampling.seed + number))
        for prompt in prompts
        for number in range(n)
    ]
    outcomes = await all_of([model.upstream.ask(prompt, how, until=until) for prompt, how in calls])
    choices, prompt_tokens, completion_tokens = [], 0, 0
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Failure):
            raise _refused(outcome)
        prompt_tokens += outcome.prompt_tokens or 0
        completion_tokens += outcome.completion_tokens or 0
        choices.append(form.choice(index, piece_of(outcome), outcome.finish_reason))
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    seconds = max(
        (outcome.latency_s for outcome in outcomes if isinstance(outcome, Completion)), default=0.0
    )
    block = model.block(usage, seconds)
    note(block, usage)
    return Whole(body=form.whole(choices, usage, block), headers=pyramid_headers(block))


async def local_stream(
    model: DirectModel,
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    with_usage: bool,
    note: Note,
) -> AsyncGenerator[Opened | bytes, None]:
    """Give the answer of a model in this process as events: its text is there at once.

    Yields:
        As ``direct_stream``.

    Raises:
        ApiError: the model refuses, or gives no answer.
    """
    whole = await _local_whole(model, request, form, until=until, note=note)
    yield Opened(headers=whole.headers)
    block = whole.body["pyramid"]
    for choice in whole.body["choices"]:
        content = choice["message"]["content"] if form.chat else choice["text"]
        part: dict[str, Any] = {"index": choice["index"], "finish_reason": choice["finish_reason"]}
        delta = {"role": "assistant", "content": content}
        part |= {"delta": delta} if form.chat else {"text": content}
        chunk = {**form.usage({}, block), "usage": None}
        chunk["choices"] = [{**part, "logprobs": choice["logprobs"]}]
        yield event(chunk)
    if with_usage:
        yield event(form.usage(whole.body["usage"], block))
    yield DONE


def _local_prompts(model: DirectModel, request: CompletionRequest) -> list[Prompt]:
    name = model.upstream.spec.name
    texts = plain_texts(request)
    if isinstance(texts, str):
        raise bad_request(
            f"{texts}: {name} runs in the gateway's own process and takes plain text alone",
            param=texts,
            code="not_supported",
        )
    if isinstance(request, TextRequest):
        return [Prompt(text=text) for _, text in texts]
    if model.chat:
        return [Prompt(messages=tuple(Message(role=role, content=text) for role, text in texts))]
    if len(texts) != 1:
        raise bad_request(
            f"messages: {name} continues plain text: expected one message, found {len(texts)}",
            param="messages",
            code="not_supported",
        )
    return [Prompt(text=texts[0][1])]


def _shown(reply: Mapping[str, Any], form: ReplyForm) -> dict[str, Any]:
    """What of a server's answer, or a chunk of it, goes on to the client."""
    return {name: reply[name] for name in _REPLY_FIELDS if name in reply} | {"model": form.model}


def _is_last(chunk: Mapping[str, Any]) -> bool:
    choices = chunk["choices"] if isinstance(chunk["choices"], list) else []
    return any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


def _counts(reply: Mapping[str, Any]) -> dict[str, Any]:
    usage = reply.get("usage")
    return usage if isinstance(usage, dict) else {}


def _path(request: CompletionRequest) -> str:
    return "/chat/completions" if isinstance(request, ChatRequest) else "/completions"


def _relayed(request: CompletionRequest) -> dict[str, object]:
    return {
        name: value
        for name, value in request.model_dump(mode="json", exclude_unset=True).items()
        if name not in _NOT_RELAYED
    }


def _known(usage: Mapping[str, Any]) -> dict[str, int]:
    """What can be a number of tokens: servers have given other things."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        name: value
        for name in names
        if isinstance(value := usage.get(name), int) and not isinstance(value, bool) and value >= 0
    }


def _explained(error: RelayError) -> ApiError:
    if error.status in _REFUSALS and not error.can_retry:
        return bad_request(str(error), code="refused_by_model")
    if error.status == 429:
        return ApiError(
            429,
            "the model has more to do than it can; ask again later",
            code="model_busy",
            retry_after_s=error.retry_after_s or 1.0,
        )
    return unavailable(str(error), retry_after_s=error.retry_after_s or 1.0)


def _refused(failure: Failure) -> ApiError:
    if failure.can_retry:
        return unavailable(failure.message)
    return bad_request(failure.message, code="refused_by_model")
