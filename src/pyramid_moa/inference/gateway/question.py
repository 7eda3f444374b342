"""From a client's request to the question that the pyramid can judge, or why it can't."""

from dataclasses import dataclass, replace
from typing import Literal

from pyramid_moa.backends import Sampling
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.inference.gateway.api_error import bad_request
from pyramid_moa.inference.gateway.api_request import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    TextRequest,
)
from pyramid_moa.inference.gateway.named_addresses import names_address
from pyramid_moa.inference.gateway.settings import RequestLimits

__all__ = [
    "Cause",
    "Questions",
    "Unjudged",
    "check_limits",
    "client_sampling",
    "find_questions",
    "plain_texts",
    "seed_of",
]

# They change which texts come back, and members and router know nothing of them.
_ORACLE_FIELDS = (
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
    "top_logprobs",
    "tools",
    "functions",
    "audio",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "best_of",
    "echo",
    "suffix",
)
_INT63 = 2**63

Cause = Literal["by_name", "not_supported", "out_of_distribution"]
"""Why nobody judges a request: it names a model, holds what no router was trained on, or a question
unlike those of training."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What the pyramid is asked.

    Attributes:
        texts: one or more questions, each of which is judged by itself.
        param: the field that they stand in.
    """

    texts: tuple[str, ...]
    param: str


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """Why the router has nothing to say to a request.

    Attributes:
        why: in words, after "the router was not trained on".
        param: the field that it is about.
        cause: likewise, in a word.
        texts: questions that it is about, if it is about any.
    """

    why: str
    param: str
    cause: Cause = "not_supported"
    texts: tuple[str, ...] = ()


def find_questions(request: CompletionRequest, pyramid: Pyramid) -> Questions | Unjudged:
    """Find what to ask the members, as they were asked when the router was trained.

    Args:
        request: the client's.
        pyramid: its prompt template is put around each question later.

    Returns:
        The questions, or why there are none that could be judged.

    Raises:
        ApiError: the question is empty.
    """
    for name in _ORACLE_FIELDS:
        if getattr(request, name, None):
            return Unjudged(why=f"requests with {name}", param=name)
    if isinstance(request, ChatRequest):
        return _question_of_conversation(request, pyramid)
    assert isinstance(request, TextRequest)
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        return Unjudged(why="token numbers", param="prompt")
    return _asked([prompt for prompt in prompts if isinstance(prompt, str)], "prompt")


def _question_of_conversation(request: ChatRequest, pyramid: Pyramid) -> Questions | Unjudged:
    form = (request.response_format or {}).get("type", "text")
    if form != "text":
        return Unjudged(why="answers of a given format", param="response_format")
    if request.modalities not in (None, ["text"]):
        return Unjudged(why="anything but text", param="modalities")
    turns = list(request.messages)
    if turns[0].role in ("system", "developer"):
        if _text_of(turns[0]) != pyramid.prompt.system:
            return Unjudged(why="this system prompt", param="messages[0]")
        turns = turns[1:]
    if len(turns) != 1 or turns[0].role != "user":
        return Unjudged(why="conversations of several turns", param="messages")
    text = _text_of(turns[0])
    if text is None:
        return Unjudged(why="images and other parts that are no text", param="messages")
    return _asked([text], "messages")


def _asked(texts: list[str], param: str) -> Questions:
    if not all(text.strip() for text in texts):
        raise bad_request(f"{param}: expected a question, found none", param=param)
    return Questions(texts=tuple(texts), param=param)


def _text_of(message: ChatMessage) -> str | None:
    """A turn's text; None where it holds anything else."""
    if message.model_extra and any(
        value for name, value in message.model_extra.items() if name != "name"
    ):
        return None
    if message.content is None or isinstance(message.content, str):
        return message.content
    texts = [part.get("text") if part.get("type") == "text" else None for part in message.content]
    known = [text for text in texts if isinstance(text, str)]
    return "\n".join(known) if len(known) == len(texts) else None


def plain_texts(request: CompletionRequest) -> list[tuple[str, str]] | str:
    """Who says what, where a request is text and nothing else; otherwise the field that is not."""
    for name in (*_ORACLE_FIELDS, "response_format", "modalities"):
        if getattr(request, name, None):
            return name
    if isinstance(request, TextRequest):
        prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        texts = [("user", prompt) for prompt in prompts if isinstance(prompt, str)]
        return texts if texts and len(texts) == len(prompts) else "prompt"
    assert isinstance(request, ChatRequest)
    turns = [(message.role, _text_of(message)) for message in request.messages]
    known = [(str(role), text) for role, text in turns if text is not None]
    return known if len(known) == len(turns) else "messages"


def client_sampling(request: CompletionRequest, trained: Sampling) -> Sampling:
    """The pyramid's sampling with what the client wants otherwise."""
    wanted: dict[str, object] = {
        name: value
        for name in ("temperature", "top_p", "seed", "max_tokens")
        if (value := getattr(request, name)) is not None
    }
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        wanted["max_tokens"] = request.max_completion_tokens
    if request.stop:
        wanted["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    return replace(trained, **wanted)  # type: ignore[arg-type]  # types are the request's own


def seed_of(sampling: Sampling, number: int) -> int:
    """The seed of the number-th answer to a question; after the largest comes the smallest."""
    return (sampling.seed + number + _INT63) % (2 * _INT63) - _INT63


def check_limits(request: CompletionRequest, limits: RequestLimits) -> None:
    """Refuse more than the gateway is told to take.

    Raises:
        ApiError: too many turns, answers or tokens, or an address of something to fetch.
    """
    # Answers that are made and thrown away cost what those that are kept do.
    n, param = max(request.n or 1, getattr(request, "best_of", None) or 1), "n"
    if isinstance(request, ChatRequest):
        if len(request.messages) > limits.messages:
            raise bad_request(
                f"messages: expected at most {limits.messages}, found {len(request.messages)}",
                param="messages",
            )
        if not limits.remote_images and (named := names_address(request)) is not None:
            raise bad_request(
                f"{named}: expected images and the like as data: addresses, found another; this "
                "gateway lets no request name an address to be fetched or read",
                param=named,
            )
    elif isinstance(request, TextRequest):
        prompts = request.prompt
        if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
            n, param = n * len(prompts), "prompt"
    if n > limits.n:
        raise bad_request(
            f"{param}: expected at most {limits.n} answers, found {n} asked for", param=param
        )
    if limits.max_tokens is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            if (getattr(request, name, None) or 0) > limits.max_tokens:
                raise bad_request(f"{name}: expected at most {limits.max_tokens}", param=name)
