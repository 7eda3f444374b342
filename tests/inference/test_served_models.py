"""What ``up`` serves, and what it refuses before anything is started."""

import socket
import sys

import pytest
from processes import free_port

from pyramid_moa.backends import ModelSpec
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.served_models import (
    claimed_ports,
    devices_of,
    served_models,
    shared_devices,
)


def entry(name="small", **fields):
    return ModelSpec(**{"name": name, "model": f"m/{name}", "backend": "vllm", **fields})


def pyramid(*members, oracle=None):
    return Pyramid(members=list(members), oracles=[oracle or ModelSpec(name="big", model="m/big")])


def refusal(*members, oracle=None):
    with pytest.raises(ConfigError) as refused:
        served_models(pyramid(*members, oracle=oracle))
    return str(refused.value)


def test_the_entries_with_a_port_in_the_pyramids_order():
    served = pyramid(
        entry("one", port=8001),
        entry("two"),
        entry("three", port=8000, backend="openai"),
        oracle=entry("big", port=8070),
    )
    assert [spec.name for spec in served_models(served)] == ["one", "three", "big"]


def test_mid_oracles_are_served_as_all_others():
    oracles = [entry("mid", port=8040), entry("big", port=8070)]
    served = Pyramid(members=[entry("one", port=8001)], oracles=oracles)
    assert [spec.name for spec in served_models(served)] == ["one", "mid", "big"]


def test_no_entry_with_a_port():
    message = refusal(entry("one"), entry("two"))
    assert "expected entries with a port, found none among one, two, big" in message
    assert "port: 8001" in message


def test_two_entries_with_one_port():
    message = refusal(entry("one", port=8001), entry("two", port=8001))
    assert message == "port 8001: expected one model, found one, two; give each a port of its own"


def test_only_on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "expected Linux" in refusal(entry(port=8001))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"port": 1, "model": "-x"}, "model: expected no dash at its beginning"),
        ({"port": 1, "extra_args": ["--host", "0.0.0.0"]}, "extra_args: --host can't be given"),
        ({"port": 1, "extra_args": ["--api_key=sk-secret"]}, "--api-key can't be given"),
        ({"port": 1, "extra_args": ["--api-k", "sk-secret"]}, "--api-k can't be given"),
        ({"port": 1, "extra_args": ["--api_k=sk-secret"]}, "--api-k can't be given"),
        ({"port": 1, "extra_args": ["--ud=/tmp/x"]}, "--ud can't be given"),
    ],
)
def test_what_cannot_be_served(fields, problem):
    message = refusal(entry(**fields))
    assert f"model 'small': {problem}" in message or problem in message
    assert "sk-secret" not in message


def test_flags_that_begin_like_none_of_its_own_are_left_to_vllm():
    words = ["--seed", "1", "--enforce-eager", "--hf-overrides", "{}", "--", "-O1"]
    assert served_models(pyramid(entry(port=1, extra_args=words)))


def test_all_problems_together():
    message = refusal(
        entry("-one", port=8000), entry("two", port=8001), entry("x", port=8001, model="-y")
    )
    assert message.count("; ") >= 2
    assert "found '-one'" in message
    assert "found '-y'" in message
    assert "found two, x" in message


def test_models_that_share_a_gpu_are_named():
    one = entry("one", port=1, devices=[0, 1])
    two = entry("two", port=2, devices=[1, 2])
    three = entry("three", port=3, devices=[3])
    four = entry("four", port=4, tensor_parallel_size=4)
    assert devices_of(four) == [0, 1, 2, 3]
    assert shared_devices([one, three]) == []
    (sentence,) = shared_devices([one, two, three])
    assert sentence.startswith("one and two share GPU 1: ")
    assert "--gpu-memory-utilization" in sentence
    assert [text.split(":")[0] for text in shared_devices([one, four])] == [
        "one and four share GPU 0, 1"
    ]


class TestPorts:
    def test_free_ones_are_held_until_the_end(self):
        spec = entry(port=free_port())
        with claimed_ports([spec]) as claims:
            assert list(claims) == ["small"]
            with (
                pytest.raises(ConfigError, match="served by another pyramid-moa up"),
                claimed_ports([entry("other", port=spec.port)]),
            ):
                pytest.fail("claimed twice")
        with claimed_ports([spec]):
            pass

    def test_all_that_are_in_use_are_named(self):
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
            ports = [sock.getsockname()[1] for sock in (one, two)]
            specs = [
                entry("one", port=ports[0]),
                entry("free", port=free_port()),
                entry("two", port=ports[1]),
            ]
            with pytest.raises(ConfigError) as refused, claimed_ports(specs):
                pytest.fail("claimed ports in use")
        message = str(refused.value)
        assert f"port {ports[0]} (one): address already in use" in message
        assert f"port {ports[1]} (two): address already in use" in message
        assert "free)" not in message

    def test_connections_that_have_not_quite_ended_do_not_count(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            # Closed first by the server: its side waits in TIME_WAIT.
            accepted.close()
            assert client.recv(1) == b""
            client.close()
        with claimed_ports([entry(port=port)]) as claims:
            assert claims
