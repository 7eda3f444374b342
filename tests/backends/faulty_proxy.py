"""A proxy on loopback that stands before a real server and spoils some of its answers."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request.

    Attributes:
        kind: of the fault, for counting.
        delay_s: seconds before the answer is passed on.
        status: answer with this at once; the real server is not asked.
        headers: with ``status``.
        cut_at: pass on so many bytes of the body, then hang up; -1 hangs up before any.
        garble: pass on what this makes of the body.
    """

    kind: str
    delay_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    garble: Callable[[bytes], bytes] = lambda body: body


@dataclass(kw_only=True)
class FaultyProxy:
    """A proxy under way.

    Attributes:
        base_url: its address for an OpenAI client.
        fault: asked about each POST with its body; None lets it pass.
        passed: answers of the real server, by the prompt's last message.
        faults: how many of each kind.
    """

    base_url: str
    fault: Callable[[Any], Fault | None] = lambda body: None
    passed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        self.answer(*self.ask(None), Fault(kind="none"))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        proxy = self.server.proxy
        content = json.loads(body)
        with proxy.lock:
            fault = proxy.fault(content) or Fault(kind="none")
            proxy.faults[fault.kind] += 1
        if fault.status is not None:
            reply = json.dumps({"error": {"message": f"made up: {fault.kind}"}}).encode()
            self.answer(fault.status, reply, fault)
            return
        status, reply = self.ask(body)
        threading.Event().wait(fault.delay_s)
        if status == 200 and fault.cut_at is None and fault.garble(reply) == reply:
            with proxy.lock:
                proxy.passed[content["messages"][-1]["content"]] += 1
        self.answer(status, fault.garble(reply), fault)

    def ask(self, body: bytes | None) -> tuple[int, bytes]:
        """Have the real server answer."""
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            headers = {"content-type": "application/json"}
            upstream.request(self.command, self.path, body=body, headers=headers)
            reply = upstream.getresponse()
            return reply.status, reply.read()
        finally:
            upstream.close()

    def answer(self, status: int, body: bytes, fault: Fault) -> None:
        """Pass an answer on, or what the fault leaves of it."""
        self.close_connection = fault.cut_at is not None
        if fault.cut_at == -1:
            return
        self.send_response(status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: fault.cut_at])

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.proxy = FaultyProxy(base_url=f"http://127.0.0.1:{self.server_port}/v1")

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def faulty_proxy(base_url: str) -> Iterator[FaultyProxy]:
    """Stand before the server at ``base_url``."""
    with _Server(urlsplit(base_url).netloc) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()
