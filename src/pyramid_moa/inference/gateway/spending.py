"""What the calls of a model cost, whatever becomes of their answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pyramid_moa.backends import Completion, Failure, ModelSpec, Prompt, generation_cost_usd
from pyramid_moa.backends.openai_reply import token_count
from pyramid_moa.inference.budget import CHARACTERS_PER_TOKEN

__all__ = ["Bill", "PaidFor", "Spending", "prompt_characters"]

PaidFor = Literal["answered", "failed", "given_up"]
"""Answers that came whole, those that did not or could not be used, and calls that were given up:
the client had gone, the time was over, or another try was faster."""


class Bill:
    """One try of a call, from its beginning to its end.

    Further tries that the client makes of it by itself are the same one, and the last of them
    counts: what a server did for one that ended without a word, nobody has been told.

    Attributes:
        result: what has become of it so far.
        prompt_tokens: as the server says; until it does, as budgets reckon.
        completion_tokens: as the server says; until it does, as many as have come.
        is_estimated: whether the server has not said both.
    """

    def __init__(self) -> None:
        """Make one of a try that has not begun."""
        self.result: PaidFor = "given_up"
        self.prompt_tokens = self.completion_tokens = 0
        self.is_estimated = True

    @property
    def has_come(self) -> bool:
        """Whether an answer has, or a part of one: that is paid for, whatever follows."""
        return self.result == "answered" or self.completion_tokens > 0

    def begin(self, characters: int) -> None:
        """The prompt is sent, which has so many characters."""
        self.prompt_tokens = round(characters / CHARACTERS_PER_TOKEN)

    def take(self, outcome: Completion | Failure) -> None:
        """Note what has come of it; what the server has not counted stays an estimate."""
        self.result = "answered" if isinstance(outcome, Completion) else "failed"
        if isinstance(outcome, Failure) and outcome.prompt_tokens is None:
            # What is refused, or breaks off before there is an answer, is paid for by nobody, as
            # far as anybody here knows: the entry's own timeout_s may have ended it at work.
            self.prompt_tokens = 0
        self._count(outcome.prompt_tokens, outcome.completion_tokens)

    def answered(self, usage: object) -> None:
        """All of an answer has come, and what its server says of the tokens."""
        self.result = "answered"
        self.take_usage(usage)

    def take_usage(self, usage: object) -> None:
        """Note what a server says of the tokens, which may be anything."""
        if isinstance(usage, dict):
            self._count(usage.get("prompt_tokens"), usage.get("completion_tokens"))

    def _count(self, prompt: object, completion: object) -> None:
        sent, come = token_count(prompt), token_count(completion)
        self.prompt_tokens = self.prompt_tokens if sent is None else sent
        self.completion_tokens = self.completion_tokens if come is None else come
        self.is_estimated = self.is_estimated and (sent is None or come is None)


class Spending:
    """Tells what each try of a model's calls has cost, once it is over."""

    def __init__(self, spec: ModelSpec, paid: Callable[[str, PaidFor, float], None]) -> None:
        """Say who is told.

        Args:
            spec: the model's entry, with its price.
            paid: told the model's name, for what, and US dollars.
        """
        self._spec = spec
        self._paid = paid

    @contextmanager
    def bill(self, characters: int, bill: Bill | None = None) -> Iterator[Bill]:
        """Account for one try: leaving it by an error or a cancellation ends it, too.

        Args:
            characters: of its prompt.
            bill: to write it on; None for a new one.
        """
        bill = Bill() if bill is None else bill
        bill.begin(characters)
        try:
            yield bill
        finally:
            usd = generation_cost_usd(self._spec, bill.prompt_tokens, bill.completion_tokens)
            self._paid(self._spec.name, bill.result, usd)


def prompt_characters(request: Prompt | Mapping[str, object]) -> int:
    """Of all texts of a prompt, or of a request in the OpenAI form."""
    if isinstance(request, Prompt):
        return len(request.text or "") + sum(len(m.content) for m in request.messages or ())
    count, pending = 0, [request.get("prompt"), request.get("messages")]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend([value.get("content"), value.get("text")])
    return count
