"""Bodies of OpenAI-compatible servers to completions: nothing in them is taken on trust."""

import json
import math
from typing import cast

import orjson

from pyramid_moa.backends.protocol import Completion, Token
from pyramid_moa.backends.token_spans import token_spans
from pyramid_moa.errors import BackendError

__all__ = [
    "MOST_TOKENS",
    "can_retry_status",
    "completion_of",
    "is_logprob",
    "model_ids",
    "read_completion",
    "read_json",
    "storable_text",
    "token_count",
    "token_counts",
    "token_pieces",
    "transfer_parameters",
]

# Besides these, every status from 500 on: timeout, lock timeout, too early, rate limit; and, for
# who asks again later, what a new key, a paid bill or a model that is loaded again puts right.
_RETRY_STATUSES = frozenset({401, 402, 403, 404, 408, 409, 425, 429})

# No tokenizer in use has longer tokens on average; an answer longer than this isn't an answer to
# what was asked for.
_MOST_CHARACTERS_PER_TOKEN = 256
_CHARACTERS_FOR_NOTHING = 1024
_LONGEST_FINISH_REASON = 100
MOST_TOKENS = 2**31
"""No answer has more: whatever says so is no number of tokens."""

_Object = dict[str, object]


def can_retry_status(status: int) -> bool:
    """Whether a request with this HTTP status may succeed later."""
    return status in _RETRY_STATUSES or status >= 500


def read_json(body: bytes) -> object:
    """Parse a body.

    Raises:
        BackendError: it is HTML, or no JSON at all.
    """
    if body.lstrip()[:1] == b"<":
        raise BackendError(
            "expected JSON, found a page of HTML: does base_url name the API, such as "
            "http://127.0.0.1:8000/v1?",
            can_retry=True,
        )
    try:
        return _parsed(body)
    except (ValueError, RecursionError) as error:
        raise BackendError(
            f"expected JSON, found {len(body)} bytes that are none", can_retry=True
        ) from error


def _parsed(body: bytes) -> object:
    """Parse by orjson, which is faster; what it does not take, as Python does.

    That is numbers such as NaN, and halves of surrogate pairs: some servers write them.

    Raises:
        RecursionError: it is nested too deeply.
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def read_completion(
    body: bytes, *, chat: bool, logprobs: bool, max_tokens: int, latency_s: float
) -> Completion:
    """Read one answer.

    Args:
        body: what the server sent.
        chat: whether it answers a conversation, or continues a text.
        logprobs: whether token log-probabilities were asked for.
        max_tokens: the most tokens that were asked for.
        latency_s: seconds it took.

    Returns:
        The completion.

    Raises:
        BackendError: the body does not hold what was asked for.
    """
    return completion_of(
        _object(read_json(body), "the answer"),
        chat=chat,
        logprobs=logprobs,
        max_tokens=max_tokens,
        latency_s=latency_s,
    )


def completion_of(
    reply: _Object, *, chat: bool, logprobs: bool, max_tokens: int, latency_s: float
) -> Completion:
    """Read one answer that has been parsed; see ``read_completion``.

    Raises:
        BackendError: it does not hold what was asked for.
    """
    _refuse_error(reply)
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BackendError("expected one choice in the answer, found none", can_retry=True)
    choice = _object(choices[0], "choices[0]")
    finish_reason = _finish_reason(choice.get("finish_reason"))
    text = _text(choice, chat=chat, finish_reason=finish_reason, max_tokens=max_tokens)
    usage = reply.get("usage")
    counts = cast("_Object", usage) if isinstance(usage, dict) else {}
    return Completion(
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=token_count(counts.get("prompt_tokens")),
        completion_tokens=token_count(counts.get("completion_tokens")),
        latency_s=latency_s,
        tokens=_tokens(choice, text, chat=chat) if logprobs else (),
    )


def token_counts(body: bytes) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer, as far as a body that may be anything tells them."""
    try:
        reply = _parsed(body)
    except (ValueError, RecursionError):
        return None, None
    usage = reply.get("usage") if isinstance(reply, dict) else None
    counts = cast("_Object", usage) if isinstance(usage, dict) else {}
    return token_count(counts.get("prompt_tokens")), token_count(counts.get("completion_tokens"))


def model_ids(body: bytes) -> list[str] | None:
    """Names in a list of models; None where there is no list.

    Raises:
        BackendError: the body is no JSON.
    """
    listing = read_json(body)
    if isinstance(listing, dict):
        listing = cast("_Object", listing).get("data")
    if not isinstance(listing, list):
        return None
    names = [entry.get("id") for entry in listing if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)] or None


def transfer_parameters(body: bytes) -> object:
    """What a vLLM server's connector says beside an answer; None where it says nothing.

    Raises:
        BackendError: the body is no JSON object.
    """
    return _object(read_json(body), "the answer").get("kv_transfer_params")


def _object(value: object, what: str) -> _Object:
    if not isinstance(value, dict):
        raise BackendError(
            f"expected {what} to be a JSON object, found {type(value).__name__}", can_retry=True
        )
    return cast("_Object", value)


def _refuse_error(reply: _Object) -> None:
    """Some gateways report an error with status 200."""
    error = reply.get("error")
    if not error:
        return
    details = cast("_Object", error) if isinstance(error, dict) else {"message": error}
    code = details.get("code")
    raise BackendError(
        f"the server reports an error: {details.get('message')}",
        can_retry=isinstance(code, int) and can_retry_status(code),
    )


def _finish_reason(value: object) -> str:
    if not isinstance(value, str) or not value:
        return "unknown"
    return storable_text(value[:_LONGEST_FINISH_REASON])


def _text(choice: _Object, *, chat: bool, finish_reason: str, max_tokens: int) -> str:
    holder = _object(choice.get("message"), "choices[0].message") if chat else choice
    field = "content" if chat else "text"
    text = holder.get(field)
    if text is None:
        why = (
            f"; all of max_tokens = {max_tokens} went into reasoning: raise it"
            if finish_reason == "length"
            else ""
        )
        raise BackendError(
            f"expected text, found a null {field} (finish reason {finish_reason!r}){why}"
        )
    if not isinstance(text, str):
        raise BackendError(f"expected {field} to be text, found {type(text).__name__}")
    limit = _CHARACTERS_FOR_NOTHING + _MOST_CHARACTERS_PER_TOKEN * max_tokens
    if len(text) > limit:
        raise BackendError(
            f"expected at most {max_tokens} tokens, found {len(text)} characters: does the server "
            "know token_limit_field?"
        )
    return storable_text(text)


def storable_text(text: str) -> str:
    """Replace halves of surrogate pairs, which can be written in JSON and nowhere else."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def token_count(value: object) -> int | None:
    """Read a number of tokens; what can be none counts as not given."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_TOKENS else None


def token_pieces(logprobs: _Object, *, chat: bool) -> list[tuple[bytes, object]]:
    """Bytes of each token beside what is said to be its log-probability, unchecked."""
    return _chat_tokens(logprobs) if chat else _text_tokens(logprobs)


def _tokens(choice: _Object, text: str, *, chat: bool) -> tuple[Token, ...]:
    logprobs = choice.get("logprobs")
    entries = (
        token_pieces(cast("_Object", logprobs), chat=chat) if isinstance(logprobs, dict) else []
    )
    values = [value for _, value in entries]
    if (text and not entries) or not all(map(is_logprob, values)):
        raise BackendError(
            "expected a log-probability for each token, found none; if the server does not give "
            "them, set logprobs: false for this model"
        )
    spans = token_spans(text, [piece for piece, _ in entries])
    return tuple(
        Token(start, end, float(cast("float", value)))
        for (start, end), value in zip(spans, values, strict=True)
    )


def is_logprob(value: object) -> bool:
    """Whether a value that a server gave can be a log-probability."""
    if isinstance(value, float):
        return math.isfinite(value)
    # A whole number may be too large for a float.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_TOKENS


def _chat_tokens(logprobs: _Object) -> list[tuple[bytes, object]]:
    content = logprobs.get("content")
    entries = content if isinstance(content, list) else []
    return [
        (_piece(entry.get("token"), entry.get("bytes")), entry.get("logprob"))
        for entry in entries
        if isinstance(entry, dict)
    ]


def _text_tokens(logprobs: _Object) -> list[tuple[bytes, object]]:
    # text_offset isn't looked at: servers count it from the prompt or from the answer, and with
    # tokens split inside a character it no longer fits the text.
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not (isinstance(tokens, list) and isinstance(values, list)) or len(tokens) != len(values):
        return []
    return [(_piece(token, None), value) for token, value in zip(tokens, values, strict=True)]


def _piece(token: object, given: object) -> bytes:
    """Bytes of a token, as given or from how it is written."""
    try:
        return bytes(given) if isinstance(given, list) else _encoded(token)
    except (TypeError, ValueError):
        return _encoded(token)  # what is given is no list of bytes


def _encoded(token: object) -> bytes:
    return token.encode(errors="replace") if isinstance(token, str) else b""
