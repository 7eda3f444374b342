"""Requests that nobody judges: the model that is to answer them, and those that can stand in."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from pyramid_moa.inference.gateway.api_error import ApiError, unavailable
from pyramid_moa.inference.gateway.api_request import CompletionRequest
from pyramid_moa.inference.gateway.direct_answer import (
    BrokenOffError,
    Sent,
    direct_stream,
    direct_whole,
    local_stream,
)
from pyramid_moa.inference.gateway.direct_model import DirectModel
from pyramid_moa.inference.gateway.gated_answer import Note, Opened, Whole
from pyramid_moa.inference.gateway.reply import DONE, ReplyForm, comment, event
from pyramid_moa.inference.gateway.request_time import is_over

__all__ = ["first_stream", "first_whole"]

# No word of a model that broke off runs into a word of the next.
_GAP = "\n\n"


async def first_whole(
    models: Sequence[DirectModel],
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    note: Note,
) -> Whole:
    """Answer with the first model that does.

    Raises:
        ApiError: none of them does; it is the first one's, whose answer was due.
    """
    error: ApiError | None = None
    sent = Sent(request)
    for model in models:
        try:
            model.afford(request, spent_usd=sent.lost_usd)
            return await direct_whole(model, request, form, until=until, note=note, sent=sent)
        except ApiError as failed:
            error = _to_tell(failed, error)
        if is_over(until):
            break
    assert error is not None
    raise _of_time(models[0], error, until)


async def first_stream(
    models: Sequence[DirectModel],
    request: CompletionRequest,
    form: ReplyForm,
    *,
    until: float,
    with_usage: bool,
    note: Note,
) -> AsyncGenerator[Opened | bytes, None]:
    """Answer as it comes with the first model that does.

    Where one breaks off before any of its text has gone out, the next takes its place; after that,
    one that may take over goes on, if all that has gone out is text.

    Yields:
        First that the stream can begin; then its events, the last of which is an error where nobody
        is left to finish it.

    Raises:
        ApiError: before the stream has begun: none of them answers.
    """
    error: ApiError | None = None
    sent = Sent(request)
    last = models[0]
    for model in models:
        if not _may_go_on(model, sent):
            continue
        try:
            # Before anything is said of it: there may be no money left for it.
            model.afford(request, spent_usd=sent.lost_usd)
            for line in _handed_over(model, form, sent):
                yield line
            last = model
            begin = direct_stream if model.upstream.is_served else local_stream
            parts = begin(
                model, request, form, until=until, with_usage=with_usage, note=note, sent=sent
            )
            async with aclosing(parts) as live:
                async for part in live:
                    if not (isinstance(part, Opened) and sent.opened):
                        sent.opened = True
                        yield part
            return
        except ApiError as failed:
            error = failed if isinstance(failed, BrokenOffError) else _to_tell(failed, error)
        if is_over(until):
            break
    assert error is not None
    error = _of_time(models[0], error, until)
    if not sent.opened:
        raise error
    for line in _broken_off(last, form, error, sent, note, until):
        yield line


def _may_go_on(model: DirectModel, sent: Sent) -> bool:
    """Whether a model can be asked after what has gone out."""
    if not sent.opened:
        return True
    return sent.is_plain and (model.takes_over or not sent.characters)


def _to_tell(failed: ApiError, first: ApiError | None) -> ApiError:
    """The error to tell where nobody answers: the first model's, whose answer was due.

    Raises:
        ApiError: it is about the request, and the model that was to answer says so.
    """
    if first is None and failed.status < 500 and failed.status != 429:
        raise failed
    return first or failed


def _handed_over(model: DirectModel, form: ReplyForm, sent: Sent) -> list[bytes]:
    """Say whose text follows: to people, and to programs where they already read."""
    if not sent.opened:
        return []
    if not sent.characters:
        return [comment({"fallback": model.name, "void_characters": 0})]
    gap = form.gap(0, _GAP)
    sent.characters += len(_GAP)
    sent.void = sent.characters
    told = {"fallback": model.name, "void_characters": sent.void}
    return [event(gap), comment(told), event(form.mark(0, told))]


def _broken_off(
    model: DirectModel,
    form: ReplyForm,
    error: ApiError,
    sent: Sent,
    note: Note,
    until: float,
) -> list[bytes]:
    """End a stream that nobody finishes: in an error, or there where the client's time is over."""
    # What each of them has said is among what was lost, the last one's, too.
    block = sent.block_of(model, {})
    is_short = model.plan.is_cut and is_over(until)
    if is_short:
        block["budget_exhausted"] = True
        block["reason"] += "; max_latency_ms is over"
    note(block, sent.counts_of({}))
    if not is_short:
        return [event(error.body())]
    # As with max_tokens, the text ends where it is.
    closing = [event(form.closing(index, "length", block)) for index in sent.unended]
    return [*closing, DONE]


def _of_time(model: DirectModel, error: ApiError, until: float) -> ApiError:
    """The error in words of the client's own, where it is its time that is over."""
    if not (model.plan.is_cut and is_over(until)):
        return error
    return unavailable(
        f"pyramid.max_latency_ms was over before {model.name} had answered; allow more"
    )
