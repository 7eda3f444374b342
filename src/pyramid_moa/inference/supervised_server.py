"""One server under supervision: started, watched, started again when it is lost, stopped."""

import asyncio
import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pyramid_moa.backends import server_guard
from pyramid_moa.backends.vllm_server import is_healthy
from pyramid_moa.errors import BackendError

__all__ = ["Patience", "ServerPlan", "SupervisedServer"]

_LOG_BYTES = 32 << 20
_TAIL_BYTES = 1 << 15
_TAIL_LINES = 40
_LOOK_EVERY_S = 0.1
_CHECK_START_EVERY_S = 0.3
# Beyond the guard's own limits: then it is killed with the rest.
_GUARD_SPARE_S = 40.0
_SIGNALLED = 128


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long things may take and how often they may fail.

    Attributes:
        start_s: from a server's start to its first good health check.
        stop_s: for a polite stop; then it is killed.
        check_every_s: between two health checks.
        check_timeout_s: for one health check.
        failed_checks: so many in a row and a server counts as lost.
        restarts: of one server, within ``restarts_within_s``; one more loss ends everything.
        restarts_within_s: the time over which restarts are counted.
        first_pause_s: before the first restart; each further one waits twice as long.
    """

    start_s: float = 1800.0
    stop_s: float = 30.0
    check_every_s: float = 2.0
    check_timeout_s: float = 10.0
    failed_checks: int = 6
    restarts: int = 5
    restarts_within_s: float = 600.0
    first_pause_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """All that is needed to start a server.

    Attributes:
        name: of the pyramid's entry.
        command: program and arguments.
        environment: the whole of it.
        port: where it answers, on the loopback interface.
        log: file for what it writes; appended to.
        claim: file descriptor that holds the port's claim for as long as the server runs.
        turns: held while it starts: of servers that share a GPU one starts after the other, since
            vLLM measures how much of its memory is free.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(repr=False)
    port: int
    log: Path
    claim: int
    turns: Sequence[asyncio.Lock] = ()


class SupervisedServer:
    """A server that is kept running; its methods belong to one event loop."""

    def __init__(self, plan: ServerPlan, *, patience: Patience, say: Callable[[str], None]) -> None:
        """Plan a server; nothing is started yet."""
        self.plan = plan
        self._patience = patience
        self._say = say
        self._guard: subprocess.Popen[bytes] | None = None
        self._restarts: deque[float] = deque()
        self._log_from = 0

    async def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            BackendError: it ended before, or took too long; the end of its log has been said.
        """
        async with contextlib.AsyncExitStack() as stack:
            for turn in self.plan.turns:
                await stack.enter_async_context(turn)
            self._launch()
            await self._until_healthy()

    async def keep(self) -> None:
        """Watch it and start it again whenever it is lost, without end.

        Raises:
            BackendError: it was lost too often.
        """
        while True:
            await self._start_again(await self._until_lost())

    async def stop(self) -> None:
        """Stop it and all it started, politely, then by force; nothing happens twice."""
        guard = self._guard
        if guard is None:
            return
        assert guard.stdin is not None
        guard.stdin.close()
        deadline = time.monotonic() + self._patience.stop_s + _GUARD_SPARE_S
        while guard.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_EVERY_S)
        # Nothing is left of the session, unless the guard was killed itself.
        if left := await asyncio.to_thread(server_guard.end_session, guard.pid):
            self._say(f"{self.plan.name}: processes that can't be killed: {left}")
        guard.wait()
        self._guard = None

    def hurry(self) -> None:
        """Make a stop that is under way, or is to come, one by force."""
        if self._guard is not None and self._guard.poll() is None:
            self._guard.send_signal(signal.SIGTERM)

    def _launch(self) -> None:
        plan = self.plan
        if plan.log.exists() and plan.log.stat().st_size > _LOG_BYTES:
            plan.log.replace(plan.log.with_suffix(".log.1"))
        with plan.log.open("ab") as log:
            self._log_from = log.tell()
            log.write(_header(plan).encode())
            log.flush()
            self._guard = _start_guard(plan, log, stop_s=self._patience.stop_s)

    async def _until_healthy(self) -> None:
        deadline = time.monotonic() + self._patience.start_s
        healthy = False
        while not healthy:
            await asyncio.sleep(_CHECK_START_EVERY_S)
            healthy = await self._is_healthy()
            # Asked last: another program's answer at this port would be no sign of health.
            if (end := self._end()) is not None:
                raise self._failed_start(f"the server {end} while starting")
            if not healthy and time.monotonic() > deadline:
                raise self._failed_start(
                    f"the server is not healthy {self._patience.start_s:g} s after its start "
                    "(--timeout allows more)"
                )

    async def _until_lost(self) -> str:
        failed = 0
        while True:
            await asyncio.sleep(self._patience.check_every_s)
            if (end := self._end()) is not None:
                return end
            failed = 0 if await self._is_healthy() else failed + 1
            if failed >= self._patience.failed_checks:
                return f"failed {failed} health checks in a row"

    async def _start_again(self, why: str) -> None:
        while True:
            await self.stop()
            pause_s = self._count_restart(why)
            self._say(
                f"{self.plan.name}: the server {why}; restart {len(self._restarts)} of at most "
                f"{self._patience.restarts} in {pause_s:g} s"
            )
            await asyncio.sleep(pause_s)
            begun = time.monotonic()
            try:
                await self.start()
            except BackendError:
                why = "did not start again"
            else:
                self._say(f"{self.plan.name}: healthy again after {time.monotonic() - begun:.0f} s")
                return

    def _count_restart(self, why: str) -> float:
        """Note one more restart and give the pause before it, in seconds."""
        patience, now = self._patience, time.monotonic()
        while self._restarts and now - self._restarts[0] > patience.restarts_within_s:
            self._restarts.popleft()
        if len(self._restarts) >= patience.restarts:
            raise BackendError(
                f"{self.plan.name}: the server {why}, after {patience.restarts} restarts within "
                f"{patience.restarts_within_s:g} s: giving up; its log is {self.plan.log}"
            )
        self._restarts.append(now)
        return patience.first_pause_s * 2.0 ** (len(self._restarts) - 1)

    async def _is_healthy(self) -> bool:
        return await asyncio.to_thread(is_healthy, self.plan.port, self._patience.check_timeout_s)

    def _end(self) -> str | None:
        """How it ended; None while it runs."""
        assert self._guard is not None
        status = self._guard.poll()
        if status is None:
            return None
        number = -status if status < 0 else status - _SIGNALLED
        if number in signal.valid_signals():
            return f"was ended by {signal.Signals(number).name}"
        return f"ended with status {status}"

    def _failed_start(self, what: str) -> BackendError:
        self._say(f"the end of {self.plan.log}:\n{self._tail()}")
        return BackendError(f"{self.plan.name}: {what}; its log is {self.plan.log}")

    def _tail(self) -> str:
        """The end of what was logged since the last start, fit for a terminal."""
        with self.plan.log.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(self._log_from, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(
            "  " + "".join(char if char.isprintable() else " " for char in line) for line in lines
        )


def _header(plan: ServerPlan) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S%z")
    return f"== pyramid-moa up, {now}: {plan.name}: {shlex.join(plan.command)}\n"


def _start_guard(plan: ServerPlan, log: IO[bytes], *, stop_s: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", server_guard.__file__, str(stop_s), *plan.command],
        env=plan.environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(plan.claim,),
        # Of its own: a terminal's Ctrl-C reaches `up` alone, and all of it can be found and ended.
        start_new_session=True,
    )
