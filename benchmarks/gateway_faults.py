"""The gateway while its models fail: the fault matrix, and a soak at half of what it bears.

    python benchmarks/gateway_faults.py [--seconds 60] [--soak-minutes 20] [--rate 20] [--out FILE]

Everything is real but the models: the program ``pyramid-moa serve`` in a process of its own, and
HTTP servers that fail as they are told to in another. Each row of the matrix is one fault under a
steady load of easy and hard questions, streamed and whole, among them some that the router can't
judge and some whose client goes away. It counts hangs (an answer later than the deadline and
--slack-s), wrong ones (a status, an error or an answer that the fault does not call for), and of
the questions that the pyramid judges those that were answered: all of them, where any model lives.
The soak measures first how much the gateway bears, and then asks half of that for as long as it is
told to while every model fails at random; it shows how memory grew from the third minute on, and
how many requests were lost. Between them some clients go away, and it shows how long the work for
them goes on. 0 leaves any of the three out.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway_cases.fault_cases import FAULT_CASES, FaultCase
from gateway_cases.fault_load import Seen, at_a_rate
from gateway_cases.faulty_gateway import FaultyModels, ServedGateway, faulty_models, served_gateway
from gateway_cases.hang_ups import HangUps, hang_ups
from gateway_cases.soak import Soak, soak

__all__ = ["FAULTS", "Row", "matrix"]

FAULTS = {
    "member_timeout_s": 1.0,
    "deadline_s": 4.0,
    "retries": 1,
    "breaker_failures": 5,
    "breaker_open_s": 1.0,
}
"""Of ``serve.yaml``: short, so that a minute sees every state of a breaker many times."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was seen under one fault.

    Attributes:
        fault: in words.
        fallback: whether a fallback oracle was named.
        requests: all of them.
        answered: judged ones that got an answer or, where their stream broke off, the best so far.
        degraded: answers among all of them that were marked so.
        unanswered: judged ones that got none.
        hangs: answers later than they may be.
        wrong: what the fault does not call for.
        p50_s: of all whose client has waited.
        p99_s: likewise.
        outcomes: by kind of request.
        examples: of what was wrong.
    """

    fault: str
    fallback: bool
    requests: int
    answered: int
    degraded: int
    unanswered: int
    hangs: int
    wrong: int
    p50_s: float
    p99_s: float
    outcomes: dict[str, dict[str, int]]
    examples: list[str]


def row_of(case: FaultCase, seen: Seen) -> Row:
    """Compare what was seen with what the fault calls for."""
    judged = seen.outcomes.get("judged", {})
    served = sum(judged[how] for how in ("answered", "degraded", "broken off"))
    for kind, counts in seen.outcomes.items():
        for outcome, count in counts.items():
            if outcome not in case.allowed(kind) and outcome != "lost":
                seen.is_wrong(f"{count} of {kind}: {outcome}")
                seen.wrongs += count - 1
    return Row(
        fault=case.name,
        fallback=case.fallback,
        requests=seen.requests,
        answered=served,
        degraded=sum(counts["degraded"] for counts in seen.outcomes.values()),
        unanswered=sum(judged.values()) - served - judged["gone"],
        hangs=seen.hangs,
        wrong=seen.wrongs,
        p50_s=seen.percentile(50),
        p99_s=seen.percentile(99),
        outcomes={kind: dict(counts) for kind, counts in seen.outcomes.items()},
        examples=seen.wrong,
    )


def matrix(
    models: FaultyModels,
    gateway: ServedGateway,
    cases: Iterable[FaultCase],
    *,
    rate: float,
    seconds: float,
    slack_s: float,
) -> Iterable[Row]:
    """One row after another, each from a gateway that has come to rest."""
    for case in cases:
        models.turn({})
        gateway.settle()
        models.turn(case.moods)
        load = at_a_rate(gateway, rate=rate, seconds=seconds, slack_s=slack_s)
        yield row_of(case, asyncio.run(load))


def main() -> int:
    """Measure, print tables, and say by the status whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each fault")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--slack-s", type=float, default=1.5, help="past the deadline")
    parser.add_argument("--soak-minutes", type=float, default=20.0)
    parser.add_argument("--router", default=None, help="a checkpoint; else the vote rule")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--clients", type=int, default=50, help="that go away")
    options = parser.parse_args()
    rows: list[Row] = []
    soaked: Soak | None = None
    gone: HangUps | None = None
    with faulty_models() as models:
        if options.seconds > 0:
            rows = _whole_matrix(models, options)
        if options.clients > 0:
            with served_gateway(models, faults=FAULTS, router=options.router) as gateway:
                gone = hang_ups(models, gateway, clients=options.clients)
            print(
                f"\n{gone.clients} clients went away: work for them ended after "
                f"{1000 * gone.p50_s:.1f} ms (median), {1000 * gone.longest_s:.1f} ms (longest), "
                f"{gone.missing} calls did not end",
                flush=True,
            )
        if options.soak_minutes > 0:
            with served_gateway(models, faults=FAULTS, router=options.router) as gateway:
                limits = {"minutes": options.soak_minutes, "slack_s": options.slack_s}
                soaked = soak(models, gateway, say=print, **limits)
    if options.out is not None:
        told = {
            "matrix": [asdict(row) for row in rows],
            "gone": gone and asdict(gone),
            "soak": soaked and asdict(soaked),
        }
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    for example in [
        *(e for row in rows for e in row.examples),
        *(soaked.examples if soaked else []),
    ]:
        print(example)
    bad = any(row.hangs or row.wrong for row in rows) or (soaked is not None and not soaked.is_good)
    return 1 if bad else 0


def _whole_matrix(models: FaultyModels, options: argparse.Namespace) -> list[Row]:
    print("| fault | fallback | requests | served | degraded | hangs | wrong | p50, ms | p99, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    load = {"rate": options.rate, "seconds": options.seconds, "slack_s": options.slack_s}
    for fallback in (False, True):
        cases = [c for c in FAULT_CASES if c.fallback == fallback and options.only in c.name]
        if not cases:
            continue
        faults = {**FAULTS, **({"fallback_oracle": "spare"} if fallback else {})}
        models.turn({})
        with served_gateway(models, faults=faults, router=options.router) as gateway:
            for row in matrix(models, gateway, cases, **load):
                rows.append(row)
                print(_line(row), flush=True)
    models.turn({})
    return rows


def _line(row: Row) -> str:
    judged = row.answered + row.unanswered
    share = f"{row.answered} of {judged}"
    times = f"{1000 * row.p50_s:.0f} | {1000 * row.p99_s:.0f}"
    fallback = "yes" if row.fallback else "no"
    return (
        f"| {row.fault} | {fallback} | {row.requests} | {share} | {row.degraded} | {row.hangs} | "
        f"{row.wrong} | {times} |"
    )


if __name__ == "__main__":
    sys.exit(main())
