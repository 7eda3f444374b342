"""A soak: half of what the gateway bears, for long, while its models fail at random."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from gateway_cases.fault_load import Seen, at_a_rate, busy_clients
from gateway_cases.faulty_gateway import MODELS, FaultyModels, ServedGateway

__all__ = ["Soak", "soak"]

_WARM_UP_S = 120.0
_CLIENTS = 32
_MEASURED_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What a soak has shown.

    Attributes:
        most_per_s: requests a second that the gateway answers with clients always waiting.
        rate: requests a second that it was then asked.
        requests: all of them.
        lost: how many got no answer and no proper error.
        wrong: those and other things that should not have been.
        hangs: answers later than they may be.
        outcomes: of all of them.
        rss_mb: memory at each look, in MiB.
        growth: of memory from the end of the warm-up (two minutes, or a tenth of a short soak) to
            the last tenth, as a share.
        p50_s: of all whose client has waited.
        p99_s: likewise.
        examples: of what was wrong.
    """

    most_per_s: float
    rate: float
    requests: int
    lost: int
    wrong: int
    hangs: int
    outcomes: dict[str, int]
    rss_mb: list[float]
    growth: float
    p50_s: float
    p99_s: float
    examples: list[str]

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing wrong, and no more than 5 % more memory."""
        return not (self.lost or self.wrong or self.hangs) and self.growth < 0.05


def soak(
    models: FaultyModels,
    gateway: ServedGateway,
    *,
    minutes: float,
    slack_s: float,
    say: Callable[[str], object],
    measured_s: float = _MEASURED_S,
) -> Soak:
    """Measure what the gateway bears, and ask half of that for some minutes."""
    models.turn({})
    gateway.settle()
    # The first requests of a process are slow: they are not what it bears.
    asyncio.run(busy_clients(gateway, clients=_CLIENTS, seconds=measured_s / 4))
    most = asyncio.run(busy_clients(gateway, clients=_CLIENTS, seconds=measured_s))
    say(f"\nbears {most:.0f} requests a second; asked {most / 2:.0f} for {minutes:g} minutes")
    models.turn(dict.fromkeys(MODELS, "random"))
    seen, memory = asyncio.run(
        _watched(gateway, rate=most / 2, seconds=60 * minutes, slack_s=slack_s)
    )
    models.turn({})
    gateway.settle()
    growth = _growth(memory, seconds=60 * minutes)
    outcomes = {
        outcome: sum(counts[outcome] for counts in seen.outcomes.values())
        for outcome in sorted({outcome for counts in seen.outcomes.values() for outcome in counts})
    }
    lost = outcomes.get("lost", 0)
    say(
        f"{seen.requests} requests, {lost} lost, {seen.wrongs} wrong, {seen.hangs} hangs; memory "
        f"{memory[-1]:.0f} MiB, {100 * growth:+.1f} % since the warm-up; {outcomes}"
    )
    return Soak(
        most_per_s=most,
        rate=most / 2,
        requests=seen.requests,
        lost=lost,
        wrong=seen.wrongs,
        hangs=seen.hangs,
        outcomes=outcomes,
        rss_mb=memory,
        growth=growth,
        p50_s=seen.percentile(50),
        p99_s=seen.percentile(99),
        examples=seen.wrong,
    )


async def _watched(
    gateway: ServedGateway, *, rate: float, seconds: float, slack_s: float
) -> tuple[Seen, list[float]]:
    memory: list[float] = []

    async def watch() -> None:
        every_s, begun = max(0.2, seconds / 600), time.monotonic()
        while time.monotonic() < begun + seconds:
            memory.append(gateway.rss_bytes() / 2**20)
            await asyncio.sleep(every_s)

    watching = asyncio.ensure_future(watch())
    seen = await at_a_rate(gateway, rate=rate, seconds=seconds, slack_s=slack_s)
    await watching
    return seen, memory


def _growth(memory: list[float], *, seconds: float) -> float:
    warm = round(len(memory) * min(0.1, _WARM_UP_S / seconds))
    few = max(1, len(memory) // 10)
    return median(memory[-few:]) / median(memory[warm : warm + few]) - 1.0
