"""Addresses in a request that a model's server could be made to fetch or read."""

import re
from collections.abc import Iterator
from itertools import islice

from pyramid_moa.inference.gateway.api_request import ChatRequest

__all__ = ["is_remote", "names_address"]

_REMOTE = ("http:", "https:", "file:", "ftp:")
_LETTER = re.compile("[!-~]")
# What somebody has said, or says of a tool: words may quote what they like.
_WORDS = frozenset(
    {"arguments", "description", "reasoning", "reasoning_content", "refusal", "text", "thinking"}
)
# Of a function: its schema names what it likes, too.
_FUNCTION = frozenset({"function", "parameters"})
_Field = tuple[str, object]


def names_address(request: ChatRequest) -> str | None:
    """Find the field of a conversation that names an address; None where none does.

    Looked at is whatever clients can give any form: turns beside their words, tools beside
    functions, and the like. Fields of one value, and schemas, are no server's to fetch.
    """
    return next(
        (
            param
            for param, fields in _open_fields(request)
            if any(is_remote(text, name) for name, text in _values(fields))
        ),
        None,
    )


def _open_fields(request: ChatRequest) -> Iterator[tuple[str, list[_Field]]]:
    """What may hold anything, after the name of the field of the request."""
    for message in request.messages:
        parts = message.content if isinstance(message.content, list) else []
        yield "messages", [("content", parts), *(message.model_extra or {}).items()]
    for tool in request.tools or ():
        free = _FUNCTION if tool.get("type", "function") == "function" else frozenset[str]()
        yield "tools", [(name, value) for name, value in tool.items() if name not in free]
    # Labels (``metadata``) are kept, and read by nobody.
    for name in ("audio", "function_call", "tool_choice"):
        yield name, [(name, getattr(request, name))]
    # Words or parts, as in a message.
    said = request.prediction or {}
    words = frozenset({"content"} if isinstance(said.get("content"), str) else ())
    yield "prediction", [(name, value) for name, value in said.items() if name not in words]


def _values(pending: list[_Field]) -> Iterator[tuple[str, str]]:
    """Every text in some fields but words, after the name it stands under."""
    while pending:
        name, value = pending.pop()
        if isinstance(value, str):
            if name not in _WORDS:
                yield name, value
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((name, own) for own in value)


def is_remote(text: str, name: str = "") -> bool:
    """Whether a server could be made to fetch or read what a text names.

    Args:
        text: any of a request but its words.
        name: the field that it stands in.
    """
    if name.lower().endswith(("url", "uri")):
        # Some servers take anything else for the name of a file of theirs.
        return text[:5].lower() != "data:"
    # Readers of addresses leave out blanks, control characters and others that are not seen,
    # wherever they stand and however many there are.
    head = "".join(found[0] for found in islice(_LETTER.finditer(text), 64)).lower()
    return head.startswith(_REMOTE) or "://" in head
