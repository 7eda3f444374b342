"""The client's exceptions in words that say what to do."""

from collections.abc import Sequence
from typing import cast

import openai

from pyramid_moa.backends.openai_client import TooLargeError
from pyramid_moa.backends.openai_endpoint import Endpoint, clean_message
from pyramid_moa.backends.openai_reply import can_retry_status
from pyramid_moa.errors import BackendError

__all__ = ["explained"]


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
        An error whose message is one line without key and prompt.
    """
    text, can_retry = _explain(error, endpoint, model, prompt)
    return BackendError(text, can_retry=can_retry)


def _explain(
    error: Exception, endpoint: Endpoint, model: str, prompt: Sequence[str]
) -> tuple[str, bool]:
    where = endpoint.address
    if isinstance(error, openai.APITimeoutError):
        return f"{where} gave no answer in time; raise timeout_s or lower max_concurrency", True
    if isinstance(error, openai.APIStatusError):
        said = clean_message(_said(error), key=endpoint.key, prompt=prompt)
        status = error.status_code
        place = clean_message(error.response.headers.get("location", ""), key=endpoint.key)
        to = f" ({place})" if place else ""
        advice = _advice(status, said, endpoint, model)
        return f"{where} answered {status}{to}{advice}: {said}", can_retry_status(status)
    if isinstance(error, openai.APIConnectionError):
        cause = clean_message(str(error.__cause__ or error), key=endpoint.key)
        return f"{where} can't be reached ({cause}); is the server running there?", True
    if isinstance(error, BackendError):
        said = clean_message(str(error), key=endpoint.key, prompt=prompt)
        return f"{where}: {said}", error.can_retry
    if isinstance(error, TooLargeError):
        return f"{where}: {error}", False
    if isinstance(error, UnicodeEncodeError):
        # Its own words would show the character and where it stands.
        return f"the prompt for {model!r} can't be sent: half of a surrogate pair in it", False
    said = clean_message(f"{type(error).__name__}: {error}", key=endpoint.key, prompt=prompt)
    return f"{where}: {said}", False


def _advice(status: int, said: str, endpoint: Endpoint, model: str) -> str:
    if 300 <= status < 400:
        return " and points elsewhere: is that the right base_url?"
    if status in (401, 403):
        if endpoint.key_env is None:
            return " and wants an API key: name the variable that holds it as api_key_env"
        return f" and refuses the API key in {endpoint.key_env}"
    if status == 404:
        return f": is there a model {model!r}, and does base_url end as it should (often /v1)?"
    if status in (400, 413, 422) and ("context" in said.lower() or "too long" in said.lower()):
        return ", so shorten the prompt or lower max_tokens"
    return ""


def _said(error: openai.APIStatusError) -> str:
    """The server's own words."""
    body: object = error.body
    if isinstance(body, dict):
        details = cast("dict[str, object]", body)
        found = [details[name] for name in ("message", "detail") if details.get(name)]
        return str(found[0] if found else details)
    text = str(body or "").strip()
    if text.startswith("<"):
        return "a page of HTML"
    return text or "without a word"
