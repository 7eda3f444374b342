"""Clients that hang up: how soon the models' servers have nothing to do any more.

vLLM says how many requests it works on; that is looked at without a pause, so that what is measured
includes the time of a look. The models are asked for answers that go on for much longer.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["HangUp", "Work", "hang_up", "work_at"]

_LONGEST_S = 60.0
_TRIES = 20
# Looks cost the servers time, which they need to begin.
_PAUSE_S = 0.02
# Until the others have begun, too.
_SETTLE_S = 0.05
_RUNNING = "vllm:num_requests_running{"
_FINISHED = "vllm:request_success_total{"
_TOKENS = "vllm:generation_tokens_total{"


@dataclass(frozen=True, kw_only=True)
class HangUp:
    """One client's.

    Attributes:
        during: who was at work when it hung up.
        stopped_s: seconds until no server worked on anything.
        tokens_after: that the servers still made.
        finished: answers that came to their end all the same.
        look_s: seconds that one look at all those servers took, longest.
    """

    during: Literal["members", "oracle"]
    stopped_s: float
    tokens_after: int
    finished: int
    look_s: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a vLLM server has to do and has done, by its metrics.

    Attributes:
        running: requests that it works on.
        finished: requests whose answers came to their end since it began.
        tokens: that it has made since it began.
    """

    running: int
    finished: int
    tokens: int


def work_at(port: int) -> Work:
    """Look at the server at a port of this machine."""
    # Kept open, a connection that is not used for some seconds would be closed by the server.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONGEST_S)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    running, finished, tokens = (
        int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)))
        for name in (_RUNNING, _FINISHED, _TOKENS)
    )
    return Work(running=running, finished=finished, tokens=tokens)


def hang_up(
    base_url: str,
    question: str,
    *,
    during: Literal["members", "oracle"],
    ports: Sequence[int],
    stream: bool,
) -> HangUp:
    """Ask the gateway, and hang up once one of the servers that are to be seen stopping is at work.

    Args:
        base_url: of a gateway whose models do not end their answers by themselves.
        question: to ask; its answer is escalated.
        during: who is at work by then.
        ports: of the servers of these.
        stream: whether the answer is to be streamed.

    Raises:
        TimeoutError: none of them ever worked, or one does not stop.
    """
    address = urlsplit(base_url)
    body = {
        "model": "pyramid",
        "messages": [{"role": "user", "content": question}],
        "pyramid": {"threshold": -1.0},
        "stream": stream,
    }
    content = json.dumps(body).encode()
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    for _ in range(_TRIES):
        ended = _ended([work_at(port) for port in ports])
        with socket.create_connection((address.hostname, address.port or 80)) as connection:
            connection.sendall(head.encode() + content)
            works, _ = _wait(
                ports,
                lambda works, ended=ended: _at_work(works) or _ended(works) > ended,
                pause_s=_PAUSE_S,
            )
            if not _at_work(works):
                continue  # Over before it was seen: looks are slow on a busy machine.
            time.sleep(_SETTLE_S)
            before = [work_at(port) for port in ports]
        if _at_work(before):
            break
    else:
        raise TimeoutError(f"{_TRIES} times the servers were done before it could be seen")
    left = time.perf_counter()
    after, look_s = _wait(ports, lambda works: not _at_work(works), pause_s=0.0)
    return HangUp(
        during=during,
        stopped_s=time.perf_counter() - left,
        tokens_after=sum(work.tokens for work in after) - sum(work.tokens for work in before),
        finished=_ended(after) - _ended(before),
        look_s=look_s,
    )


def _at_work(works: Sequence[Work]) -> bool:
    return any(work.running for work in works)


def _ended(works: Sequence[Work]) -> int:
    return sum(work.finished for work in works)


def _wait(
    ports: Sequence[int], there: Callable[[list[Work]], bool], *, pause_s: float
) -> tuple[list[Work], float]:
    """Look again and again: what was there in the end, and the longest look."""
    deadline, longest_s = time.perf_counter() + _LONGEST_S, 0.0
    while (begun := time.perf_counter()) < deadline:
        works = [work_at(port) for port in ports]
        longest_s = max(longest_s, time.perf_counter() - begun)
        if there(works):
            return works, longest_s
        time.sleep(pause_s)
    raise TimeoutError(f"after {_LONGEST_S:g} s the servers show {works}")
