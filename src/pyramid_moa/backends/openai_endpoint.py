"""Where an OpenAI-compatible server is, and the key it gets: never another server's."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.quotations import without_quotations
from pyramid_moa.errors import ConfigError

__all__ = ["Endpoint", "clean_message", "endpoint_of"]

OPENAI_URL = "https://api.openai.com/v1"

# What a server that needs no key is sent: the client insists on one.
_NO_KEY = "none"
_MESSAGE_LENGTH = 300
# As much of a server's message as is looked at before it is cut.
_MESSAGE_READ = 4000


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and the key for it.

    Attributes:
        base_url: what the client is given.
        address: the same for people: without user, password and query.
        key_env: environment variable that holds the key, or None for a server without one.
        key: the key.
        is_openai: whether it is OpenAI's own, by default and not by a base_url.
    """

    base_url: str = field(repr=False)
    address: str
    key_env: str | None
    key: str = field(repr=False)
    is_openai: bool


def endpoint_of(spec: ModelSpec) -> Endpoint:
    """Read the address and the key of a model's entry.

    Raises:
        ConfigError: the address is no address, or the key's variable is not set.
    """
    own_url = f"http://127.0.0.1:{spec.port}/v1" if spec.port is not None else spec.base_url
    base_url = own_url or OPENAI_URL
    key_env = spec.api_key_env or (None if own_url else "OPENAI_API_KEY")
    return Endpoint(
        base_url=base_url,
        address=_address(spec, base_url),
        key_env=key_env,
        key=_NO_KEY if key_env is None else _key(spec, key_env),
        is_openai=not own_url,
    )


def clean_message(text: str, *, key: str = "", prompt: Iterable[str] = ()) -> str:
    """Make a message from outside fit to be logged: one line, short, no key and no prompt.

    Args:
        text: the message.
        key: a key that must not be seen.
        prompt: texts that must not be quoted, in whole or in longer parts.
    """
    text = text[:_MESSAGE_READ]
    if key and key != _NO_KEY:
        text = text.replace(key, "***")
    text = without_quotations(text, prompt)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"


def _address(spec: ModelSpec, base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"model {spec.name!r}: base_url: expected an address such as "
            "http://127.0.0.1:8000/v1, found one without http(s)://, host or a valid port"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path}"


def _key(spec: ModelSpec, key_env: str) -> str:
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise ConfigError(
            f"model {spec.name!r}: the environment variable {key_env} is not set; put the API key "
            "into it, or set base_url to a server that needs none"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"model {spec.name!r}: the environment variable {key_env} holds characters that no "
            "API key has; copy the key again"
        )
    return key
