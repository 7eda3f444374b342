"""Errors as OpenAI's clients know them: a status, and a body that says what and where."""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError", "bad_request", "overloaded", "unavailable"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: the HTTP status.
        message: what was expected, what was found and what to do; no prompt and no key.
        code: in a word, for programs.
        param: the field of the request that it is about.
        retry_after_s: seconds after which asking again can help.
        pyramid: what is known of the decision, where it came so far.
        challenge: with 401, how a key may be shown.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        pyramid: Mapping[str, Any] | None = None,
        challenge: str = "Bearer",
    ) -> None:
        """Keep what is to be told."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.pyramid = pyramid
        self.challenge = challenge

    @property
    def headers(self) -> dict[str, str]:
        """What belongs into the head of the response."""
        if self.status == 401:
            return {"www-authenticate": self.challenge}
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}

    def body(self) -> dict[str, Any]:
        """The response's body, or the last event of a stream."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error if self.pyramid is None else {**error, "pyramid": self.pyramid}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The request can't be answered as it is."""
    return ApiError(400, message, param=param, code=code)


def overloaded(retry_after_s: float) -> ApiError:
    """More is asked than can be done at once."""
    return ApiError(
        429,
        "too many requests are being worked on; ask again later",
        code="too_many_requests",
        retry_after_s=retry_after_s,
    )


def unavailable(
    message: str, *, retry_after_s: float = 1.0, pyramid: Mapping[str, Any] | None = None
) -> ApiError:
    """No model that could answer does."""
    return ApiError(
        503, message, code="no_model_available", retry_after_s=retry_after_s, pyramid=pyramid
    )
