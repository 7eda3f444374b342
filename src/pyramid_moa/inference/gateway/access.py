"""Who may ask: keys, and the addresses and names that go without them."""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.settings import Access

__all__ = ["Door", "check_bind", "is_loopback", "read_admin_keys", "read_keys"]

_SHORTEST_KEY = 16


def read_keys(access: Access, environ: Mapping[str, str]) -> list[str]:
    """The keys of the environment variable and of the file.

    Raises:
        ConfigError: the file can't be read or holds none, or a key is too short to be one.
    """
    keys = environ.get(access.api_keys_env, "").split(",")
    if access.api_keys_file is not None:
        path = Path(access.api_keys_file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: can't read this file of API keys: {error}") from error
        own = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not own:
            raise ConfigError(f"{path}: expected an API key a line, found none")
        keys += own
    return _checked(keys, f"API keys of {access.api_keys_env} or the file")


def read_admin_keys(access: Access, environ: Mapping[str, str]) -> list[str]:
    """The keys of those who may reload.

    Raises:
        ConfigError: a key is too short to be one, or opens what clients' keys open, too.
    """
    name = access.admin_keys_env
    keys = _checked(environ.get(name, "").split(","), f"keys of {name}")
    if set(keys) & set(read_keys(access, environ)):
        raise ConfigError(f"{name}: expected keys of its own, found one that clients have too")
    return keys


def _checked(given: Iterable[str], whose: str) -> list[str]:
    keys = [key.strip() for key in given if key.strip()]
    # Which one it is must not be said: it may be a longer one with a slip in it.
    if any(len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() for key in keys):
        raise ConfigError(
            f"{whose}: expected at least {_SHORTEST_KEY} "
            "printable ASCII characters each, found another; python -c 'import secrets; "
            "print(secrets.token_urlsafe(32))' makes a good one"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine's alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, access: Access, *, keys: bool) -> None:
    """Refuse to serve other machines without keys.

    Raises:
        ConfigError: other machines could ask, and any of them.
    """
    if keys or access.allow_unauthenticated or is_loopback(host):
        return
    raise ConfigError(
        f"--host {host}: expected API keys, without which every machine that reaches this one "
        f"could spend your money; put one or more into the environment variable "
        f"{access.api_keys_env}, or set access.allow_unauthenticated: true in --config"
    )


class Door:
    """Lets those in who have a key, or, where there are none, who call this machine itself."""

    def __init__(self, keys: Iterable[str], access: Access) -> None:
        """Remember what opens it.

        Args:
            keys: of clients; without any, names are looked at.
            access: further names that go without a key.
        """
        self._digests = [_digest(key) for key in keys]
        self._names = {name.lower() for name in access.host_names}
        self._any_name = access.allow_unauthenticated

    @property
    def wants_keys(self) -> bool:
        """Whether nobody passes without one."""
        return bool(self._digests)

    def check(self, headers: Mapping[str, str], *, browser: bool = False) -> None:
        """Let a request pass.

        Args:
            headers: by lower-case name.
            browser: whether somebody without a key is to be asked for one, as browsers do.

        Raises:
            ApiError: 401 without a key that is known; 403 for a name that is not this machine's.
        """
        if self._digests:
            self._check_key(headers.get("authorization", ""), browser=browser)
            return
        # Without keys, a page in a browser could come here under a name of its own that leads to
        # this machine: browsers then send that name.
        host = _host_name(headers.get("host", ""))
        if not (self._any_name or is_loopback(host) or host in self._names):
            raise ApiError(
                403,
                "host: expected a name of this machine, found another; add it to "
                "access.host_names, or use API keys",
                code="unknown_host",
            )

    def _check_key(self, header: str, *, browser: bool) -> None:
        kind, _, key = header.partition(" ")
        if kind.lower() == "basic":
            # The password that a browser has asked for; any user may have it.
            key = _password(key.strip())
        given = _digest(key.strip())
        # All of them, and in constant time: how long it takes says nothing about any.
        known = sum(hmac.compare_digest(given, digest) for digest in self._digests)
        if not known or kind.lower() not in ("bearer", "basic"):
            raise ApiError(
                401,
                "expected an API key of this gateway as Authorization: Bearer KEY, found "
                f"{'none' if not header else 'another'}",
                code="invalid_api_key",
                challenge='Basic realm="API key as the password"' if browser else "Bearer",
            )


def _password(given: str) -> str:
    try:
        text = base64.b64decode(given, validate=True).decode("utf-8")
    except ValueError:
        return ""
    return text.partition(":")[2]


def _digest(key: str) -> bytes:
    # Of like length, whatever the key's.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(header: str) -> str:
    host = header.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host
