"""Where an OpenAI-compatible server is, and the key it gets: never another server's."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_plus, urlsplit

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_proxy import basic_credentials
from pyramid_moa.backends.quotations import without_quotations
from pyramid_moa.errors import ConfigError

__all__ = ["Endpoint", "clean_message", "endpoint_of", "without_addresses"]

OPENAI_URL = "https://api.openai.com/v1"

# What a server that needs no key is sent: the client insists on one.
_NO_KEY = "none"
_MESSAGE_LENGTH = 300
# As much of a server's message as is looked at before it is cut.
_MESSAGE_READ = 4000
# Of the values in an address's query, shorter ones are words that any message may hold.
_SHORTEST_SECRET = 6
_ADDRESS = re.compile(r"\w+://\S+")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server and the key for it.

    Attributes:
        base_url: what the client is given.
        address: the same for people: without user, password and query.
        key_env: environment variable that holds the key, or None for a server without one.
        key: the key.
        is_openai: whether it is OpenAI's own, by default and not by a base_url.
        alias: what messages call it where they go to clients, who are told neither its address nor
            the variable of its key; None where they go to those who run it.
    """

    base_url: str = field(repr=False)
    address: str
    key_env: str | None
    key: str = field(repr=False)
    is_openai: bool
    alias: str | None = None

    @property
    def secrets(self) -> list[str]:
        """What opens the server, in every form in which it may come back."""
        parts = urlsplit(self.base_url)
        values = [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
        found = [value for value in values if len(value) >= _SHORTEST_SECRET]
        found += map(unquote_plus, found[:])
        if self.key_env is not None:
            found.append(self.key)
        if (credentials := basic_credentials(self.base_url)) is not None:
            # A user without a password is a key.
            own = parts.password or parts.username or ""
            found += [own, unquote(own), credentials.removeprefix("Basic ")]
        return found


def endpoint_of(spec: ModelSpec, *, for_clients: bool = False) -> Endpoint:
    """Read the address and the key of a model's entry.

    Args:
        spec: the entry.
        for_clients: whether messages go to clients, and not to those who run the server.

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
        alias=spec.name if for_clients else None,
    )


def clean_message(text: str, *, secrets: Iterable[str] = (), prompt: Iterable[str] = ()) -> str:
    """Make a message from outside fit to be logged: one line, short, no secret and no prompt.

    Args:
        text: the message.
        secrets: keys and the like that must not be seen.
        prompt: texts that must not be quoted, in whole or in longer parts.
    """
    # Before it is cut, which would leave a part of one; and the longest first, since one may be in
    # another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = without_quotations(text[:_MESSAGE_READ], prompt)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MESSAGE_LENGTH else line[: _MESSAGE_LENGTH - 1] + "…"


def without_addresses(text: str) -> str:
    """A message without the addresses in it, which are none of clients' business."""
    return _ADDRESS.sub("[address]", text)


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
