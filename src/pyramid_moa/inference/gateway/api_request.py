"""Requests as OpenAI's clients write them: every field that is taken, and nothing besides.

A field that nobody has thought about is refused by name: handed on to a server, it might make it
fetch an address, write a file or reveal what it keeps.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pyramid_moa.backends.openai_reply import MOST_TOKENS
from pyramid_moa.inference.gateway.api_error import ApiError, bad_request

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "PyramidOptions",
    "TextRequest",
    "read_request",
]

_MOST_STOPS = 16
_SHOWN = 200
_INT64 = 2**63 - 1

_Fraction = Annotated[float, Field(allow_inf_nan=False, ge=0.0, le=1.0)]
_Positive = Annotated[float, Field(allow_inf_nan=False, gt=0.0)]
_Penalty = Annotated[float, Field(allow_inf_nan=False, ge=-2.0, le=2.0)]
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_Json = dict[str, Any]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PyramidOptions(_Closed):
    """Where on the dial between quality and cost this request is to be.

    Attributes:
        threshold: ask the oracle where p(ensemble fails) is larger.
        max_cost_usd: the most that this request may cost, in US dollars.
        max_latency_ms: the most that its models may take, in milliseconds.
        policy: ask all members at once, or one step after another.
    """

    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_cost_usd: _Positive | None = None
    max_latency_ms: _Positive | None = None
    policy: Literal["parallel", "sequential"] | None = None


class StreamOptions(_Closed):
    """How an answer is streamed.

    Attributes:
        include_usage: send the tokens of all calls in a last chunk.
        include_obfuscation: taken, and without effect.
    """

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatMessage(BaseModel):
    """One turn; what else a turn can hold is the oracle's to read.

    Attributes:
        role: who speaks.
        content: a text, or parts of a text, images and the like.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Json] | None = None


class CompletionRequest(_Closed):
    """What both kinds of request have in common.

    The attributes are OpenAI's, ``top_k``, ``min_p`` and ``repetition_penalty`` vLLM's;
    ``pyramid`` is the project's own.
    """

    model: Annotated[str, Field(min_length=1, max_length=300)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(allow_inf_nan=False, ge=0.0, le=2.0)] | None = None
    top_p: Annotated[_Fraction, Field(gt=0.0)] | None = None
    seed: Annotated[int, Field(ge=-_INT64 - 1, le=_INT64)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MOST_STOPS)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: _Fraction | None = None
    repetition_penalty: _Positive | None = None
    user: str | None = None
    pyramid: PyramidOptions | None = None


class ChatRequest(CompletionRequest):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: _Json | None = None
    tools: list[_Json] | None = None
    tool_choice: str | _Json | None = None
    parallel_tool_calls: bool | None = None
    functions: list[_Json] | None = None
    function_call: str | _Json | None = None
    modalities: list[str] | None = None
    audio: _Json | None = None
    prediction: _Json | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    metadata: _Json | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class TextRequest(CompletionRequest):
    """Text to continue; for the pyramid, each text is a question."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    suffix: str | None = None


_Request = TypeVar("_Request", bound=CompletionRequest)


def read_request(kind: type[_Request], body: bytes) -> _Request:
    """Read a request's body.

    Raises:
        ApiError: it is no JSON, or a field is wrong, missing or unknown; the first is named.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> ApiError:
    # Neither values nor contexts: they quote the request.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    ).lstrip(".")[:_SHOWN]
    if first["type"] == "json_invalid":
        return bad_request("expected a body of JSON, found none", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return bad_request(f"{param}: unknown field; remove it", param=param, code="unknown_field")
    if first["type"] == "missing":
        return bad_request(f"{param}: missing", param=param, code="missing_field")
    said = first["msg"][:1].lower() + first["msg"][1:_SHOWN]
    where = f"{param}: " if param else ""
    return bad_request(f"{where}{said}", param=param or None, code="invalid_value")
