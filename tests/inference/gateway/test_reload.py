"""Files read anew while requests are answered: good ones answer from then on, bad ones never do."""

import asyncio
import gc
import logging
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from faulty_server import Reply, faulty_server, soon
from running_gateway import KEY, chat_body, fails, running_gateway, says
from served_program import program, write_pyramid

from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.gateway import Gateway
from pyramid_moa.inference.gateway.generations import Generations
from pyramid_moa.inference.gateway.metrics import Metrics
from pyramid_moa.inference.gateway.serve import _settle
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.inference.gateway.upstream import Upstream

ADMIN = "admin-key-0123456789-abcdef"


@pytest.fixture(scope="module")
def servers():
    with (
        faulty_server(says("#### 16")) as a,
        faulty_server(says("#### 8")) as b,
        faulty_server(says("#### 99", delay_s=1.5)) as oracle,
    ):
        yield {"a": a, "b": b, "oracle": oracle}


@pytest.fixture
def addresses(servers):
    return {name: server.base_url for name, server in servers.items()}


def test_files_are_read_anew_without_a_request_noticing(servers, addresses, tmp_path):
    """On SIGHUP and for an administrator: good ones answer from then on, bad ones never do."""
    pyramid = write_pyramid(tmp_path, addresses)
    with (
        faulty_server(says("#### 42")) as other,
        program("--pyramid", str(pyramid), PYRAMID_MOA_ADMIN_KEYS=ADMIN) as (process, url, logged),
        httpx.Client(timeout=20) as client,
    ):

        def answer():
            reply = client.post(f"{url}/chat/completions", json=chat_body())
            assert reply.status_code == 200
            return reply.json()["choices"][0]["message"]["content"]

        def reload(key=ADMIN):
            headers = {"authorization": f"Bearer {key}"}
            return client.post(f"{url.removesuffix('/v1')}/admin/reload", headers=headers)

        early = []
        asker = threading.Thread(target=lambda: early.append(answer()))
        asker.start()
        assert soon(lambda: servers["oracle"].under_way == 1)
        write_pyramid(tmp_path, {**addresses, "oracle": other.base_url})
        process.send_signal(signal.SIGHUP)
        assert soon(lambda: any('"reloaded"' in line for line in logged), within_s=10)
        assert answer() == "#### 42"
        asker.join()
        assert early == ["#### 99"]  # by the oracle that it had been sent to

        pyramid.write_text("members: []")
        assert (reload(key="not-the-admin-key").status_code, reload(KEY).status_code) == (401, 401)
        refused = reload()
        assert refused.status_code == 409
        assert "the one before serves on" in refused.json()["error"]["message"]
        process.send_signal(signal.SIGHUP)
        assert soon(lambda: sum("not reloaded" in line for line in logged) == 2, within_s=10)
        assert answer() == "#### 42"

        write_pyramid(tmp_path, addresses)
        assert reload().json()["status"] == "reloaded"
        assert answer() == "#### 99"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def _is_told(logged, since, said):
    return any("not reloaded" in line and said in line for line in logged[since:])


def test_names_that_can_not_be_served_by_are_no_end_of_it(addresses, tmp_path):
    """Errors that come up only when the new gateway is put together are told as all others."""
    config = tmp_path / "serve.yaml"
    config.write_text("faults: {fallback_oracle: b}")
    pyramid = write_pyramid(tmp_path, addresses)
    arguments = ("--pyramid", str(pyramid), "--config", str(config))
    with program(*arguments, PYRAMID_MOA_ADMIN_KEYS=ADMIN) as (process, url, logged):
        admin = {"authorization": f"Bearer {ADMIN}"}
        for names, said in (({"pyramid": "a"}, "rename it"), ({"c": "b"}, "fallback_oracle")):
            renamed = {own: addresses[old] for own, old in names.items()}
            kept = {name: url for name, url in addresses.items() if name not in names.values()}
            write_pyramid(tmp_path, {**renamed, **kept})
            before = len(logged)
            process.send_signal(signal.SIGHUP)
            assert soon(partial(_is_told, logged, before, said), within_s=20)
            refused = httpx.post(
                f"{url.removesuffix('/v1')}/admin/reload", headers=admin, timeout=20
            )
            assert refused.status_code == 409
            assert said in refused.json()["error"]["message"]
            reply = httpx.post(f"{url}/chat/completions", json=chat_body(), timeout=20)
            assert reply.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in "".join(logged)


def test_readiness_is_told_of_the_gateway_that_was_asked(tmp_path):
    """A reload in the middle of it neither breaks it off nor closes what it looks at."""

    def slow(request):
        if request.body is None:
            return Reply(body={"data": [{"id": "m"}]}, delay_s=1.0)
        return says("#### 16")(request)

    with faulty_server(slow) as server:
        addresses = {"a": server.base_url, "oracle": server.base_url}
        pyramid = write_pyramid(tmp_path, addresses)
        with (
            program("--pyramid", str(pyramid), PYRAMID_MOA_ADMIN_KEYS=ADMIN) as (_, url, logged),
            ThreadPoolExecutor() as pool,
        ):
            root = url.removesuffix("/v1")
            looked = len(server.requests)
            asked = pool.submit(httpx.get, f"{root}/readyz", timeout=20)
            assert soon(lambda: len(server.requests) >= looked + 2)
            admin = {"authorization": f"Bearer {ADMIN}"}
            reloaded = httpx.post(f"{root}/admin/reload", headers=admin, timeout=20)
            assert reloaded.status_code == 200
            ready = asked.result()
            assert ready.status_code == 200
            assert ready.json()["models"] == {"a": "ok", "oracle": "ok"}
        assert "Traceback" not in "".join(logged)


def test_a_hang_up_while_models_are_loaded_is_no_end_of_it(tmp_path):
    def slow(request):
        if request.body is None:
            return Reply(body={"data": [{"id": "m"}]}, delay_s=1.0)
        return says("#### 16")(request)

    with faulty_server(slow) as server:
        pyramid = write_pyramid(tmp_path, {"a": server.base_url, "oracle": server.base_url})

        def hang_up(process):
            assert soon(lambda: server.under_way, within_s=60)
            process.send_signal(signal.SIGHUP)

        with program("--pyramid", str(pyramid), early=hang_up) as (process, url, _):
            reply = httpx.post(f"{url}/chat/completions", json=chat_body(), timeout=20)
            assert reply.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


class _Gate:
    def __init__(self):
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


class _Gateway:
    has_own_models = False

    def __init__(self, gate):
        self.gate = gate

    async def close(self):
        await asyncio.sleep(0)


class _Stuck(_Gateway):
    async def close(self):
        raise OSError("a connection that can't be closed")


def test_models_are_closed_whatever_becomes_of_their_connections(caplog):
    first, second, told = _Gate(), _Gate(), threading.Event()

    async def ends():
        generations = Generations(first, _Stuck, retired=told.set)
        await generations.swap(lambda: second)
        with pytest.raises(OSError, match="a connection"):
            await generations.close()

    asyncio.run(asyncio.wait_for(ends(), 20))
    assert first.closed.is_set()
    assert second.closed.is_set()
    assert told.is_set()
    assert "could not be closed" in caplog.text


def test_who_looks_after_the_models_is_gone_before_their_connections(monkeypatch):
    looked = []

    async def looks(gate):
        gateway = Gateway(gate, GatewaySettings(), Metrics())
        close = Upstream.close

        async def noted(upstream):
            looked.append(gateway._checked[1].done())
            await close(upstream)

        monkeypatch.setattr(Upstream, "close", noted)
        asked = asyncio.ensure_future(gateway.states())
        await asyncio.sleep(0.05)
        await gateway.close()
        with pytest.raises(asyncio.CancelledError):
            await asked

    slow = fails(Reply(body={"data": [{"id": "m"}]}, delay_s=20.0))
    with running_gateway({"a": slow, "oracle": slow}) as gateway:
        asyncio.run(asyncio.wait_for(looks(gateway.gate), 20))
        assert looked == [True, True]


def test_a_fault_while_files_are_read_is_logged_and_changes_nothing(caplog):
    """Whatever it is; what was opened by then is closed again."""
    fresh, told = _Gate(), []

    def broken():
        raise RuntimeError("a fault of the reader's")

    def build(gate):
        if gate is fresh:
            raise ConfigError("a name that can't be served by")
        return _Gateway(gate)

    async def reloads():
        first = _Gate()
        generations = Generations(first, build, retired=lambda: told.append("retired"))
        for open_gate, kind in ((broken, RuntimeError), (lambda: fresh, ConfigError)):
            with pytest.raises(kind):
                await generations.swap(open_gate)
            assert generations.now.gate is first
        assert fresh.closed.is_set()
        assert told == []
        async with generations.using():
            await generations.swap(_Gate)
            await asyncio.sleep(0.05)
            assert told == []  # somebody still uses the one before
        while not told:
            await asyncio.sleep(0.01)
        assert first.closed.is_set()
        await generations.close()

    with caplog.at_level(logging.ERROR, logger="pyramid_moa"):
        asyncio.run(asyncio.wait_for(reloads(), 20))
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "not reloaded" in line]) == 2


@pytest.mark.parametrize("is_given_up", [False, True])
def test_what_is_loaded_when_the_end_comes_is_closed(is_given_up):
    """Whether or not somebody still waits for it."""
    first, fresh = _Gate(), _Gate()
    loads, go_on = threading.Event(), threading.Event()

    def slow():
        loads.set()
        assert go_on.wait(20)
        return fresh

    async def ends():
        generations = Generations(first, _Gateway)
        swap = asyncio.ensure_future(generations.swap(slow))
        await asyncio.to_thread(loads.wait, 20)
        if is_given_up:
            swap.cancel()
        closing = asyncio.ensure_future(generations.close())
        await asyncio.sleep(0.05)
        go_on.set()
        await closing
        with pytest.raises(asyncio.CancelledError if is_given_up else ConfigError):
            await swap
        with pytest.raises(ConfigError, match="one that ends"):
            await generations.swap(_Gate)

    asyncio.run(asyncio.wait_for(ends(), 20))
    assert first.closed.is_set()
    assert fresh.closed.is_set()


class _OwnModels(_Gateway):
    has_own_models = True


def test_reloads_that_come_while_one_waits_are_one():
    opened, loads, go_on = [], threading.Event(), threading.Event()

    def slow():
        opened.append(_Gate())
        loads.set()
        assert go_on.wait(20)
        return opened[-1]

    async def reloads():
        generations = Generations(_Gate(), _Gateway)
        under_way = asyncio.ensure_future(generations.swap(slow))
        await asyncio.to_thread(loads.wait, 20)
        late = [asyncio.ensure_future(generations.swap(slow)) for _ in range(5)]
        await asyncio.sleep(0.05)
        late[0].cancel()  # whoever else waits still gets it
        go_on.set()
        await asyncio.gather(under_way, *late[1:])
        assert len(opened) == 2
        assert generations.now.gate is opened[-1]
        await generations.swap(slow)
        assert len(opened) == 3
        await generations.close()

    asyncio.run(asyncio.wait_for(reloads(), 20))
    assert all(gate.closed.is_set() for gate in opened)


@pytest.mark.parametrize(("build", "most"), [(_OwnModels, 2), (_Gateway, 3)])
def test_models_of_this_process_are_there_twice_at_most(build, most):
    gates = []

    def fresh():
        gates.append(_Gate())
        return gates[-1]

    async def reloads():
        generations = Generations(fresh(), build)
        async with generations.using():
            await generations.swap(fresh)
            again = asyncio.ensure_future(generations.swap(fresh))
            await asyncio.wait([again], timeout=0.2)
            assert len(gates) == most
            assert not gates[0].closed.is_set()
        await again
        assert len(gates) == 3
        await generations.close()

    asyncio.run(asyncio.wait_for(reloads(), 20))
    assert all(gate.closed.is_set() for gate in gates)


class _Thing:
    pass


def test_what_a_reload_has_replaced_is_given_up():
    """What was taken out of the look for garbage is looked at once more, and what stays is not."""
    ring = _Thing()
    ring.self = ring
    seen = weakref.ref(ring)
    gc.freeze()
    try:
        del ring
        gc.collect()
        assert seen() is not None
        _settle()
        assert seen() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
