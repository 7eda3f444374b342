"""The gateway under malformed requests: bodies, heads and framing, and raw bytes that are no HTTP.

    python benchmarks/gateway_fuzz.py [--cases 10000] [--seed 0] [--out FILE]

Everything is real but the models: the program ``pyramid-moa serve``, with keys for clients, an
administrator and its upstreams, and the requests, which go over sockets as bytes. Each answer must
have a status below 500, or be the documented 503 with Retry-After; each error must have OpenAI's
form; nothing that comes back, and no line of the log, may hold a key, a path, an upstream's address
or a traceback; and sound requests in between must be answered. Prints how many of each kind had
which status, and fails where anything was otherwise.
"""

import argparse
import asyncio
import http.client
import io
import itertools
import json
import random
import re
import sys
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gateway_cases.faulty_gateway import faulty_models, served_gateway
from gateway_cases.malformed import KINDS, Case, draw_case

__all__ = ["Fuzzed", "fuzz"]

KEY = "client-key-0123456789-abcdef"
ADMIN_KEY = "admin-key-0123456789-abcdef"
UPSTREAM_KEY = "sk-upstream-0123456789-secret"
FAULTS = {"member_timeout_s": 5.0, "deadline_s": 10.0, "retries": 0}
# What never ends is to be given up soon.
REQUESTS = {"head_s": 1.0, "body_s": 1.0}
HUNG_UP = "hung up"
_AT_ONCE = 8
_LIMIT_S = 60.0
_SHOWN = 20


@dataclass(kw_only=True)
class Fuzzed:
    """What came of it.

    Attributes:
        cases: requests that were sent.
        outcomes: by kind, how many had which status, or were hung up on.
        wrong: what should not have been, with the request.
        rss_bytes: of the gateway's process, before and after.
    """

    cases: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    rss_bytes: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Received:
    """Bytes that have come, as the standard library's reader of responses wants them."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def makefile(self, mode: str) -> io.BytesIO:
        return self._file


def _read(data: bytes) -> _Answer:
    # The first answer; what a second one on the same connection says is in the bytes all the same.
    response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type]  # all it needs
    response.begin()
    body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return _Answer(status=response.status, headers=headers, body=body)


async def _exchange(port: int, wire: bytes) -> bytes:
    """Send bytes, and return all that comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_LIMIT_S):
            try:
                writer.write(wire)
                await writer.drain()
                return await reader.read()
            except ConnectionError:
                # It has refused what was still to come; what it said may be lost with that.
                return b""
    finally:
        writer.transport.abort()


def complaints(case: Case, data: bytes, leaks: re.Pattern[bytes]) -> list[str]:
    """What is wrong with an answer."""
    if found := leaks.search(data):
        return [f"leaks {found[0][:60]!r}"]
    if not data:
        return ["hung up on a whole request"] if case.is_whole else []
    try:
        answer = _read(data)
    except (http.client.HTTPException, ValueError) as error:
        return [f"no answer of HTTP: {error!r}"]
    if case.kind == "sound" and answer.status != 200:
        return [f"sound, and yet {answer.status}"]
    if answer.status < 400:
        return []
    found = []
    if answer.status >= 500 and not (answer.status == 503 and "retry-after" in answer.headers):
        found.append(f"status {answer.status}")
    try:
        error = json.loads(answer.body)["error"]
        named = error["message"] and error["type"] and {"param", "code"} <= error.keys()
        if not named or answer.headers["content-type"] != "application/json":
            found.append("an error that has not OpenAI's form")
    except (ValueError, KeyError, TypeError):
        found.append("an error that has not OpenAI's form")
    return found


def _leaks(ports: list[int]) -> re.Pattern[bytes]:
    root = Path(__file__).resolve().parent.parent
    paths = {str(root), sysconfig.get_path("purelib"), sys.prefix, "site-packages"}
    words = {KEY, ADMIN_KEY, UPSTREAM_KEY, "Traceback", "pydantic", "0x7f", *paths}
    addresses = {f"127.0.0.1:{port}" for port in ports}
    return re.compile(b"|".join(re.escape(word.encode()) for word in sorted(words | addresses)))


async def _send_all(port: int, cases: list[Case], leaks: re.Pattern[bytes]) -> Fuzzed:
    fuzzed = Fuzzed(outcomes={kind: Counter() for kind in KINDS})
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> None:
        async with room:
            try:
                data = await _exchange(port, case.wire)
            except TimeoutError:
                fuzzed.wrong.append(f"{case.kind}: no end of it within {_LIMIT_S} s: {case.wire!r}")
                return
        fuzzed.cases += 1
        status = data.split(b" ", 2)[1].decode() if data.startswith(b"HTTP/") else HUNG_UP
        fuzzed.outcomes[case.kind][status] += 1
        for wrong in complaints(case, data, leaks):
            shown = f"{case.wire[:600]!r} ... {case.wire[-200:]!r} -> {data[:600]!r}"
            fuzzed.wrong.append(f"{case.kind}: {wrong}: {shown}")

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case))
    return fuzzed


def _log_complaints(log: str, leaks: re.Pattern[bytes]) -> list[str]:
    found = []
    # What the command says to a person comes before the log begins.
    lines = itertools.dropwhile(lambda line: not line.startswith("{"), log.splitlines())
    for line in lines:
        if leak := leaks.search(line.encode()):
            found.append(f"the log leaks {leak[0][:60]!r}: {line[:600]}")
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError, TypeError):
            found.append(f"a line of the log that is no JSON: {line[:600]}")
            continue
        if level in ("error", "critical"):
            found.append(f"an error in the log: {line[:600]}")
    return found


def fuzz(count: int, seed: int) -> Fuzzed:
    """Send malformed requests to a gateway that is started for it.

    Args:
        count: of requests.
        seed: they are drawn with.
    """
    draw = random.Random(seed)
    cases = [draw_case(draw, KEY) for _ in range(count)]
    keys = {
        "PYRAMID_MOA_API_KEYS": KEY,
        "PYRAMID_MOA_ADMIN_KEYS": ADMIN_KEY,
        "FUZZ_UPSTREAM_KEY": UPSTREAM_KEY,
    }
    with tempfile.TemporaryDirectory() as folder, faulty_models() as models:
        log = Path(folder, "log")
        with served_gateway(
            models,
            faults=FAULTS,
            log=log,
            settings={"requests": REQUESTS},
            variables=keys,
            spec={"api_key_env": "FUZZ_UPSTREAM_KEY"},
        ) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            leaks = _leaks(list(models.ports.values()))
            warm = [draw_case(draw, KEY) for _ in range(_AT_ONCE)]
            asyncio.run(_send_all(port, warm, leaks))
            before = gateway.rss_bytes()
            fuzzed = asyncio.run(_send_all(port, cases, leaks))
            fuzzed.rss_bytes = (before, gateway.rss_bytes())
            # It is alive, and as it was.
            sound = [KINDS["sound"](draw, "sound", KEY) for _ in range(3)]
            after = asyncio.run(_send_all(port, sound, leaks))
            fuzzed.wrong += [f"afterwards: {wrong}" for wrong in after.wrong]
        fuzzed.wrong += _log_complaints(log.read_text(), leaks)
    return fuzzed


def main() -> int:
    """Fuzz, print the table, and say by the status whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    fuzzed = fuzz(options.cases, options.seed)
    statuses = sorted({status for counts in fuzzed.outcomes.values() for status in counts})
    print(f"{'kind':<18}" + "".join(f"{status:>9}" for status in statuses))
    for kind, counts in fuzzed.outcomes.items():
        print(f"{kind:<18}" + "".join(f"{counts[status]:>9}" for status in statuses))
    before, after = (own / 2**20 for own in fuzzed.rss_bytes)
    print(f"{fuzzed.cases} requests, {len(fuzzed.wrong)} wrong; {before:.0f} MiB, then {after:.0f}")
    for wrong in fuzzed.wrong[:_SHOWN]:
        print(f"wrong: {wrong}")
    if options.out:
        figures = {
            "cases": fuzzed.cases,
            "seed": options.seed,
            "outcomes": {kind: dict(counts) for kind, counts in fuzzed.outcomes.items()},
            "wrong": fuzzed.wrong,
            "rss_bytes": fuzzed.rss_bytes,
        }
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if fuzzed.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
