"""Why a server gave no answer, in words that say what to do."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from pyramid_moa.backends.openai_endpoint import Endpoint, clean_message, without_addresses
from pyramid_moa.backends.openai_reply import can_retry_status
from pyramid_moa.errors import BackendError

__all__ = [
    "ServerError",
    "StatusError",
    "TooLargeError",
    "TooSlowError",
    "UnreachableError",
    "explained",
]


class ServerError(Exception):
    """A server was asked and there is no answer."""


class UnreachableError(ServerError):
    """There is no connection, or it broke off; the message says why, and names no address."""


class TooSlowError(ServerError):
    """The answer was not there in time."""


class TooLargeError(ServerError):
    """The answer is larger than anything that was asked for; to ask again is no use."""


class StatusError(ServerError):
    """The server has answered, with another status than success.

    Attributes:
        status: of HTTP.
        headers: of the answer; their names in any case.
        body: of the answer.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep what the server said."""
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the server wants to be asked again, where it says so."""
        for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
            try:
                seconds = float(self.headers.get(name, "")) * unit_s
            except ValueError:
                continue
            return seconds if math.isfinite(seconds) and seconds >= 0 else None
        try:
            return max(
                0.0,
                parsedate_to_datetime(self.headers.get("retry-after", "")).timestamp()
                - time.time(),
            )
        except (ValueError, OverflowError):
            return None


def explained(
    error: Exception, endpoint: Endpoint, *, model: str, prompt: Sequence[str] = ()
) -> BackendError:
    """Say why a request failed and whether asking again can help.

    Args:
        error: what the client, or the reading of its answer, raised.
        endpoint: the server.
        model: the name that it was asked for.
        prompt: texts of the prompt, which the message must not quote.

    Returns:
        An error whose message is one line without secrets and prompt; and without any address
        where it goes to clients.
    """
    text, can_retry = _explain(error, endpoint, model, prompt)
    if endpoint.alias is not None:
        text = without_addresses(text)
    return BackendError(text, can_retry=can_retry)


def _explain(
    error: Exception, endpoint: Endpoint, model: str, prompt: Sequence[str]
) -> tuple[str, bool]:
    where = endpoint.address if endpoint.alias is None else endpoint.alias
    clean = partial(clean_message, secrets=endpoint.secrets, prompt=prompt)
    if isinstance(error, TooSlowError):
        return f"{where} gave no answer in time; raise timeout_s or lower max_concurrency", True
    if isinstance(error, StatusError):
        said = clean(_said(error.body))
        place = clean(_place(error.headers.get("location", ""))) if endpoint.alias is None else ""
        to = f" ({place})" if place else ""
        advice = _advice(error.status, said, endpoint, model)
        can_retry = can_retry_status(error.status)
        return f"{where} answered {error.status}{to}{advice}: {said}", can_retry
    if isinstance(error, UnreachableError):
        return f"{where} can't be reached ({error}); is the server running there?", True
    if isinstance(error, BackendError):
        return f"{where}: {clean(str(error))}", error.can_retry
    if isinstance(error, TooLargeError):
        return f"{where}: {error}", False
    if isinstance(error, UnicodeEncodeError):
        # Its own words would show the character and where it stands.
        return f"the prompt for {model!r} can't be sent: half of a surrogate pair in it", False
    return f"{where}: {clean(f'{type(error).__name__}: {error}')}", False


def _place(location: str) -> str:
    """Where a server points to, as far as that holds no secrets; empty where that is itself."""
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}" if host else ""


def _advice(status: int, said: str, endpoint: Endpoint, model: str) -> str:
    if 300 <= status < 400:
        return " and points elsewhere: is that the right base_url?"
    if status in (401, 403):
        if endpoint.key_env is None:
            return " and wants an API key: name the variable that holds it as api_key_env"
        variable = f" in {endpoint.key_env}" if endpoint.alias is None else ""
        return f" and refuses the API key{variable}"
    if status == 404:
        return f": is there a model {model!r}, and does base_url end as it should (often /v1)?"
    if status in (400, 413, 422) and ("context" in said.lower() or "too long" in said.lower()):
        return ", so shorten the prompt or lower max_tokens"
    return ""


def _said(body: bytes) -> str:
    """The server's own words."""
    text = body.decode("utf-8", "replace").strip()
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return "a page of HTML" if text.startswith("<") else text or "without a word"
    if isinstance(found, dict):
        details = cast("dict[str, object]", found)
        found = details.get("error") or details
    if isinstance(found, dict):
        details = cast("dict[str, object]", found)
        words = [details[name] for name in ("message", "detail") if details.get(name)]
        return str(words[0] if words else details)
    return str(found)
