"""How long an escalated answer's first token takes, beside the parts that it has to wait for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from pyramid_moa.progress import Steps

__all__ = ["FirstToken", "ask_for_first_tokens"]

# Lower than any probability: the oracle is asked whatever the members say.
_ALWAYS = -1.0


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """Of one escalated answer, in seconds.

    Attributes:
        gateway_s: from the request to the first piece of text, at the client.
        members_s: in the members, as the gateway says.
        router_s: in grading, features and router, likewise.
        oracle_s: to the first piece of text of the oracle's server, asked by itself.
    """

    gateway_s: float
    members_s: float
    router_s: float
    oracle_s: float

    @property
    def bound_s(self) -> float:
        """Members, decision and the oracle's own, one after the other."""
        return self.members_s + self.router_s + self.oracle_s


def ask_for_first_tokens(
    gateway: openai.OpenAI,
    oracle: openai.OpenAI,
    oracle_model: str,
    questions: Sequence[str],
    *,
    progress: Steps,
) -> list[FirstToken]:
    """Ask each question of the oracle's server, and of the gateway so that it escalates."""
    found = []
    for question in questions:
        oracle_s, _ = _first_text(oracle, oracle_model, question, {})
        options = {"pyramid": {"threshold": _ALWAYS}}
        gateway_s, last = _first_text(gateway, "pyramid", question, options)
        block = last.pyramid
        assert block["escalated"]
        found.append(
            FirstToken(
                gateway_s=gateway_s,
                members_s=block["members_s"],
                router_s=block["router_s"],
                oracle_s=oracle_s,
            )
        )
        progress.advance()
    return found


def _first_text(
    client: openai.OpenAI, model: str, question: str, options: dict[str, Any]
) -> tuple[float, Any]:
    """Seconds to the first piece of text, and the last chunk."""
    started = time.perf_counter()
    first_s: float | None = None
    chunk: Any = None
    with client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0.0,
        max_tokens=128,
        logprobs=True,
        stream=True,
        extra_body=options,
    ) as chunks:
        for chunk in chunks:
            if first_s is None and any(choice.delta.content for choice in chunk.choices):
                first_s = time.perf_counter() - started
    assert first_s is not None, "an answer without text"
    return first_s, chunk
