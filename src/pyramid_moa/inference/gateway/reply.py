"""Answers in the form that OpenAI's clients read, whole and in chunks."""

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyramid_moa.backends.openai_chunks import Piece

__all__ = ["DONE", "ReplyForm", "comment", "event", "json_text"]

DONE = b"data: [DONE]\n\n"


def json_text(data: Mapping[str, Any]) -> bytes:
    """A reply as JSON; numbers that JSON lacks, as a server may have given them, become null."""
    how: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    try:
        text = json.dumps(data, **how)
    except ValueError:
        text = json.dumps(_finite(data), **how)
    return text.encode("utf-8", "replace")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json_text(data) + b"\n\n"


def comment(data: Mapping[str, Any]) -> bytes:
    """What clients skip and people can read in the middle of a stream."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return b": pyramid " + text.encode("ascii") + b"\n\n"


@dataclass(frozen=True, kw_only=True)
class ReplyForm:
    """What all parts of one reply have in common.

    Attributes:
        chat: whether it answers a conversation, or continues a text.
        model: the name that the client has asked for.
        logprobs: whether the client wants the winner's log-probabilities.
        number: identifies the reply.
        created: seconds since 1970.
    """

    chat: bool
    model: str
    logprobs: bool
    number: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """As clients know it."""
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number}"

    def choice(self, index: int, piece: Piece, finish_reason: str) -> dict[str, Any]:
        """One answer, whole."""
        shared = {
            "index": index,
            "finish_reason": _finish_reason(finish_reason),
            "logprobs": self._logprobs(piece, 0),
        }
        if self.chat:
            return {
                **shared,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
            }
        return {**shared, "text": piece.text}

    def whole(
        self,
        choices: Sequence[Mapping[str, Any]],
        usage: Mapping[str, int],
        pyramid: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A reply that is not streamed."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage, "pyramid": pyramid}

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of an answer, which says whose turn it is."""
        return self._chunk([self._delta(index, {"role": "assistant", "content": ""}, "", None)])

    def piece(self, index: int, piece: Piece, *, offset: int) -> dict[str, Any]:
        """A chunk with a stretch of an answer, which begins at that character of it."""
        choice = self._delta(
            index, {"content": piece.text}, piece.text, self._logprobs(piece, offset)
        )
        return self._chunk([choice])

    def gap(self, index: int, text: str) -> dict[str, Any]:
        """A chunk that parts the text of one model from that of another."""
        return self._chunk([self._delta(index, {"content": text}, text, None)])

    def mark(self, index: int, pyramid: Mapping[str, Any]) -> dict[str, Any]:
        """A chunk in the middle of an answer that brings no text, but news of it."""
        return {**self._chunk([self._delta(index, {}, "", None)]), "pyramid": pyramid}

    def closing(self, index: int, finish_reason: str, pyramid: Mapping[str, Any]) -> dict[str, Any]:
        """The last chunk of an answer, with its reason."""
        choice = self._delta(index, {}, "", None)
        choice["finish_reason"] = _finish_reason(finish_reason)
        return {**self._chunk([choice]), "pyramid": pyramid}

    def usage(self, usage: Mapping[str, int], pyramid: Mapping[str, Any]) -> dict[str, Any]:
        """The last chunk of all, where the client wants it."""
        return {**self._chunk([]), "usage": usage, "pyramid": pyramid}

    def own(self, part: Mapping[str, Any], *, chunk: bool) -> dict[str, Any]:
        """What a server has answered, or a chunk of it, under this reply's name and number."""
        whole = "chat.completion" if self.chat else "text_completion"
        kind = f"{whole}.chunk" if chunk and self.chat else whole
        return {**part, **self._head(kind)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices}

    def _delta(
        self, index: int, delta: dict[str, Any], text: str, logprobs: object
    ) -> dict[str, Any]:
        part = {"delta": delta} if self.chat else {"text": text}
        return {"index": index, **part, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, piece: Piece, offset: int) -> dict[str, Any] | None:
        if not self.logprobs or not piece.tokens:
            return None
        if self.chat:
            content = [
                {
                    "token": token.decode("utf-8", "replace"),
                    "logprob": logprob,
                    "bytes": list(token),
                    "top_logprobs": [],
                }
                for token, logprob in piece.tokens
            ]
            return {"content": content, "refusal": None}
        offsets, place = [], offset
        for token, _ in piece.tokens:
            offsets.append(place)
            place += len(token.decode("utf-8", "replace"))
        return {
            "tokens": [token.decode("utf-8", "replace") for token, _ in piece.tokens],
            "token_logprobs": [logprob for _, logprob in piece.tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def _finish_reason(reason: str | None) -> str:
    """As clients know it: what a server calls by a name of its own has stopped."""
    return reason if reason in ("stop", "length", "content_filter", "tool_calls") else "stop"
