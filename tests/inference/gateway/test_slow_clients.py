"""Clients that send a request a byte at a time, or half of it: none of them holds a connection."""

import json
import socket
import threading
import time
from dataclasses import dataclass

import httpx
import pytest
from faulty_server import Reply, faulty_server, soon, stream_events
from running_gateway import chat_body, running_gateway, says
from served_program import program, write_pyramid

from pyramid_moa.inference.gateway import bounded_http, completions
from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings, Load, RequestLimits

HEAD_S = BODY_S = 1.5
# What a busy machine may take besides.
LATE_S = 15.0
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Host and port of the program with short limits."""
    folder = tmp_path_factory.mktemp("slow")
    config = folder / "serve.yaml"
    config.write_text(f"requests: {{head_s: {HEAD_S}, body_s: {BODY_S}}}\n")
    with faulty_server(says("#### 16")) as server:
        pyramid = write_pyramid(folder, {"a": server.base_url, "oracle": server.base_url})
        with program("--pyramid", str(pyramid), "--config", str(config)) as (_, url, _logged):
            host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
            yield host, int(port)


def end_of(connection):
    """What still comes before the other side hangs up, and the seconds until then."""
    begun, came = time.monotonic(), b""
    connection.settimeout(LATE_S)
    try:
        while data := connection.recv(4096):
            came += data
    except ConnectionResetError:
        return came, time.monotonic() - begun
    return came, time.monotonic() - begun


def drips(connection):
    """Send a byte again and again; the seconds until the other side has hung up."""
    begun = time.monotonic()
    while time.monotonic() < begun + LATE_S:
        try:
            connection.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            break
        time.sleep(0.05)
    return time.monotonic() - begun


def whole_request():
    body = json.dumps(chat_body()).encode()
    return HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("sent", [b"", b"P", HEAD])
def test_half_a_head_is_hung_up_on(address, sent):
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        came, seconds = end_of(connection)
    assert came == b""
    assert HEAD_S / 2 < seconds < LATE_S


def test_a_head_that_comes_a_byte_at_a_time_is_hung_up_on(address):
    with socket.create_connection(address) as connection:
        assert drips(connection) < LATE_S


def test_half_a_head_after_a_request_is_hung_up_on(address):
    with socket.create_connection(address) as connection:
        connection.sendall(whole_request())
        connection.settimeout(LATE_S)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz")
        _, seconds = end_of(connection)
    assert seconds < LATE_S


def test_a_body_that_does_not_come_is_told_so(address):
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\n{")
        connection.settimeout(LATE_S)
        told = connection.recv(4096)
    assert told.startswith(b"HTTP/1.1 408")


def test_a_body_that_goes_on_after_the_answer_is_hung_up_on(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n")
        assert drips(connection) < LATE_S


def test_connections_that_rest_or_work_are_left_alone(address):
    """Many slow ones beside it take nothing from a client that rests between two requests."""
    url = f"http://{address[0]}:{address[1]}"
    slow = [socket.create_connection(address) for _ in range(50)]
    try:
        with httpx.Client(base_url=url, timeout=20) as client:
            ports = set()
            for _ in range(3):
                reply = client.post("/v1/chat/completions", json=chat_body())
                assert reply.status_code == 200
                stream = reply.extensions["network_stream"]
                ports.add(stream.get_extra_info("client_addr"))
                time.sleep(HEAD_S)
            assert len(ports) == 1
        ended = [end_of(connection)[0] for connection in slow]
        assert ended == [b""] * 50
    finally:
        for connection in slow:
            connection.close()
    assert soon(lambda: httpx.get(f"{url}/healthz").is_success)


@dataclass(eq=False)
class _Cycle:
    response_complete: bool = True


class _Wire:
    """A transport, and the loop that it belongs to."""

    def __init__(self):
        self.now, self.unread, self.aborted = 0.0, 0, False

    def time(self):
        return self.now

    def call_later(self, seconds, look):
        pass  # the test itself looks

    def get_write_buffer_size(self):
        return self.unread

    def abort(self):
        self.aborted = True


def a_connection(monkeypatch, *, cycle=None, resting=None):
    """With 10 seconds for a head, and 30 for something of its answer to be taken."""
    monkeypatch.setattr(bounded_http, "_WRITE_S", 30.0)
    kind = bounded_http.bounded_http(RequestLimits(head_s=10.0))
    connection = kind.__new__(kind)
    connection.loop = connection.transport = _Wire()
    connection.cycle, connection.timeout_keep_alive_task = cycle, resting
    return connection


def looked_at(connection, now, *, unread=0):
    """Whether it is cut off, from then on."""
    connection.transport.now, connection.transport.unread = now, unread
    connection._look()
    return connection.transport.aborted


def test_each_head_has_its_own_time(monkeypatch):
    first = _Cycle()
    fresh, again = a_connection(monkeypatch), a_connection(monkeypatch, cycle=first)
    busy = a_connection(monkeypatch, cycle=_Cycle(response_complete=False))
    resting = a_connection(monkeypatch, cycle=first, resting=object())
    everybody = [fresh, busy, resting, again]
    assert not any(looked_at(connection, 0.0) for connection in everybody)
    # It has been answered meanwhile, and half of the next head is there: a new one.
    again.cycle = _Cycle()
    assert not any(looked_at(connection, 9.0) for connection in everybody)
    assert [looked_at(connection, 10.0) for connection in everybody] == [True, False, False, False]
    assert [looked_at(connection, 19.0) for connection in everybody[1:]] == [False, False, True]


@pytest.mark.parametrize("is_complete", [False, True])
def test_who_reads_slowly_has_time_as_long_as_it_reads(monkeypatch, is_complete):
    connection = a_connection(monkeypatch, cycle=_Cycle(response_complete=is_complete))
    for now in range(0, 100, 25):
        assert not looked_at(connection, float(now), unread=1000 - now)
    # Half a head that comes meanwhile has to wait for that.
    assert not looked_at(connection, 104.9, unread=925)
    assert looked_at(connection, 105.0, unread=925)


def reads_slowly(connection, stopped):
    """Take a little of what comes, again and again."""
    connection.settimeout(0.05)
    while not stopped.wait(0.02):
        try:
            if not connection.recv(256):
                return
        except TimeoutError:
            pass
        except ConnectionResetError:
            return


def test_who_reads_a_stream_slowly_keeps_no_place_past_its_time(monkeypatch):
    monkeypatch.setattr(completions, "_SLOW_S", 0.5)
    events = stream_events("", pieces=["x" * 100_000] * 300)
    answers = {"a": says("x"), "b": says("x"), "oracle": lambda request: Reply(events=events)}
    settings = GatewaySettings(
        faults=Faults(retries=0, deadline_s=2.0), load=Load(max_concurrency=1, max_queue=0)
    )
    with running_gateway(answers, settings=settings) as gateway, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = gateway.root.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        body = json.dumps(chat_body(model="oracle", stream=True)).encode()
        connection.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        stopped = threading.Event()
        reader = threading.Thread(target=reads_slowly, args=(connection, stopped))
        reader.start()
        try:
            assert soon(lambda: "requests_in_progress 1.0" in gateway.get("/metrics").text)
            assert gateway.post(chat_body()).status_code == 429
            assert soon(lambda: 'status="499"' in gateway.get("/metrics").text, within_s=LATE_S)
            assert gateway.post(chat_body(model="a")).status_code == 200
        finally:
            stopped.set()
            reader.join()
