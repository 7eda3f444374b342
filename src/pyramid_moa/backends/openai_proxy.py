"""The proxy on the way to a server, as the environment says."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pyramid_moa.errors import ConfigError

__all__ = ["Proxy", "basic_credentials", "proxy_for"]


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy.

    Attributes:
        url: its address, without user and password.
        headers: what it is to be told.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)


def proxy_for(base_url: str) -> Proxy | None:
    """Find the proxy for a server; None for those of this machine and of NO_PROXY.

    Read once and by hand: HTTP libraries that look for themselves do so at every request, take
    keys for the server from ~/.netrc besides, and send what is asked of this machine to a proxy.

    Raises:
        ConfigError: it is one that speaks something else than HTTP.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if _is_this_machine(host) or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxies = getproxies()
    given = proxies.get(parts.scheme) or proxies.get("all")
    if not given:
        return None
    where = urlsplit(given if "://" in given else f"http://{given}")
    if where.scheme not in ("http", "https") or not where.hostname:
        # The address is not shown: there may be a password in it.
        raise ConfigError(
            f"expected the address of an HTTP proxy in {parts.scheme.upper()}_PROXY or ALL_PROXY, "
            "found something else; change it, or name the server in NO_PROXY"
        )
    credentials = basic_credentials(given if "://" in given else f"http://{given}")
    return Proxy(
        url=f"{where.scheme}://{where.netloc.rpartition('@')[2]}",
        headers={} if credentials is None else {"Proxy-Authorization": credentials},
    )


def basic_credentials(url: str) -> str | None:
    """User and password of an address as the value of an Authorization header, if it has any."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
