"""The HTTP client of model servers: where it sends what, and when it sends it again."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from faulty_server import Reply, Request, faulty_server, stream_events

from pyramid_moa.backends import ModelSpec
from pyramid_moa.backends.openai_client import OpenAIClient, _trusted
from pyramid_moa.backends.openai_endpoint import endpoint_of
from pyramid_moa.backends.openai_errors import (
    ServerError,
    StatusError,
    TooSlowError,
    UnreachableError,
)
from pyramid_moa.errors import ConfigError

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def client_of(base_url: str, **options: Any) -> OpenAIClient:
    spec = ModelSpec(name="m", model="x", backend="openai", base_url=base_url)
    given = {"max_concurrency": 4, "timeout_s": 5.0, "max_retries": 0}
    given |= {"longest_pause_s": 120.0, **options}
    return OpenAIClient(endpoint_of(spec), **given)


def run(base_url: str, work: Callable[[OpenAIClient], Awaitable[Any]], **options: Any) -> Any:
    async def inside() -> Any:
        client = client_of(base_url, **options)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inside())


async def post(client: OpenAIClient) -> bytes:
    return await client.post("/completions", lambda: b"{}")


def replies(*given: Reply) -> Callable[[Request], Reply]:
    """A server that gives these in turn, the last of them for ever."""
    rest = list(given)
    return lambda request: rest.pop(0) if len(rest) > 1 else rest[0]


async def events_of(client: OpenAIClient) -> list[bytes]:
    return [data async for data in client.stream("/completions", lambda: b"{}")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


class EndingServer:
    """Streams one event and the last one, and ends its HTTP when it is told to."""

    def __init__(self) -> None:
        self.base_url = ""
        self.connections = 0
        self.may_end = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for data in (b"data: {}\n\n", b"data: [DONE]\n\n"):
                    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                gone = asyncio.ensure_future(reader.read(1))
                end = asyncio.ensure_future(self.may_end.wait())
                await asyncio.wait({gone, end}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    break
                gone.cancel()
                await asyncio.wait({gone})
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.hung_up.set()
        writer.close()


@asynccontextmanager
async def ending_server() -> AsyncIterator[EndingServer]:
    seen = EndingServer()
    async with await asyncio.start_server(seen.serve, "127.0.0.1", 0) as server:
        seen.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield seen


class TestWhere:
    @pytest.mark.parametrize(
        ("suffix", "path"),
        [
            ("", "/v1/completions"),
            ("/", "/v1/completions"),
            ("?version=2&a=b", "/v1/completions?version=2&a=b"),
            ("/#part", "/v1/completions"),
        ],
    )
    def test_paths_and_queries_go_where_they_belong(self, suffix: str, path: str) -> None:
        with faulty_server(lambda request: {}) as server:
            run(server.base_url + suffix, post)
        assert [request.path for request in server.requests] == [path]

    def test_user_and_password_of_the_address_are_credentials(self) -> None:
        with faulty_server(lambda request: {}) as server:
            run(server.base_url.replace("//", "//me:p%40ss@"), post)
        assert server.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="

    def test_credentials_of_other_programs_are_not_sent(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with faulty_server(lambda request: {}) as server:
            run(server.base_url, post)
        assert server.requests[0].headers["authorization"] == "Bearer none"

    @pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
    def test_a_proxy_gets_its_own_credentials(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        with faulty_server(lambda request: {}) as proxy:
            where = proxy.base_url.removesuffix("/v1").replace("//", "//me:p%40ss@")
            monkeypatch.setenv(variable, where)
            run("http://pyramid.invalid/v1", post)
        (request,) = proxy.requests
        assert request.path == "http://pyramid.invalid/v1/completions"
        assert request.headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
        assert request.headers["authorization"] == "Bearer none"

    def test_a_tunnel_is_asked_for_https_and_shown_no_key(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heads: list[bytes] = []

        def answer(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection:
                heads.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass@127.0.0.1:{port}")
            with pytest.raises(UnreachableError, match="the proxy answered 407"):
                run("https://pyramid.invalid/v1", post)
            thread.join(5)
        assert heads[0].startswith(b"CONNECT pyramid.invalid:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in heads[0]
        assert b"Bearer" not in heads[0]

    def test_what_no_proxy_names_is_reached_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "pyramid.invalid")
        with pytest.raises(UnreachableError, match=r"^(?!the proxy)"):
            run("http://pyramid.invalid/v1", post)
        monkeypatch.delenv("NO_PROXY")
        with pytest.raises(UnreachableError, match=r"^the proxy: "):
            run("http://pyramid.invalid/v1", post)

    def test_a_proxy_of_another_kind_is_refused_without_its_password(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks5://me:hidden@127.0.0.1:1080")
        with pytest.raises(ConfigError, match="expected the address of an HTTP proxy") as caught:
            client_of("http://pyramid.invalid/v1")
        assert "hidden" not in str(caught.value)


class TestAgain:
    @pytest.mark.parametrize(
        ("reply", "tries"),
        [
            (Reply(status=500), 3),
            (Reply(status=429), 3),
            (Reply(status=408), 3),
            (Reply(status=400), 1),
            (Reply(status=401), 1),
            (Reply(status=404), 1),
            (Reply(status=307), 1),
            (Reply(status=400, headers={"x-should-retry": "true"}), 3),
            (Reply(status=500, headers={"x-should-retry": "false"}), 1),
            (Reply(status=503, headers={"retry-after": "3600"}), 1),
            (Reply(status=503, headers={"retry-after": "3600", "x-should-retry": "true"}), 1),
            (Reply(status=503, headers={"retry-after": "soon"}), 3),
            (Reply(status=503, headers={"retry-after": "nan"}), 3),
            (Reply(cut_at=-1), 3),
        ],
        ids=str,
    )
    def test_what_may_pass_is_tried_again(
        self, monkeypatch: pytest.MonkeyPatch, reply: Reply, tries: int
    ) -> None:
        monkeypatch.setattr("pyramid_moa.backends.openai_client._FIRST_PAUSE_S", 0.001)
        bodies = iter([b"{}", b'{"again": 1}', b'{"again": 2}'])

        async def work(client: OpenAIClient) -> None:
            with pytest.raises(ServerError):
                await client.post("/completions", lambda: next(bodies))

        with faulty_server(lambda request: reply) as server:
            run(server.base_url, work, max_retries=2)
        assert [request.body for request in server.requests] == [{}, {"again": 1}, {"again": 2}][
            :tries
        ]

    @pytest.mark.parametrize(
        ("headers", "least_s"),
        [
            ({"retry-after": "1"}, 1.0),
            ({"retry-after-ms": "1000", "retry-after": "60"}, 1.0),
            ({}, 0.375),
        ],
    )
    def test_the_server_says_how_long_to_wait(
        self, headers: dict[str, str], least_s: float
    ) -> None:
        busy = Reply(status=503, headers=headers)
        with faulty_server(replies(busy, Reply(body={"id": 1}))) as server:
            begun = time.monotonic()
            assert run(server.base_url, post, max_retries=1) == b'{"id": 1}'
        assert time.monotonic() - begun >= least_s

    def test_no_wait_is_longer_than_the_longest(self) -> None:
        async def work(client: OpenAIClient) -> StatusError:
            with pytest.raises(StatusError) as caught:
                await client.post("/completions", lambda: b"{}")
            return caught.value

        busy = Reply(status=429, headers={"retry-after": "60"})
        with faulty_server(lambda request: busy) as server:
            begun = time.monotonic()
            error = run(server.base_url, work, max_retries=2, longest_pause_s=2.0)
        assert time.monotonic() - begun < 30
        assert (error.status, error.retry_after_s) == (429, 60.0)
        assert len(server.requests) == 1

    def test_its_own_waits_are_no_longer_either(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
            monkeypatch.setattr(f"pyramid_moa.backends.openai_client.{name}", 30.0)
        with faulty_server(replies(Reply(status=503), Reply(body={"id": 1}))) as server:
            begun = time.monotonic()
            assert run(server.base_url, post, max_retries=1, longest_pause_s=0.01)
        assert time.monotonic() - begun < 15

    def test_a_date_is_a_wait(self) -> None:
        in_a_minute = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
        wait = StatusError(503, {"retry-after": in_a_minute}, b"").retry_after_s
        assert wait == pytest.approx(60, abs=30)
        assert StatusError(503, {"retry-after": "Mon, 99"}, b"").retry_after_s is None

    def test_a_stream_is_tried_again_before_it_has_begun(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyramid_moa.backends.openai_client._FIRST_PAUSE_S", 0.001)

        async def work(client: OpenAIClient) -> list[bytes]:
            return [data async for data in client.stream("/completions", lambda: b"{}")]

        good = Reply(events=stream_events("ab"))
        with faulty_server(replies(Reply(status=500), Reply(cut_at=-1), good)) as server:
            assert len(run(server.base_url, work, max_retries=2)) == 4


class TestConnections:
    def test_they_are_used_again(self) -> None:
        async def work(client: OpenAIClient) -> None:
            for _ in range(3):
                await post(client)

        with faulty_server(lambda request: {}) as server:
            run(server.base_url, work)
        assert server.connections == 1

    def test_they_are_used_again_after_streams_that_end_late(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last event and the end of HTTP come apart, and nobody waits for the second."""
        monkeypatch.setattr("pyramid_moa.backends.openai_client._END_S", 30.0)

        async def work() -> int:
            async with ending_server() as server:
                client = client_of(server.base_url)
                for _ in range(3):
                    server.may_end.clear()
                    assert await events_of(client) == [b"{}"]
                    server.may_end.set()
                    await until(lambda: not client._ending)
                await client.close()
                return server.connections

        assert asyncio.run(work()) == 1

    @pytest.mark.parametrize("ends_s", [0.05, 30.0])
    def test_a_stream_that_does_not_end_is_hung_up_on(
        self, monkeypatch: pytest.MonkeyPatch, ends_s: float
    ) -> None:
        """After a while, and at once where the client is closed."""
        monkeypatch.setattr("pyramid_moa.backends.openai_client._END_S", ends_s)

        async def work() -> None:
            async with ending_server() as server:
                client = client_of(server.base_url)
                assert await events_of(client) == [b"{}"]
                if ends_s > 1:
                    await client.close()
                await asyncio.wait_for(server.hung_up.wait(), 15)
                await client.close()

        asyncio.run(work())

    def test_an_error_page_of_a_stream_that_never_ends_runs_out_of_time(self) -> None:
        async def work(client: OpenAIClient) -> None:
            async for _ in client.stream("/completions", lambda: b"{}"):
                raise AssertionError("expected no event")

        drip = Reply(status=500, body=b"x" * 1000, drip_s=0.05)
        with faulty_server(lambda request: drip) as server, pytest.raises(TooSlowError):
            run(server.base_url, work, timeout_s=0.3)

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            (b"this is no HTTP\r\n\r\n", "something that is no HTTP"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "broke off"),
        ],
    )
    def test_why_a_connection_failed_is_said_without_an_address(
        self, said: bytes, why: str
    ) -> None:
        def answer(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            with pytest.raises(UnreachableError, match=why) as caught:
                run(f"http://127.0.0.1:{port}/v1", post)
            thread.join(5)
        assert "127.0.0.1" not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{}/v1", "http://pyramid.invalid:{}/v1"])
    def test_nobody_there_is_said_without_an_address(self, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(UnreachableError) as caught:
            run(url.format(port), post)
        assert "127.0.0.1" not in str(caught.value)
        assert "invalid" not in str(caught.value)
        assert str(port) not in str(caught.value)


class TestTrust:
    @pytest.mark.parametrize("named", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_mozillas_list_is_trusted_where_no_other_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, named: str | None
    ) -> None:
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "none.pem").touch()
        if named is not None:
            monkeypatch.setenv(named, str(tmp_path / "none.pem"))
        # As on a machine without a list of its own.
        monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *args: None)
        assert bool(_trusted().get_ca_certs()) is (named is None)
