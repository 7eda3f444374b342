"""What every way of running a language model has in common."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from pyramid_moa.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyramid_moa.records import Generation

__all__ = [
    "Backend",
    "Completion",
    "Failure",
    "HiddenStates",
    "Message",
    "Pooling",
    "Prompt",
    "Sampling",
    "Token",
]

Pooling = Literal["last_prompt", "last_position", "answer_mean"]


def _check(owner: str, checks: Sequence[tuple[str, str, object, bool]]) -> None:
    """Refuse fields that are wrong; each check is name, what is expected, value, good."""
    problems = [
        f"{name}: expected {expected}, found {value!r}"
        for name, expected, value, good in checks
        if not good
    ]
    if problems:
        raise ConfigError(f"{owner}: " + "; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: its text.
    """

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is given: a conversation, or plain text to continue; exactly one of the two.

    Attributes:
        messages: the conversation; the backend applies the model's chat template.
        text: plain text, given as it is.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Check that exactly one form is there."""
        assert (self.messages is None) != (self.text is None), "a prompt is messages or text"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_tokens: the most tokens of an answer.
        temperature: 0 is greedy.
        top_p: nucleus of the distribution to sample from.
        seed: of the sampling.
        stop: texts that end an answer.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: a value that no sampling can have.
        """
        _check(
            "sampling",
            (
                ("max_tokens", "1 or more", self.max_tokens, self.max_tokens >= 1),
                (
                    "temperature",
                    "0 (greedy) or more",
                    self.temperature,
                    math.isfinite(self.temperature) and self.temperature >= 0,
                ),
                ("top_p", "more than 0, at most 1", self.top_p, 0 < self.top_p <= 1),
                ("stop", "texts that are not empty", self.stop, all(self.stop)),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """Which hidden states to keep of each generation.

    Attributes:
        layers: as transformers counts ``hidden_states``: 0 is the embedding, k the output of
            block k, -1 the last one, after the final norm.
        poolings: ``last_prompt`` (last prompt position), ``last_position`` (last processed
            position: the final generated token is never fed back), ``answer_mean`` (mean over
            the answer's processed positions; where the answer is a single token, none was
            processed and the last prompt position stands in).
    """

    layers: tuple[int, ...] = (-1,)
    poolings: tuple[Pooling, ...] = ("answer_mean",)

    def __post_init__(self) -> None:
        """Report every problem together.

        Raises:
            ConfigError: nothing is named, or something twice.
        """
        _check(
            "hidden_states",
            tuple(
                (name, "one or more, each once", values, 0 < len(values) == len(set(values)))
                for name, values in (("layers", self.layers), ("poolings", self.poolings))
            ),
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the vectors, such as ``layer-1/answer_mean``."""
        return tuple(
            f"layer{layer}/{pooling}" for layer in self.layers for pooling in self.poolings
        )


class Token(NamedTuple):
    """One generated token; an answer has hundreds, and a tuple is made sooner.

    Attributes:
        start: first character of the response it covers.
        end: one past the last; equal to ``start`` for tokens without text (the end token).
        logprob: natural log-probability under the model's own distribution at temperature 1.
    """

    start: int
    end: int
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model answered.

    Attributes:
        text: the response.
        finish_reason: ``stop`` or ``length``, or as the server says.
        prompt_tokens: tokens of the prompt, chat template included; None where unknown.
        completion_tokens: generated tokens, the end token included; None where unknown.
        latency_s: seconds; in a batch, its time divided by its rows.
        tokens: the generated tokens; empty where the backend gives no log-probabilities.
        hidden_states: float16 vectors of shape [hidden size] by ``HiddenStates.keys``; empty
            where none were asked for.
        recorded: the generation as an earlier run stored it; it is taken as it is.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float
    tokens: tuple[Token, ...] = ()
    hidden_states: "Mapping[str, NDArray[np.float16]]" = field(default_factory=dict, compare=False)
    recorded: "Generation | None" = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no completion.

    Attributes:
        message: one line, without keys or prompts.
        can_retry: whether asking again can help, at once or later.
        latency_s: seconds spent.
        prompt_tokens: of an answer that came, and has to be paid for, but can't be used; None
            where none came or its tokens are unknown.
        completion_tokens: likewise.
        tokens_estimated: whether those counts are estimates.
        retry_after_s: seconds after which a server wants to be asked again, where it says so.
    """

    message: str
    can_retry: bool
    latency_s: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    retry_after_s: float | None = None


class Backend(Protocol):
    """A way of running one language model.

    Attributes:
        name: the model's name in its pyramid.
        gives_logprobs: whether completions carry tokens with log-probabilities.
        hidden_keys: the hidden states that completions carry; empty for none.
    """

    name: str
    gives_logprobs: bool
    hidden_keys: tuple[str, ...]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion | Failure]:
        """Answer prompts, one outcome each, in their order; an error of one spoils no other.

        Raises:
            BackendError: nothing can be answered at all (the model is gone, out of memory).
        """
        ...

    async def agenerate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Do the same without blocking the event loop."""
        ...

    def stream(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Answer any number of prompts, each outcome as soon as it is there.

        Prompts are drawn only as fast as they are answered and the outcomes are taken: as many
        are under way as keep the model busy, so that memory does not grow with their number.
        Prompts may be drawn in another thread. Closing the iterator gives up what is under way.

        Yields:
            The number of the prompt, from 0, and its outcome; in any order, each once.

        Raises:
            BackendError: as ``generate`` does.
        """
        ...

    def close(self) -> None:
        """Give back memory and connections; the backend is not used after it."""
        ...
