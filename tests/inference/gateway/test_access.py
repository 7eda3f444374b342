"""Who may ask: keys, addresses, names."""

import hmac

import httpx
import pytest
from running_gateway import KEY, QUICK, chat_body, running_gateway, says

from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway import access as access_module
from pyramid_moa.inference.gateway.access import (
    Door,
    check_bind,
    is_loopback,
    read_admin_keys,
    read_keys,
)
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.settings import Access, GatewaySettings

AGREE = {"a": says("#### 16"), "b": says("#### 16"), "oracle": says("#### 99")}
OTHER = "another-key-9876543210"


@pytest.fixture(scope="module")
def locked():
    with running_gateway(AGREE, keys=[OTHER, KEY]) as gateway:
        yield gateway


def test_with_keys_nobody_passes_without_one(locked):
    assert locked.ask().choices[0].message.content == "#### 16"
    assert locked.post(chat_body(), headers={"authorization": f"bearer {OTHER}"}).is_success
    for header in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {KEY}"}):
        for reply in (
            locked.post(chat_body(), headers=header),
            locked.post({"model": "pyramid", "prompt": "?"}, "/v1/completions", headers=header),
            locked.get("/v1/models", headers=header),
            locked.get("/v1/models/a", headers=header),
            locked.get("/metrics", headers=header),
        ):
            assert reply.status_code == 401
            assert reply.json()["error"]["type"] == "authentication_error"
            assert reply.headers["www-authenticate"] == "Bearer"
    assert locked.get("/metrics", headers={"authorization": f"Bearer {KEY}"}).is_success


def test_a_request_without_a_key_is_not_even_read(locked):
    reply = httpx.post(f"{locked.base_url}/chat/completions", content=b"{" * 100)
    assert reply.status_code == 401


def test_health_and_readiness_need_no_key(locked):
    assert locked.get("/healthz").json()["status"] == "ok"
    assert locked.get("/readyz").json()["models"] == {"a": "ok", "b": "ok", "oracle": "ok"}


def test_every_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest

    def compare(one, other):
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(access_module.hmac, "compare_digest", compare)
    door = Door([OTHER, KEY], Access())
    door.check({"authorization": f"Bearer {OTHER}"})
    with pytest.raises(ApiError):
        door.check({"authorization": "Bearer é"})
    # All keys each time, and digests of one length, whatever was sent.
    assert compared == [(32, 32)] * 4


def test_without_keys_only_this_machines_own_names_pass():
    settings = GatewaySettings(faults=QUICK, access=Access(host_names=["gateway.lan"]))
    with running_gateway(AGREE, settings=settings) as gateway:
        for host in ("localhost", "127.0.0.1:80", "[::1]:80", "Gateway.LAN:8800"):
            assert gateway.post(chat_body(), headers={"host": host}).is_success
        for host in ("evil.example", "localhost.evil.example", ""):
            reply = gateway.post(chat_body(), headers={"host": host})
            assert reply.status_code == 403
            assert reply.json()["error"]["code"] == "unknown_host"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "my-host"])
def test_other_machines_are_not_served_without_keys(host):
    with pytest.raises(ConfigError, match=r"expected API keys.*PYRAMID_MOA_API_KEYS"):
        check_bind(host, Access(), keys=False)
    check_bind(host, Access(), keys=True)
    check_bind(host, Access(allow_unauthenticated=True), keys=False)


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "localhost.example", "1270.0.0.1")))
    check_bind("localhost", Access(), keys=False)


def test_keys_come_from_the_environment_and_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# whose it is\n{OTHER}\n\n")
    access = Access(api_keys_env="MY_KEYS", api_keys_file=str(path))
    assert read_keys(access, {"MY_KEYS": f" {KEY} ,,"}) == [KEY, OTHER]
    assert read_keys(Access(), {}) == []


def test_an_administrators_keys_are_nobody_elses():
    environ = {"PYRAMID_MOA_ADMIN_KEYS": OTHER, "PYRAMID_MOA_API_KEYS": KEY}
    assert read_admin_keys(Access(), environ) == [OTHER]
    assert read_admin_keys(Access(), {}) == []
    with pytest.raises(ConfigError, match="that clients have too"):
        read_admin_keys(Access(), environ | {"PYRAMID_MOA_ADMIN_KEYS": KEY})


def test_keys_that_are_none_are_refused_unseen(tmp_path):
    with pytest.raises(ConfigError, match="at least 16") as caught:
        read_keys(Access(), {"PYRAMID_MOA_API_KEYS": f"{KEY},hunter2"})
    assert "hunter2" not in str(caught.value)
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="found none"):
        read_keys(Access(api_keys_file=str(empty)), {})
    with pytest.raises(ConfigError, match="can't read"):
        read_keys(Access(api_keys_file=str(tmp_path / "nowhere")), {})
