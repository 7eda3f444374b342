"""Requests that are broken at random: never a fault of the gateway's, never a leak."""

import json
import random

import httpx
import pytest
from running_gateway import UPSTREAM_KEY, chat_body, running_gateway, says

AGREE = {"a": says("#### 16"), "b": says("#### 16"), "oracle": says("#### 99")}
JUNK = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    -0.0,
    "",
    " ",
    "\x00",
    "ÿ" * 50,
    "http://127.0.0.1/",
    [],
    {},
    [[[[]]]],
    [None],
    {"": ""},
    {"type": "text"},
    {"role": "user"},
    [{"type": "image_url"}],
)
FULL = chat_body(
    stream=False,
    n=1,
    temperature=0.5,
    top_p=0.9,
    seed=1,
    stop=["x"],
    max_tokens=9,
    logprobs=True,
    pyramid={"threshold": 0.5, "max_cost_usd": 1, "policy": "parallel"},
)
FIELDS = (*FULL, "tools", "response_format", "stream_options", "prompt", "nonsense", "user")
HEADERS = ("x-pyramid-threshold", "x-pyramid-policy", "authorization", "x-pyramid-max-cost-usd")


def broken_body(draw):
    body = json.loads(json.dumps(FULL))
    for _ in range(draw.randrange(1, 4)):
        name = draw.choice(FIELDS)
        kind = draw.randrange(4)
        if kind == 0:
            body.pop(name, None)
        elif kind == 1:
            body["messages"] = [{"role": draw.choice(["user", "tool", ""]), "content": _junk(draw)}]
        else:
            body[name] = _junk(draw)
    content = bytearray(json.dumps(body).encode())
    if draw.random() < 0.4:
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(content))
            content[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
            content = content or bytearray(b"x")
    return bytes(content)


def _junk(draw):
    return draw.choice(JUNK)


def broken_headers(draw):
    kinds = ("application/json", "application/json; charset=x", "text/plain", "", "a/b/c")
    headers = {"content-type": kinds[0] if draw.random() < 0.9 else draw.choice(kinds)}
    if draw.random() < 0.3:
        value = bytes(draw.choice(range(33, 127)) for _ in range(draw.randrange(1, 30)))
        headers[draw.choice(HEADERS)] = value.decode()
    return headers


@pytest.mark.parametrize("count", [800, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_request_finds_a_fault(count, monkeypatch, caplog):
    monkeypatch.setenv("UPSTREAM_KEY", UPSTREAM_KEY)
    draw = random.Random(count)
    statuses = set()
    with (
        running_gateway(AGREE, spec={"api_key_env": "UPSTREAM_KEY"}) as gateway,
        httpx.Client(base_url=gateway.root, timeout=20) as client,
    ):
        for number in range(count):
            path = "/v1/completions" if number % 5 == 0 else "/v1/chat/completions"
            content = broken_body(draw)
            reply = client.post(path, content=content, headers=broken_headers(draw))
            assert reply.status_code < 500, (content, reply.text)
            assert UPSTREAM_KEY not in reply.text
            statuses.add(reply.status_code)
            if reply.status_code >= 400:
                error = reply.json()["error"]
                assert error.keys() >= {"message", "type", "param", "code"}
    assert {200, 400, 404, 415} <= statuses
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
