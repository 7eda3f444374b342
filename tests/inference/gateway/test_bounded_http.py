"""What is not HTTP, or too much of it, over a plain socket."""

import contextlib
import json
import socket

import pytest
from running_gateway import running_gateway, says

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
