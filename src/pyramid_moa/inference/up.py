"""``pyramid-moa up``: the vLLM servers of a pyramid's entries with a port, started and kept."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path

from pyramid_moa.backends.hidden_states_file import make_private_folder
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.protocol import HiddenStates
from pyramid_moa.backends.vllm_arguments import hidden_states_folder, is_cpu_build
from pyramid_moa.backends.vllm_server import (
    HOST,
    cores,
    server_command,
    server_environment,
)
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.served_models import (
    claimed_ports,
    devices_of,
    served_models,
    shared_devices,
)
from pyramid_moa.inference.supervised_server import Patience, ServerPlan, SupervisedServer
from pyramid_moa.progress import Progress

__all__ = ["up"]

_LONGEST_SLUG = 60
_PROGRESS_EVERY_S = 0.2

Command = Callable[[ModelSpec, HiddenStates | None], list[str]]


def up(
    pyramid: Pyramid,
    *,
    logs: Path,
    say: Callable[[str], None],
    show: Callable[[str], None],
    patience: Patience | None = None,
    command: Command = server_command,
) -> None:
    """Start the servers of a pyramid and keep them until SIGINT, SIGTERM or SIGHUP.

    Args:
        pyramid: members and oracles; those with a port are served.
        logs: folder for the servers' logs, one file a server.
        say: hears what happens meanwhile.
        show: hears the table of servers, once all are healthy.
        patience: how long things may take and how often they may fail.
        command: writes an entry's command line, given what hidden states it is to leave.

    Raises:
        BackendError: a server could not be started, or was lost too often; all are stopped.
        ConfigError: the pyramid's entries can't be served, or ports are in use.
        KeyboardInterrupt: told to stop before all were healthy.
        MissingExtraError: vLLM is not installed.
    """
    patience = patience or Patience()
    specs = served_models(pyramid)
    hidden_states = {spec.name: pyramid.hidden_states for spec in pyramid.members}
    with claimed_ports(specs) as claims:
        plans = _plans(specs, pyramid, hidden_states, logs, claims, say, command)
        logs.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            if hidden_states.get(spec.name) is not None:
                _make_hidden_states_folder(spec)
        servers = [SupervisedServer(plan, patience=patience, say=say) for plan in plans]
        lines = [
            *(f"{spec.name}  http://{HOST}:{spec.port}/v1  {spec.model}" for spec in specs),
            f"all up; Ctrl-C stops them; logs: {logs}",
        ]
        if not asyncio.run(_run(servers, say=say, when_up=lambda: show("\n".join(lines)))):
            raise KeyboardInterrupt


def _plans(
    specs: Sequence[ModelSpec],
    pyramid: Pyramid,
    hidden_states: Mapping[str, HiddenStates | None],
    logs: Path,
    claims: Mapping[str, int],
    say: Callable[[str], None],
    command: Command,
) -> list[ServerPlan]:
    commands = [command(spec, hidden_states.get(spec.name)) for spec in specs]
    gpu = not is_cpu_build()
    turns: dict[int, asyncio.Lock] = {}
    if gpu:
        for sentence in shared_devices(specs):
            say(sentence)
        turns = {device: asyncio.Lock() for spec in specs for device in devices_of(spec)}
    withheld = {spec.api_key_env for spec in pyramid.models if spec.api_key_env is not None}
    return [
        ServerPlan(
            name=spec.name,
            command=command_line,
            environment=server_environment(
                spec,
                environ=os.environ,
                withheld=withheld,
                threads=max(1, cores() // len(specs)),
            ),
            port=spec.port or 0,
            log=logs / _log_name(spec),
            claim=claims[spec.name],
            # Always in the same order, so that no two wait for each other.
            turns=[turns[device] for device in devices_of(spec) if gpu],
        )
        for spec, command_line in zip(specs, commands, strict=True)
    ]


def _log_name(spec: ModelSpec) -> str:
    slug = re.sub(r"[^\w.-]", "_", spec.name)[:_LONGEST_SLUG]
    return f"{slug}-{spec.port}.log"


def _make_hidden_states_folder(spec: ModelSpec) -> None:
    folder = hidden_states_folder(spec)
    if folder is None:
        raise ConfigError(f"model {spec.name!r}: expected a folder for hidden states, found none")
    if spec.hidden_states_dir is not None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return
    make_private_folder(folder)
    # Nobody waits for what an earlier server left: the port is ours alone.
    for path in folder.glob("*.safetensors"):
        path.unlink()


async def _run(
    servers: Sequence[SupervisedServer],
    *,
    say: Callable[[str], None],
    when_up: Callable[[], None],
) -> bool:
    """Start, keep and stop all; whether all were up when it was told to stop."""
    interrupts = _Interrupts(servers)
    all_up = asyncio.Event()
    try:
        await _start_and_keep(servers, all_up, when_up)
    except asyncio.CancelledError:
        if not interrupts.seen:
            raise
    finally:
        interrupts.stopping = True
        say(f"stopping {len(servers)} server{'s' if len(servers) > 1 else ''}")
        await asyncio.gather(*(server.stop() for server in servers))
        interrupts.close()
    return all_up.is_set()


class _Interrupts:
    """The first signal cancels the task, another one ends the servers by force."""

    def __init__(self, servers: Sequence[SupervisedServer]) -> None:
        self.seen = False
        self.stopping = False
        self._servers = servers
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._signals = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # Under nohup a terminal that goes away is no reason to stop.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        for number in self._signals:
            self._loop.add_signal_handler(number, self._see)

    def close(self) -> None:
        """Give the signals back."""
        for number in self._signals:
            self._loop.remove_signal_handler(number)

    def _see(self) -> None:
        if not self.stopping and not self.seen and self._task is not None:
            self._task.cancel()
        elif self.stopping and self.seen:
            for server in self._servers:
                server.hurry()
        self.seen = True


async def _start_and_keep(
    servers: Sequence[SupervisedServer], all_up: asyncio.Event, when_up: Callable[[], None]
) -> None:
    """Start all and keep each from its own start on, without end."""
    waiting = [server.plan.name for server in servers]

    async def start_and_keep(server: SupervisedServer) -> None:
        await server.start()
        waiting.remove(server.plan.name)
        await server.keep()

    async def show_progress() -> None:
        done = 0
        with Progress("servers up", total=len(servers)) as progress:
            while waiting:
                await asyncio.sleep(_PROGRESS_EVERY_S)
                steps = len(servers) - len(waiting) - done
                note = f"waiting for {', '.join(waiting)}" if waiting else ""
                progress.advance(steps, note=note)
                done += steps
        all_up.set()
        when_up()

    await _all([*map(start_and_keep, servers), show_progress()])


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
