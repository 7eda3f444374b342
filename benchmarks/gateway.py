"""The gateway: how much time it adds to its models', and how many requests a second it bears.

    python benchmarks/gateway.py [--rate 50] [--requests 1000] [--delay-ms 100] [--rounds 3]

In front of three members that answer after a fixed time and always agree. Each round asks one of
them by itself first, then the gateway; what the gateway adds is the difference. Everything runs on
this machine, so other work on it is measured too: the load before each round is printed.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway_cases.load import Latencies, at_a_rate, one_after_another

_STUB = Path(__file__).parent / "gateway_cases" / "stub_models.py"
_MODELS = ("a", "b", "c", "oracle")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--requests", type=int, default=1000, help="of each measurement")
    parser.add_argument("--delay-ms", type=float, default=100.0, help="of a model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--router", default=None, help="a checkpoint; else the vote rule")
    options = parser.parse_args()
    print("| load before | asked | p50, ms | p99, ms | added p50, ms | added p99, ms | not 200 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with _stubs(options.delay_ms) as ports, _gateway(ports, options.router) as port:
        for _ in range(options.rounds):
            rate = {"rate": options.rate, "requests": options.requests}
            load = f"{os.getloadavg()[0]:.1f}"
            alone = asyncio.run(at_a_rate(ports[0], "m", **rate))
            print(_row(load, "a member by itself", alone, None))
            through = asyncio.run(at_a_rate(port, "pyramid", **rate))
            print(_row(load, "the gateway", through, alone), flush=True)
    print("\n| clients at once | models answer after | requests a second | p50, ms | not 200 |")
    print("| --- | --- | --- | --- | --- |")
    with _stubs(0.0) as ports, _gateway(ports, options.router) as port:
        for _ in range(options.rounds):
            most = asyncio.run(
                one_after_another(port, "pyramid", clients=16, requests=options.requests)
            )
            rate_seen = len(most.seconds) / most.wall_s
            p50 = 1000 * most.percentile(50)
            print(f"| 16 | 0 ms | {rate_seen:.0f} | {p50:.1f} | {most.wrong} |", flush=True)


def _row(load: str, name: str, found: Latencies, alone: Latencies | None) -> str:
    p50, p99 = (1000 * found.percentile(percent) for percent in (50, 99))
    added = "|  |  |"
    if alone is not None:
        added = "| {:.1f} | {:.1f} |".format(
            *(1000 * (found.percentile(p) - alone.percentile(p)) for p in (50, 99))
        )
    return f"| {load} | {name} | {p50:.1f} | {p99:.1f} {added} {found.wrong} |"


@contextmanager
def _stubs(delay_ms: float) -> Iterator[list[int]]:
    command = [sys.executable, str(_STUB), str(len(_MODELS)), str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.kill()


@contextmanager
def _gateway(ports: list[int], router: str | None) -> Iterator[int]:
    specs = [
        {
            "name": name,
            "model": "m",
            "backend": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "max_concurrency": 256,
        }
        for name, port in zip(_MODELS, ports, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pyramid.yaml"
        path.write_text(json.dumps({"members": specs[:-1], "oracles": specs[-1:]}))
        command = [sys.executable, "-m", "pyramid_moa", "serve", "--pyramid", str(path)]
        command += ["--port", "0", *(["--router", router] if router else [])]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        with process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline()
                yield int(address.rpartition(":")[2].removesuffix("/v1\n"))
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
