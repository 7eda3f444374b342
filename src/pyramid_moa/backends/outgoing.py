"""Headers that requests to model servers carry beside their own, such as those of a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["outgoing_headers", "sending_with"]

_headers: ContextVar[Mapping[str, str] | None] = ContextVar("outgoing_headers", default=None)


def outgoing_headers() -> Mapping[str, str]:
    """What the request that is sent now carries beside its own headers."""
    return _headers.get() or {}


@contextmanager
def sending_with(headers: Mapping[str, str]) -> Iterator[None]:
    """Let what is sent meanwhile, by this task and those that it begins, carry headers.

    Nothing may be yielded to others meanwhile: a generator's caller would send them, too.
    """
    token = _headers.set(headers)
    try:
        yield
    finally:
        _headers.reset(token)
