"""What the calls of a model cost, whatever becomes of their answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pyramid_moa.backends import Completion, Failure, ModelSpec, Prompt, generation_cost_usd

__all__ = ["Bill", "PaidFor", "Spending", "prompt_characters"]

PaidFor = Literal["answered", "failed", "given_up"]
"""Answers that came whole, those that did not or could not be used, and calls that were given up:
the client had gone, the time was over, or another try was faster."""

# Of calls that nobody has counted; as budgets reckon it.
_CHARACTERS_PER_TOKEN = 4.0
_MOST_TOKENS = 2**31


class Bill:
    """One try of a call, from its beginning to its end.

    Attributes:
        result: what has become of it so far.
    """

    def __init__(self, characters: int) -> None:
        """Begin one with a prompt of so many characters."""
        self.result: PaidFor = "given_up"
        self.prompt_tokens = round(characters / _CHARACTERS_PER_TOKEN)
        self.completion_tokens = 0

    def take(self, outcome: Completion | Failure) -> None:
        """Note what has come of it; what the server has not counted stays an estimate."""
        self.result = "answered" if isinstance(outcome, Completion) else "failed"
        if isinstance(outcome, Failure) and outcome.prompt_tokens is None:
            # What is refused, or breaks off before there is an answer, is paid for by nobody.
            self.prompt_tokens = 0
        self._count(outcome.prompt_tokens, outcome.completion_tokens)

    def take_usage(self, usage: object) -> None:
        """Note what a server says of the tokens, which may be anything."""
        if isinstance(usage, dict):
            self._count(usage.get("prompt_tokens"), usage.get("completion_tokens"))

    def _count(self, prompt: object, completion: object) -> None:
        if _is_count(prompt):
            self.prompt_tokens = prompt  # type: ignore[assignment]  # just looked at
        if _is_count(completion):
            self.completion_tokens = completion  # type: ignore[assignment]  # likewise


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
    def bill(self, characters: int) -> Iterator[Bill]:
        """Account for one try: leaving it by an error or a cancellation ends it, too.

        Args:
            characters: of its prompt.
        """
        bill = Bill(characters)
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
