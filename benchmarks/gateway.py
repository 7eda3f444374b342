"""The gateway: how much time it adds to its models', and how many requests a second it bears.

    python benchmarks/gateway.py [--rate 50] [--requests 1000] [--delay-ms 100] [--rounds 3]
        [--cases added throughput overload router] [--router CHECKPOINT] [--no-litellm] [--out FILE]

added       in front of three members that answer after a fixed time and always agree. Each round
            asks one of them by itself first, then all three at once, then the gateway, then
            LiteLLM's proxy with that one model behind it. What the gateway adds is the difference
            to the slowest of the three, and what the proxy adds that to the one.
throughput  models that answer at once; gateway and proxy in turn, each on one core of its own with
            one worker, 16 clients that wait for one answer after another.
overload    the gateway by itself, on one core, with more clients than it can answer, each on a
            connection of its own: they are to be answered or told 429, none left without a word.
router      scoring and decision without anything around them.

Everything runs on this machine, so other work on it is measured too: the load before each round is
printed. The proxy lives in an environment of its own, .venv-litellm, which is made where it is
missing.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_cases.load import Latencies, at_a_rate, one_after_another
from gateway_cases.overload import bears, overload
from gateway_cases.router_timing import CASES, time_router
from gateway_cases.served import Served, clear_of, gateway, litellm_proxy, stub_models

_CLIENTS = 16
# Of what the gateway bears, and for a second by so many of ``--requests``.
_OVERLOADS, _OVERLOAD_PER_S = (0.5, 1.0, 1.5, 2.0), 100
_GATEWAY, _LITELLM = "the gateway", "LiteLLM's proxy"
_Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--requests", type=int, default=1000, help="of each measurement")
    parser.add_argument("--delay-ms", type=float, default=100.0, help="of a model")
    parser.add_argument("--rounds", type=int, default=3)
    names = ["added", "throughput", "overload", "router"]
    parser.add_argument("--cases", nargs="+", default=names, choices=names)
    parser.add_argument("--router", default=None, help="a checkpoint; else the vote rule")
    parser.add_argument("--no-litellm", action="store_true", help="the gateway by itself")
    parser.add_argument("--questions", type=int, default=400, help="the made-up run's")
    parser.add_argument("--epochs", type=int, default=5, help="of a made-up router's training")
    parser.add_argument("--out", type=Path, default=None, help="all figures as JSON")
    options = parser.parse_args(arguments)
    cases: dict[str, Callable[[argparse.Namespace], list[_Row]]] = {
        "added": _added,
        "throughput": _throughput,
        "overload": _overload,
        "router": _router,
    }
    found = {name: cases[name](options) for name in options.cases}
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def _added(options: argparse.Namespace) -> list[_Row]:
    rate = {"rate": options.rate, "requests": options.requests}
    print("| load before | asked | p50, ms | p99, ms | added p50, ms | added p99, ms | not 200 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with stub_models(options.delay_ms) as ports, _asked(options, ports, None) as asked:
        for number in range(options.rounds):
            load = os.getloadavg()[0]
            one, slowest = (
                asyncio.run(at_a_rate(few, "m", **rate)) for few in (ports[:1], ports[:-1])
            )
            measured: list[tuple[str, Latencies, Latencies | None]] = [
                ("a member by itself", one, None),
                ("the slowest of the three", slowest, None),
            ]
            for who, served in asked:
                found = asyncio.run(at_a_rate([served.port], served.model, **rate))
                measured.append((who, found, slowest if who == _GATEWAY else one))
            for who, found, base in measured:
                row = {"round": number, "load": load, "asked": who, **_latencies(found)}
                if base is not None:
                    row |= {
                        f"added_{name}": row[name] - _latencies(base)[name]
                        for name in ("p50_ms", "p99_ms")
                    }
                rows.append(row)
                added = [
                    f"{row[name]:.1f}" if name in row else ""
                    for name in ("added_p50_ms", "added_p99_ms")
                ]
                print(
                    f"| {load:.1f} | {who} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} "
                    f"| {added[0]} | {added[1]} | {found.wrong} |",
                    flush=True,
                )
    _compare(rows, "added_p50_ms", "added p50")
    return rows


def _throughput(options: argparse.Namespace) -> list[_Row]:
    core = min(os.sched_getaffinity(0))
    print("\n| load before | asked | requests a second | p50, ms | processor, ms | not 200 |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    with (
        clear_of(core),
        stub_models(0.0) as ports,
        _asked(options, ports, core) as asked,
    ):
        for number in range(options.rounds):
            for who, served in asked:
                load, before = os.getloadavg()[0], served.processor_s()
                most = asyncio.run(
                    one_after_another(
                        served.port, served.model, clients=_CLIENTS, requests=options.requests
                    )
                )
                after = served.processor_s()
                row: _Row = {
                    "round": number,
                    "load": load,
                    "asked": who,
                    "requests_per_s": len(most.seconds) / most.wall_s,
                    **_latencies(most),
                }
                used = ""
                if before is not None and after is not None:
                    # Those that opened the connections are counted too.
                    count = len(most.seconds) + _CLIENTS
                    row["processor_ms"] = 1000 * (after - before) / count
                    used = f"{row['processor_ms']:.2f}"
                rows.append(row)
                print(
                    f"| {load:.1f} | {who} | {row['requests_per_s']:.0f} | {row['p50_ms']:.1f} "
                    f"| {used} | {most.wrong} |",
                    flush=True,
                )
    _compare(rows, "requests_per_s", "requests a second")
    return rows


def _overload(options: argparse.Namespace) -> list[_Row]:
    core = min(os.sched_getaffinity(0))
    seconds = options.requests / _OVERLOAD_PER_S
    print(
        "\n| load before | asked, of what it bears | a second | answered | p99, s | told 429 ",
        end="",
    )
    print("| p99, s | neither |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with (
        clear_of(core),
        stub_models(0.0) as ports,
        gateway(ports, router=options.router, core=core) as served,
    ):
        most = asyncio.run(bears(served.port, served.model, seconds=seconds / 2))
        for factor in _OVERLOADS:
            load = os.getloadavg()[0]
            found = asyncio.run(
                overload(served.port, served.model, rate=factor * most, seconds=seconds)
            )
            row: _Row = {
                "load": load,
                "factor": factor,
                "rate": found.rate,
                "answered": found.count(200),
                "answered_p99_s": found.percentile(200, 99),
                "refused": found.count(429),
                "refused_p99_s": found.percentile(429, 99),
                "unanswered": found.unanswered,
            }
            rows.append(row)
            print(
                f"| {load:.1f} | {factor:g} | {row['rate']:.0f} | {row['answered']} "
                f"| {row['answered_p99_s']:.1f} | {row['refused']} | {row['refused_p99_s']:.1f} "
                f"| {row['unanswered']} |",
                flush=True,
            )
    return rows


def _router(options: argparse.Namespace) -> list[_Row]:
    print("\n| features | p50, ms | p99, ms |")
    print("| --- | --- | --- |")
    rows = []
    for case in CASES:
        found = time_router(
            case, questions=options.questions, repeats=options.requests, epochs=options.epochs
        )
        rows.append({"features": case, "p50_ms": found.p50, "p99_ms": found.p99})
        print(f"| {case} | {found.p50:.2f} | {found.p99:.2f} |", flush=True)
    return rows


@contextmanager
def _asked(
    options: argparse.Namespace, ports: list[int], core: int | None
) -> Iterator[list[tuple[str, Served]]]:
    """What is measured, all under way at once; it is asked in turn."""
    with gateway(ports, router=options.router, core=core) as served:
        if options.no_litellm:
            yield [(_GATEWAY, served)]
            return
        with litellm_proxy(ports[0], core=core) as proxy:
            yield [(_GATEWAY, served), (_LITELLM, proxy)]


def _latencies(found: Latencies) -> _Row:
    p50, p99 = (1000 * found.percentile(percent) for percent in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "not_200": found.wrong}


def _compare(rows: list[_Row], name: str, said: str) -> None:
    """The gateway's figure as a multiple of the proxy's, round by round."""
    figures = {
        who: [row[name] for row in rows if row["asked"] == who] for who in (_GATEWAY, _LITELLM)
    }
    pairs = list(zip(figures[_GATEWAY], figures[_LITELLM], strict=False))
    if pairs:
        ratios = ", ".join(f"{ours / theirs:.2f}" for ours, theirs in pairs)
        print(f"\n{said}, gateway / proxy, by round: {ratios}")


if __name__ == "__main__":
    main()
