"""Answers of one model that nobody judges: the client's request as it is, handed on."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pyramid_moa.backends import Completion, Failure, Message, Prompt, generation_cost_usd
from pyramid_moa.backends.openai_relay import RelayError
from pyramid_moa.inference.gateway.api_error import ApiError, bad_request, unavailable
from pyramid_moa.inference.gateway.api_request import ChatRequest, CompletionRequest, TextRequest
from pyramid_moa.inference.gateway.direct_model import DirectModel, answers_wanted, known_counts
from pyramid_moa.inference.gateway.explanation import pyramid_headers
from pyramid_moa.inference.gateway.gated_answer import Note, Opened, Whole
from pyramid_moa.inference.gateway.merging import all_of
from pyramid_moa.inference.gateway.question import plain_texts, seed_of
from pyramid_moa.inference.gateway.reply import DONE, ReplyForm, event
from pyramid_moa.inference.gateway.spending import Bill, prompt_characters
from pyramid_moa.inference.gateway.upstream import piece_of

__all__ = ["BrokenOffError", "Sent", "direct_stream", "direct_whole", "local_stream"]

# What of a server's answer is the clients' to see; its number and name are the reply's own.
_REPLY_FIELDS = ("choices", "system_fingerprint")
_REFUSALS = (400, 413, 415, 422)
_TEXTUAL = {"role", "content", "refusal", "reasoning", "reasoning_content"}


class BrokenOffError(ApiError):
    """A stream that has begun can't be finished by its model."""


class Sent:
    """What of an answer has gone out, and what was paid for that could not.

    Attributes:
        opened: anything at all.
        characters: of text.
        void: characters of that which are no part of the answer, because who said them broke off.
        is_plain: nothing but the text of one answer, which another model can go on after.
    """

    def __init__(self, request: CompletionRequest) -> None:
        """Begin with nothing."""
        self.opened = False
        self.characters = self.void = 0
        self.is_plain = answers_wanted(request) == 1
        self._request = request
        # Of models that broke off or gave no answer: name, tokens of prompt and answer, US dollars.
        self._lost: list[tuple[str, int, int, float]] = []
        self._ended: dict[int, object] = {}
        self._wanted = answers_wanted(request)

    @property
    def reasons(self) -> list[object]:
        """Why the answers that have ended did."""
        return list(self._ended.values())

    @property
    def is_whole(self) -> bool:
        """Whether every answer has ended."""
        return len(self._ended) >= self._wanted

    @property
    def unended(self) -> list[int]:
        """Numbers of the answers that have not."""
        return [index for index in range(self._wanted) if index not in self._ended]

    @property
    def lost_usd(self) -> float:
        """What those took that give no answer."""
        return sum(usd for *_, usd in self._lost)

    def block_of(
        self, model: DirectModel, usage: Mapping[str, Any], *, seconds: float | None = None
    ) -> dict[str, Any]:
        """The reason and price of the answer, now that the last model has ended."""
        block = model.block(usage, seconds, request=self._request, reasons=self.reasons)
        if self.void:
            block["void_characters"] = self.void
        if self._lost:
            # What was said in vain is paid for all the same.
            block["cost_usd"] = (block["cost_usd"] or 0.0) + self.lost_usd
            names = [name for name, *_ in self._lost if name != model.name]
            block["models_called"] = [*names, model.name]
        return block

    def counts_of(self, usage: Mapping[str, Any]) -> dict[str, int]:
        """Tokens of all calls, with those of the last model's, as far as they are known."""
        counts = known_counts(usage)
        if self._lost:
            prompt = counts.get("prompt_tokens", 0) + sum(n for _, n, _, _ in self._lost)
            completion = counts.get("completion_tokens", 0) + sum(n for _, _, n, _ in self._lost)
            counts = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return counts

    def lose(self, model: DirectModel, bill: Bill) -> None:
        """Take note of what a model has taken that gives no answer."""
        if bill.has_come:
            prompt, completion = bill.prompt_tokens, bill.completion_tokens
            usd = generation_cost_usd(model.upstream.spec, prompt, completion)
            self._lost.append((model.name, prompt, completion, usd))

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take note of a chunk."""
        for choice in chunk["choices"]:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            own = delta if isinstance(delta, dict) else {}
            text = own.get("content") or choice.get("text")
            self.characters += len(text) if isinstance(text, str) else 0
            if any(value for name, value in own.items() if name not in _TEXTUAL):
                self.is_plain = False
            if reason := choice.get("finish_reason"):
                # Servers have been seen to give anything: what is no number is the only one.
                index = choice.get("index")
                self._ended[index if isinstance(index, int) else 0] = reason


async def direct_whole(
    model: DirectModel,
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    note: Note,
    sent: Sent,
) -> Whole:
    """Answer when all of it is there.

    Raises:
        ApiError: the model refuses the request, or gives no answer.
    """
    limit_s = model.patience * (until - asyncio.get_running_loop().time())
    if not model.upstream.is_served:
        return await _local_whole(
            model, request, form, until=until, limit_s=limit_s, note=note, sent=sent
        )
    relayed = model.relayed(request)
    try:
        reply = await model.upstream.relay(_path(request), relayed, until=until, limit_s=limit_s)
    except RelayError as error:
        raise _explained(error) from error
    counts = _counts(reply)
    if not _is_answer(reply, chat=form.chat):
        bill = Bill()
        bill.begin(prompt_characters(relayed))
        bill.answered(counts)
        sent.lose(model, bill)
        raise unavailable(f"{model.name} gave something else than an answer")
    shown = form.own(_shown(reply), chunk=False)
    sent.add(shown)
    block, usage = sent.block_of(model, counts), sent.counts_of(counts)
    note(block, usage)
    body = {**shown, "usage": {**counts, **usage} or None, "pyramid": block}
    return Whole(body=body, headers=pyramid_headers(block))


async def direct_stream(
    model: DirectModel,
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    with_usage: bool,
    note: Note,
    sent: Sent,
) -> AsyncGenerator[Opened | bytes, None]:
    """Hand an answer of a server's on as it comes.

    Yields:
        First that the stream can begin, with the model's first words; then its events.

    Raises:
        ApiError: the model refuses, or gives no answer: nothing of it has gone out.
        BrokenOffError: some of it has.
    """
    usage: dict[str, Any] = {}
    last: dict[str, Any] = {}
    relayed, began, bill = model.relayed(request), False, Bill()
    chunks = model.upstream.relay_stream(
        _path(request), relayed, until=until, patience=model.patience, bill=bill
    )
    try:
        async with aclosing(chunks) as live:
            async for chunk in live:
                usage = _counts(chunk) or usage
                if not _has_choices(chunk):
                    continue
                if not began:
                    began = True
                    yield Opened(headers=pyramid_headers(model.block({}, None, request=request)))
                if last:
                    yield event(last)
                shown = form.own(_shown(chunk), chunk=True)
                sent.add(shown)
                # From the last answer's end on, one is kept until the tokens are known, so that
                # the reason can go with it: some servers say more after that.
                last = shown if sent.is_whole else {}
                if not last:
                    yield event(shown)
    except RelayError as error:
        # Where every answer had ended, nothing is missing.
        if not last:
            sent.lose(model, bill)
            raise _broken_off(error) if began else _explained(error) from error
    if not began:
        sent.lose(model, bill)
        raise unavailable(f"{model.name} gave something else than an answer")
    block, counts = sent.block_of(model, usage), sent.counts_of(usage)
    note(block, counts)
    # Clients look into every chunk's first choice.
    yield event({**(last or form.mark(0, block)), "pyramid": block})
    if with_usage:
        yield event(form.usage(counts, block))
    yield DONE


async def _local_whole(
    model: DirectModel,
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    limit_s: float,
    note: Note,
    sent: Sent,
) -> Whole:
    """Ask a model of this process, as far as it can be told what the client wants."""
    prompts = _local_prompts(model, request)
    sampling = model.sampled(request)
    n = request.n or 1
    calls = [
        (prompt, replace(sampling, seed=seed_of(sampling, number)))
        for prompt in prompts
        for number in range(n)
    ]
    outcomes = await all_of(
        [model.upstream.ask(prompt, how, until=until, limit_s=limit_s) for prompt, how in calls]
    )
    choices, prompt_tokens, completion_tokens = [], 0, 0
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Failure):
            raise _refused(outcome)
        prompt_tokens += outcome.prompt_tokens or 0
        completion_tokens += outcome.completion_tokens or 0
        choices.append(form.choice(index, piece_of(outcome), outcome.finish_reason))
    own = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    seconds = max(
        (outcome.latency_s for outcome in outcomes if isinstance(outcome, Completion)), default=0.0
    )
    sent.add({"choices": choices})
    block, usage = sent.block_of(model, own, seconds=seconds), sent.counts_of(own)
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
    sent: Sent,
) -> AsyncGenerator[Opened | bytes, None]:
    """Give the answer of a model in this process as events: its text is there at once.

    Yields:
        As ``direct_stream``.

    Raises:
        ApiError: the model refuses, or gives no answer.
    """
    limit_s = model.patience * (until - asyncio.get_running_loop().time())
    whole = await _local_whole(
        model, request, form, until=until, limit_s=limit_s, note=note, sent=sent
    )
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


def _shown(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What of a server's answer, or a chunk of it, goes on to the client."""
    return {name: reply[name] for name in _REPLY_FIELDS if name in reply}


def _has_choices(chunk: Mapping[str, Any]) -> bool:
    """Whether it is a chunk of answers; clients of some servers have been sent other things."""
    choices = chunk.get("choices")
    return isinstance(choices, list) and bool(choices) and all(map(_is_object, choices))


def _is_answer(reply: Mapping[str, Any], *, chat: bool) -> bool:
    """Whether clients can read it: what stands in the place of an answer is one."""
    if not _has_choices(reply):
        return False
    if chat:
        return all(_is_object(choice.get("message")) for choice in reply["choices"])
    return all(isinstance(choice.get("text"), str) for choice in reply["choices"])


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _counts(reply: Mapping[str, Any]) -> dict[str, Any]:
    usage = reply.get("usage")
    return usage if isinstance(usage, dict) else {}


def _path(request: CompletionRequest) -> str:
    return "/chat/completions" if isinstance(request, ChatRequest) else "/completions"


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


def _broken_off(error: RelayError) -> BrokenOffError:
    said = _explained(error)
    return BrokenOffError(
        said.status, said.message, code=said.code, retry_after_s=said.retry_after_s
    )


def _refused(failure: Failure) -> ApiError:
    if failure.can_retry:
        return unavailable(failure.message)
    return bad_request(failure.message, code="refused_by_model")
