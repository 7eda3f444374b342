"""``pyramid-moa serve``: the gateway as a program, from its files to its last request."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn

from pyramid_moa.config_file import load_config
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.gateway.accepting import Acceptor
from pyramid_moa.inference.gateway.access import check_bind, read_admin_keys, read_keys
from pyramid_moa.inference.gateway.app import build_app
from pyramid_moa.inference.gateway.bounded_http import BoundedHttp, bounded_http
from pyramid_moa.inference.gateway.gateway import forgiving
from pyramid_moa.inference.gateway.json_logs import log_as_json
from pyramid_moa.inference.gateway.open_files import raise_open_files
from pyramid_moa.inference.gateway.settings import GatewaySettings, Load
from pyramid_moa.inference.gateway.tracing import open_tracing
from pyramid_moa.router_model.policy import PolicyKind

__all__ = ["serve"]

_KEEP_ALIVE_S = 75
# Python's own 5 ms are what the loop would wait for the interpreter while a thread scores answers.
_SWITCH_S = 0.0005
# Of the files that may be open, connections of clients; the others are for what models are asked.
_CLIENTS_SHARE = 0.5


def serve(
    pyramid: str | Path,
    *,
    router: str | Path | None = None,
    operating_point: str | None = None,
    threshold: float | None = None,
    policy: PolicyKind | None = None,
    config: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8800,
    show: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way; SIGHUP reads the files anew.

    Not on Windows, which has neither that signal nor uvloop. A SIGHUP while the files are read for
    the first time changes nothing.

    Args:
        pyramid: YAML file of the pyramid, or ``embedded``.
        router: checkpoint folder; None for the vote rule.
        operating_point: see ``Gate.from_config``.
        threshold: likewise.
        policy: likewise.
        config: YAML file of ``GatewaySettings``; the defaults where left out.
        host: address to listen at.
        port: of TCP; 0 takes a free one.
        show: hears where it listens, once it does.

    Raises:
        BackendError: a model can't be loaded.
        CheckpointError: the checkpoint is damaged or does not fit.
        ConfigError: a file or option is wrong, other machines could ask without a key, or this
            one runs Windows.
        MissingExtraError: traces are wanted, and the extra ``otel`` is not installed.
        OSError: the address is in use, or none of this machine's.
    """
    if sys.platform == "win32":
        raise ConfigError("serve: expected Linux or macOS, found Windows")
    settings = GatewaySettings() if config is None else load_config(GatewaySettings, config)
    keys = read_keys(settings.access, os.environ)
    admin_keys = read_admin_keys(settings.access, os.environ)
    check_bind(host, settings.access, keys=bool(keys))
    tracing = open_tracing(settings.telemetry, os.environ)
    # Before models are loaded, which may take minutes.
    with _listening(host, port) as listener, _deaf_to_hang_ups():
        log_as_json()
        sys.setswitchinterval(_SWITCH_S)
        log = logging.getLogger("pyramid_moa.gateway")
        open_gate = partial(
            Gate.from_config,
            pyramid,
            router=router,
            operating_point=operating_point,
            threshold=threshold,
            policy=policy,
            open_model=forgiving(settings.faults, say=log.warning),
        )
        gate = open_gate()
        _say_narrow(gate.rules.pyramid, settings.load, log)
        app = build_app(
            gate,
            settings,
            keys=keys,
            admin_keys=admin_keys,
            reopen=open_gate,
            retired=_settle,
            tracing=tracing,
        )
        http = bounded_http(settings.requests)
        server = _Server(
            uvicorn.Config(
                app,
                http=http,
                loop="uvloop",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                # Whole seconds: less than one would be none at all.
                timeout_graceful_shutdown=math.ceil(settings.load.drain_s),
            ),
            http=http,
            when_up=lambda: show(f"serving {_address(listener)}"),
            reload=app.state.reload,
        )
        _run(server, listener)
        log.info("stopped")


def _say_narrow(pyramid: Pyramid, load: Load, log: logging.Logger) -> None:
    """Say which servers may be asked less at once than the gateway takes in."""
    narrow = [
        f"{spec.name} {spec.max_concurrency}"
        for spec in pyramid.models
        if spec.is_served and spec.max_concurrency < load.max_concurrency
    ]
    if narrow:
        log.warning(
            "requests under way at once: %s (max_concurrency of their entries), of %d that the "
            "gateway works on (load.max_concurrency): raise the former if their servers bear it",
            ", ".join(narrow),
            load.max_concurrency,
        )


class _Server(uvicorn.Server):
    """Says when it is there, and reloads on SIGHUP."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        http: type[BoundedHttp],
        when_up: Callable[[], None],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._http = http
        self._acceptors: list[Acceptor] = []
        self._when_up = when_up
        self._reload = reload
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # It listens to none of them: that is done by ours.
        await super().startup(sockets=[])
        if self.started:
            _settle()
            most = max(1, int(_CLIENTS_SHARE * raise_open_files()))
            self._acceptors = [self._acceptor(own, most=most) for own in sockets or ()]
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            self._when_up()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)

    def _acceptor(self, listener: socket.socket, *, most: int) -> Acceptor:
        connections = self.server_state.connections

        def protocol() -> BoundedHttp:
            return self._http(self.config, self.server_state, self.lifespan.state)

        def make_room() -> None:
            for connection in list(connections):
                if isinstance(connection, BoundedHttp):
                    connection.leave_if_resting()

        return Acceptor(
            listener, protocol=protocol, connections=connections, most=most, make_room=make_room
        )

    def _hang_up(self) -> None:
        task = asyncio.ensure_future(self._reload_quietly())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_quietly(self) -> None:
        # Why it was not reloaded, the log says, whatever it was.
        with contextlib.suppress(Exception):
            await self._reload()


def _settle() -> None:
    """Take what is there now out of the look for garbage.

    It stays, and a look at all of it would hold up every request for a tenth of a second, again and
    again.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _deaf_to_hang_ups() -> Iterator[None]:
    # Until the loop takes them: they would end the program while models are loaded, for minutes.
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _run(server: _Server, listener: socket.socket) -> None:
    # When all is over uvicorn gives a signal back that it was stopped by: it has done its work.
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        server.run([listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise OSError(f"can't listen at {host}:{port}: {error.strerror or error}") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
