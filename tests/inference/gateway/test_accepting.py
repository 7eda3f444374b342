"""Many connections at once, more than there may be, and room for them."""

import asyncio
import errno
import resource
import socket
import subprocess
import sys

import pytest
import uvloop

from pyramid_moa.inference.gateway.accepting import Acceptor
from pyramid_moa.inference.gateway.serve import _listening

WAITING = 100


class Connection(asyncio.Protocol):
    """Says who has been taken in and has not gone."""

    def __init__(self, there):
        self.there = there

    def connection_made(self, transport):
        self.transport = transport
        self.there.append(self)

    def connection_lost(self, error):
        self.there.remove(self)


class Full:
    """A listener at which there is no file left for a while."""

    def __init__(self, listener, times):
        self.listener, self.times = listener, times

    def accept(self):
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()

    def __getattr__(self, name):
        return getattr(self.listener, name)


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def with_clients(body, *, most=10_000, closes=True, times=0):
    """Run the body once as many have connected, none of whom has been taken in."""

    async def run():
        there, room = [], []

        def make_room():
            room.append(len(there))
            for connection in there[:10] if closes else ():
                connection.transport.close()

        with _listening("127.0.0.1", 0) as listener:
            acceptor = Acceptor(
                Full(listener, times) if times else listener,
                protocol=lambda: Connection(there),
                connections=there,
                most=most,
                make_room=make_room,
            )
            clients = [socket.create_connection(listener.getsockname()) for _ in range(WAITING)]
            try:
                await body(there, room)
            finally:
                acceptor.close()
                for client in clients:
                    client.close()
                for connection in there:
                    connection.transport.abort()
                await until(lambda: not there)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_all_who_wait_are_taken_in_before_the_loop_has_come_round_often():
    async def body(there, room):
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(there) == WAITING
        assert not room

    with_clients(body)


def test_where_as_many_are_open_as_there_may_be_those_who_rest_make_room(caplog):
    async def body(there, room):
        await until(lambda: len(room) >= 3)
        assert max(room) <= 30
        assert len(there) <= 30

    with_clients(body, most=30)
    # Said once, not every time.
    assert [record.getMessage() for record in caplog.records] == [
        "new connections wait: 30 connections are open, as many as there may be"
    ]


def test_without_room_the_others_wait():
    async def body(there, room):
        await until(lambda: room)
        await asyncio.sleep(0.3)
        assert len(there) == 30
        for connection in there[:20]:
            connection.transport.close()
        await until(lambda: len(room) > 3 and len(there) == 30)

    with_clients(body, most=30, closes=False)


def test_without_a_file_to_open_it_tries_again(caplog):
    async def body(there, room):
        await until(lambda: len(there) == WAITING)
        assert room == [0, 0]

    with_clients(body, times=2)
    assert "new connections wait: Too many open files" in caplog.text


def test_nobody_is_taken_in_after_the_end():
    async def run():
        there = []
        with _listening("127.0.0.1", 0) as listener:
            acceptor = Acceptor(
                listener,
                protocol=lambda: Connection(there),
                connections=there,
                most=0,
                make_room=lambda: None,
            )
            with socket.create_connection(listener.getsockname()):
                await asyncio.sleep(0.05)
                acceptor.close()
                await asyncio.sleep(0.2)
        assert not there

    asyncio.run(run())


@pytest.mark.parametrize(("soft", "hard"), [(64, 500), (64, 64)])
def test_as_many_files_may_be_open_as_the_system_lets(soft, hard):
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard
    code = (
        "import resource\n"
        "from pyramid_moa.inference.gateway.open_files import raise_open_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(hard)] * 3
