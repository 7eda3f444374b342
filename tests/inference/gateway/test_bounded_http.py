"""What is not HTTP, or too much of it, over a plain socket."""

import contextlib
import json
import re
import socket
import time

import pytest
from faulty_server import soon
from running_gateway import chat_body, running_gateway, says

from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings, RequestLimits

MOST = 4096
# More than what systems keep for a program that does not read.
_MUCH = 64 << 20
LIMITS = GatewaySettings(faults=Faults(retries=0), requests=RequestLimits(header_bytes=MOST))
HEAD = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def gateway():
    answers = {name: says("#### 16") for name in ("a", "b", "oracle")}
    with running_gateway(answers, settings=LIMITS) as gateway:
        yield gateway


def connected(gateway):
    host, port = gateway.root.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def told(gateway, said):
    """What the gateway answers to something that is sent at once."""
    answer = b""
    with connected(gateway) as connection:
        connection.sendall(said)
        while more := connection.recv(65536):
            answer += more
    return answer


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"x: " + b"y" * MOST + b"\r\n\r\n",
        HEAD + b"x-padding: yyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 150 + b"\r\n",
        b"GET /" + b"a" * MOST + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
    ids=["header", "headers", "address"],
)
def test_a_head_that_is_too_large_is_refused(gateway, said):
    head, _, body = told(gateway, said).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"connection: close" in head
    assert json.loads(body)["error"]["code"] == "head_too_large"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (HEAD + b"x: ", b"y" * 1000),
        (HEAD, b"x" * 1000),
        (HEAD, b"x: y\r\n" * 100),
        (b"GET /", b"a" * 1000),
        (CHUNKED + b"1;", b"e" * 1000),
    ],
    ids=["value", "name", "headers", "address", "chunk extension"],
)
def test_what_never_ends_is_cut_off(gateway, begin, more):
    sent = 0
    with connected(gateway) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(begin)
        while sent < _MUCH:
            connection.sendall(more)
            sent += len(more)
    assert sent < _MUCH
    assert gateway.get("/healthz").is_success


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01 hello\r\n\r\n", b"GET\r\n\r\n", b"GET /\xe9 HTTP/1.1\r\nhost: x\r\n\r\n"],
)
def test_what_is_no_http_gets_an_error_as_clients_know_it(gateway, said):
    head, _, body = told(gateway, said).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_head_within_the_limit_passes_again_and_again(gateway):
    padded = HEAD + b"x: " + b"y" * (MOST - 500) + b"\r\n\r\n"
    with connected(gateway) as connection:
        for _ in range(3):
            for start in range(0, len(padded), 1000):
                connection.sendall(padded[start : start + 1000])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_large_body_is_no_head(gateway):
    text = "How many legs have two spiders?" + " " * 20 * MOST
    assert gateway.ask(text).choices[0].message.content == "#### 16"


def completion(**fields):
    body = json.dumps(chat_body(model="oracle", **fields)).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % len(body) + body


@pytest.mark.parametrize(
    "ahead",
    [HEAD + b"\r\n", completion(), b"\x16\x03", b"GET /" + b"a" * 2 * MOST],
    ids=["request", "one with a body", "no HTTP", "too large a head"],
)
def test_what_comes_ahead_of_an_answer_leaves_it_whole_and_is_not_answered(gateway, ahead):
    """Clients that ask ahead are told by the closing to ask again."""
    head, _, body = told(gateway, completion() + ahead).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head
    assert json.loads(body)["choices"][0]["message"]["content"] == "#### 16"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_asks_ahead_is_seen_to_hang_up_and_fills_no_memory(stream):
    slow = says("yyy" * 100, delay_s=20.0) if not stream else says("y" * 1000, token_s=0.1)
    with running_gateway({"a": says("x"), "oracle": slow}) as gateway:
        oracle, connections = gateway.servers["oracle"], gateway.server.server_state.connections
        with connected(gateway) as connection:
            connection.sendall(completion(stream=stream))
            assert soon(lambda: oracle.under_way == 1, within_s=10)
            connection.sendall((HEAD + b"\r\n") * 50_000)
            assert [len(known.pipeline) for known in connections] == [0]
        assert oracle.hung_up.wait(10)
        assert soon(lambda: not connections, within_s=10)
        assert soon(lambda: 'status="499"' in gateway.get("/metrics").text, within_s=10)


OFFER = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
)


def offering(request):
    """The request with an offer of another protocol, as Java's client makes it."""
    head, _, body = request.partition(b"\r\n\r\n")
    return head + b"\r\n" + OFFER + b"\r\n", body


def in_chunks(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:], b""))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_who_offers_another_protocol_is_answered_as_if_not(gateway, apart, chunked):
    head, body = offering(completion())
    if chunked:
        head = re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", head)
        body = in_chunks(body)
    with connected(gateway) as connection:
        connection.settimeout(10)
        # On one connection, on which it goes on as ever.
        for _ in range(3):
            connection.sendall(head if apart else head + body)
            if apart:
                time.sleep(0.05)
                connection.sendall(body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(completion())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_offer_without_a_body_is_declined_too(gateway):
    offers = HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with connected(gateway) as connection:
        connection.settimeout(10)
        for asked in (offers, offers, HEAD + b"\r\n"):
            connection.sendall(asked)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_comes_behind_an_offer_is_bounded_as_ever(gateway):
    offers = HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with connected(gateway) as connection:
        connection.settimeout(10)
        connection.sendall(offers)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD + b"x: " + b"y" * MOST + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
