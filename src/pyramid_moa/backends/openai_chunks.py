"""Chunks of a streamed answer: what each one brings, and the answer that they make together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pyramid_moa.backends.openai_reply import completion_of, is_logprob, storable_text, token_pieces
from pyramid_moa.backends.protocol import Completion

__all__ = ["AnswerOfChunks", "Piece"]

_Object = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an answer.

    Attributes:
        text: what is added to it.
        tokens: its tokens as bytes, with their natural log-probabilities; empty where unknown.
    """

    text: str
    tokens: tuple[tuple[bytes, float], ...] = ()


class AnswerOfChunks:
    """Collects the chunks of one choice; reads them as an answer that was not streamed is read."""

    def __init__(self, *, chat: bool) -> None:
        """Begin an answer to a conversation, or one that continues a text."""
        self._chat = chat
        self._text: list[str] = []
        self._entries: list[object] = []
        self._tokens: list[object] = []
        self._logprobs: list[object] = []
        self._finish_reason: object = None
        self._usage: object = None

    def add(self, chunk: Mapping[str, object]) -> Piece | None:
        """Take in a chunk; what it brings, or None where that is no text."""
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return None
        choice = cast("_Object", choices[0])
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        holder = choice.get("delta") if self._chat else choice
        text = holder.get("content" if self._chat else "text") if isinstance(holder, dict) else None
        logprobs = choice.get("logprobs")
        tokens = self._add_logprobs(cast("_Object", logprobs)) if isinstance(logprobs, dict) else ()
        if not isinstance(text, str) or not (text or tokens):
            return None
        text = storable_text(text)
        self._text.append(text)
        return Piece(text=text, tokens=tokens)

    def completion(self, *, logprobs: bool, max_tokens: int, latency_s: float) -> Completion:
        """Read what has been collected; see ``completion_of``.

        Raises:
            BackendError: it does not hold what was asked for.
        """
        text = "".join(self._text)
        choice: _Object = {"finish_reason": self._finish_reason}
        if self._chat:
            choice["message"] = {"content": text}
            choice["logprobs"] = {"content": self._entries}
        else:
            choice["text"] = text
            choice["logprobs"] = {"tokens": self._tokens, "token_logprobs": self._logprobs}
        return completion_of(
            {"choices": [choice], "usage": self._usage},
            chat=self._chat,
            logprobs=logprobs,
            max_tokens=max_tokens,
            latency_s=latency_s,
        )

    def _add_logprobs(self, logprobs: _Object) -> tuple[tuple[bytes, float], ...]:
        for name, all_of_them in (
            ("content", self._entries),
            ("tokens", self._tokens),
            ("token_logprobs", self._logprobs),
        ):
            own = logprobs.get(name)
            all_of_them.extend(own if isinstance(own, list) else [])
        return tuple(
            (piece, float(cast("float", value)))
            for piece, value in token_pieces(logprobs, chat=self._chat)
            if is_logprob(value)
        )
