"""An OpenAI-compatible server on loopback that answers as a test tells it to."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sent: path, headers by lower-case name, and body; and from which port."""

    path: str
    headers: dict[str, str]
    body: Any
    client_port: int

    @property
    def prompt(self) -> str:
        """The text, or the last message."""
        if "prompt" in self.body:
            return self.body["prompt"]
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer.

    Attributes:
        body: bytes as they are; anything else as JSON.
        status: HTTP status.
        headers: further headers.
        content_type: of the body.
        delay_s: seconds before the first byte.
        cut_at: hang up after so many bytes of the body, headers first; -1 before the headers.
        drip_s: seconds between single bytes of the body.
        events: a stream of server-sent events in place of a body, each with the seconds before
            it; with ``cut_at`` the connection breaks after the last one.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delay_s: float = 0.0
    cut_at: int | None = None
    drip_s: float = 0.0
    events: Iterable[tuple[float, Any]] | None = None


@dataclass(kw_only=True)
class FaultyServer:
    """A server under way and what it has seen."""

    base_url: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0
    hung_up: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def chat_reply(text: str, *, pieces: list[str] | None = None, **choice: Any) -> dict[str, Any]:
    """A well-formed answer to a conversation, one token a character unless pieces are given."""
    content = [
        {"token": piece, "bytes": list(piece.encode()), "logprob": -0.5, "top_logprobs": []}
        for piece in (pieces if pieces is not None else [*text, "</s>"])
    ]
    return {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "logprobs": {"content": content},
                **choice,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": len(content)},
    }


def text_reply(text: str, **choice: Any) -> dict[str, Any]:
    """A well-formed continuation of a text, one token a character."""
    logprobs = {"tokens": list(text), "token_logprobs": [-0.25] * len(text), "text_offset": []}
    return {
        "choices": [
            {"index": 0, "text": text, "finish_reason": "length", "logprobs": logprobs, **choice}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": len(text)},
    }


def stream_events(
    text: str, *, seconds: float = 0.0, pieces: list[str] | None = None, chat: bool = True
) -> list[tuple[float, Any]]:
    """The events of a well-formed streamed answer, a token a character unless pieces are given."""
    tokens = pieces if pieces is not None else [*text]

    def chunk(finish: str | None, token: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if chat:
            choice["delta"] = {} if token is None else {"content": token}
            if token is not None:
                entry = {"token": token, "bytes": list(token.encode()), "logprob": -0.5}
                choice["logprobs"] = {"content": [entry]}
        else:
            choice["text"] = token or ""
            if token is not None:
                choice["logprobs"] = {"tokens": [token], "token_logprobs": [-0.5]}
        return {"id": "up-1", "choices": [choice]}

    usage = {"prompt_tokens": 7, "completion_tokens": len(tokens)}
    return [
        *((seconds, chunk(None, token)) for token in tokens),
        (0.0, chunk("stop", None)),
        (0.0, {"id": "up-1", "choices": [], "usage": usage}),
        (0.0, "[DONE]"),
    ]


class Handler(BaseHTTPRequestHandler):
    """Takes note of each request and does as it is told."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def setup(self) -> None:
        super().setup()
        self.server.seen.connections += 1

    def do_GET(self) -> None:
        self.reply_to(None)

    def do_POST(self) -> None:
        self.reply_to(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def reply_to(self, body: Any) -> None:
        seen = self.server.seen
        headers = {name.lower(): value for name, value in self.headers.items()}
        port = self.client_address[1]
        request = Request(path=self.path, headers=headers, body=body, client_port=port)
        with seen.lock:
            seen.requests.append(request)
            seen.under_way += 1
            seen.most_under_way = max(seen.most_under_way, seen.under_way)
        seen.started.set()
        try:
            reply = self.server.answer(request)
            self.send(reply if isinstance(reply, Reply) else Reply(body=reply))
        except OSError:
            seen.hung_up.set()
            self.close_connection = True
        finally:
            with seen.lock:
                seen.under_way -= 1

    def send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.wait(reply.delay_s)
        if reply.events is not None:
            self.send_events(reply)
            return
        self.close_connection = reply.cut_at is not None
        if reply.cut_at == -1:
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", reply.content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if not reply.drip_s:
            self.wfile.write(body[: reply.cut_at])
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wait(reply.drip_s)

    def send_events(self, reply: Reply) -> None:
        """Send chunks of HTTP, so that a connection that breaks is seen to.

        One that does not break stays open, as with other bodies: to close it without a word would
        fail whatever a client sends on it next.
        """
        self.close_connection = reply.cut_at is not None
        self.send_response(reply.status)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for seconds, event in reply.events or ():
            self.wait(seconds)
            data = event if isinstance(event, str) else json.dumps(event)
            piece = f"data: {data}\n\n".encode()
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if reply.cut_at is None:
            self.wfile.write(b"0\r\n\r\n")

    def wait(self, seconds: float) -> None:
        """Sleep, but notice a client that hangs up."""
        if not seconds:
            return
        self.connection.settimeout(seconds)
        try:
            if not self.connection.recv(1):
                raise ConnectionResetError("the client has hung up")
        except TimeoutError:
            pass
        finally:
            self.connection.settimeout(None)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Holds what its handlers need."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Request], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.seen = FaultyServer(base_url=f"http://127.0.0.1:{self.server_port}/v1")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up while a connection is idle."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def faulty_server(answer: Callable[[Request], Any]) -> Iterator[FaultyServer]:
    """Serve what ``answer`` gives: a Reply, or a body for a plain one."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.seen
        finally:
            server.shutdown()
            thread.join()


def soon(condition: Callable[[], bool], *, within_s: float = 2.0) -> bool:
    """Whether something comes true before long."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return condition()
