"""Clients that go away: how long all work for them goes on."""

import json
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway_cases.faulty_gateway import FaultyModels, ServedGateway, question

__all__ = ["HangUps", "hang_ups"]

_MEMBERS = ("a", "b", "c")
# Until all members have been asked.
_UNDER_WAY_S = 0.3
_LONGEST_S = 5.0


@dataclass(frozen=True, kw_only=True)
class HangUps:
    """What was seen.

    Attributes:
        clients: that went away.
        missing: calls that had not ended seconds later.
        p50_s: from a client's end to that of a call for it, the median.
        longest_s: likewise, the longest.
    """

    clients: int
    missing: int
    p50_s: float
    longest_s: float


def hang_ups(models: FaultyModels, gateway: ServedGateway, *, clients: int) -> HangUps:
    """Ask while members hang, go away, and see when their servers are hung up on.

    All clocks are the system's, so that those of three processes can be compared.
    """
    models.turn({})
    gateway.settle()
    models.turn(dict.fromkeys(_MEMBERS, "hangs"))
    models.hung_up()
    seconds: list[float] = []
    missing = 0
    for number in range(clients):
        gone_at = _go_away(gateway, number, stream=number % 2 == 0)
        ends: list[float] = []
        while len(ends) < len(_MEMBERS) and time.monotonic() < gone_at + _LONGEST_S:
            time.sleep(0.02)
            ends += models.hung_up()
        missing += len(_MEMBERS) - len(ends)
        seconds += [at - gone_at for at in ends]
    models.turn({})
    ordered = sorted(seconds) or [_LONGEST_S]
    return HangUps(
        clients=clients,
        missing=missing,
        p50_s=ordered[len(ordered) // 2],
        longest_s=ordered[-1],
    )


def _go_away(gateway: ServedGateway, number: int, *, stream: bool) -> float:
    """Ask, and hang up before there is an answer; when that was."""
    parts = urlsplit(gateway.url)
    body = json.dumps(question(number, stream=stream)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(_UNDER_WAY_S)
        return time.monotonic()
