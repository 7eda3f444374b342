"""The API's description: true to the code, and held against the program by schemathesis."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import jsonschema
import pytest
from gateway_cases.faulty_gateway import faulty_models, served_gateway
from gateway_fuzz import ADMIN_KEY, FAULTS, KEY
from running_gateway import chat_body, running_gateway, says

from pyramid_moa.inference.gateway.api_request import ChatRequest, TextRequest
from pyramid_moa.inference.gateway.app import build_app
from pyramid_moa.inference.gateway.openapi import openapi_description
from pyramid_moa.inference.gateway.settings import GatewaySettings, PageSettings, RequestLimits

DIFFER = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 99")}
# Blank questions, budgets in which no model has room, policies that this router lacks: a schema
# can't say it, so a request that fits it may be refused.
LEFT_OUT = "positive_data_acceptance"
# 503 is what is said where no model could answer in the time that the request allows; headers that
# nobody knows are nobody's business.
RULES = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]

[generation]
allow-extra-parameters = false
"""


@pytest.fixture(scope="module")
def gateway():
    with running_gateway(DIFFER) as running:
        yield running


@pytest.fixture(scope="module")
def described(gateway):
    return gateway.get("/openapi.json").json()


def validator(described, name):
    """Of a schema of the description."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    return jsonschema.Draft202012Validator(schema)


def test_every_route_is_described_but_those_for_people(gateway, described):
    settings = GatewaySettings(page=PageSettings(enabled=True))
    routes = build_app(gateway.gate, settings, keys=[]).routes
    paths = {route.path.replace("{name:path}", "{name}") for route in routes}
    assert paths - set(described["paths"]) == {"/", "/live", "/openapi.json"}
    assert set(described["paths"]) <= paths


def test_every_schema_is_one(described):
    assert described["openapi"] == "3.1.0"
    for name, schema in described["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        validator(described, name).is_valid({})
    referred = set(json.dumps(described).split('"#/components/')[1:])
    for place in referred:
        kind, name = place.split('"')[0].split("/")
        assert name in described["components"][kind]


@pytest.mark.parametrize(
    ("name", "kind"), [("ChatRequest", ChatRequest), ("TextRequest", TextRequest)]
)
def test_it_has_the_fields_that_are_read(described, name, kind):
    schema = described["components"]["schemas"][name]
    assert set(schema["properties"]) == set(kind.model_fields)
    assert schema["additionalProperties"] is False
    models = schema["properties"]["model"]["enum"]
    assert models == ["pyramid", "a", "b", "oracle"]


def test_it_states_the_limits_of_this_gateway():
    limits = RequestLimits(n=3, messages=7, max_tokens=50)
    schemas = openapi_description(["pyramid"], limits, keys=True, admin=True)["components"][
        "schemas"
    ]
    chat = schemas["ChatRequest"]["properties"]
    assert chat["n"]["anyOf"][0]["maximum"] == 3
    assert chat["messages"]["maxItems"] == 7
    assert chat["max_tokens"]["anyOf"][0]["maximum"] == 50
    assert chat["max_completion_tokens"]["anyOf"][0]["maximum"] == 50
    assert schemas["TextRequest"]["properties"]["best_of"]["anyOf"][0]["maximum"] == 3


@pytest.mark.parametrize(
    ("path", "body", "reply", "chunk"),
    [
        ("/v1/chat/completions", chat_body(), "ChatReply", "ChatChunk"),
        ("/v1/chat/completions", chat_body(model="oracle"), "ChatReply", "ChatChunk"),
        ("/v1/chat/completions", chat_body(n=2, temperature=1.0), "ChatReply", "ChatChunk"),
        ("/v1/completions", {"model": "pyramid", "prompt": "How?"}, "TextReply", "TextChunk"),
        ("/v1/chat/completions", chat_body(logprobs=True), "ChatReply", "ChatChunk"),
    ],
)
def test_replies_are_as_described(gateway, described, path, body, reply, chunk):
    whole = gateway.post(body, path)
    assert whole.status_code == 200
    validator(described, reply).validate(whole.json())
    answered = described["paths"][path]["post"]["responses"]["200"]
    own = {name for name in whole.headers if name.startswith("x-")}
    assert own <= set(answered["headers"])
    streamed = gateway.post({**body, "stream": True}, path)
    *data, last = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    event = answered["content"]["text/event-stream"]["schema"]
    assert {"const": last} in event["properties"]["data"]["anyOf"]
    assert data
    for event in data:
        validator(described, chunk).validate(json.loads(event))
    validator(described, "Pyramid").validate(json.loads(data[-1])["pyramid"])


def test_errors_and_the_rest_are_as_described(gateway, described):
    for reply in (
        gateway.post(chat_body(model="none")),
        gateway.post(chat_body(temperature=9)),
        gateway.get("/v1/models/none"),
        gateway.get("/nowhere"),
        gateway.get("/v1/chat/completions"),
        gateway.post({}, "/admin/reload"),
    ):
        validator(described, "Error").validate(reply.json())
    for path, name in (
        ("/v1/models", "ModelList"),
        ("/v1/models/pyramid", "Model"),
        ("/healthz", "Health"),
        ("/readyz", "Readiness"),
    ):
        validator(described, name).validate(gateway.get(path).json())


def test_it_is_behind_the_same_door_and_says_who_may_what():
    with running_gateway(DIFFER, keys=[KEY]) as gateway:
        refused = gateway.get("/openapi.json")
        assert refused.status_code == 401
        described = gateway.get("/openapi.json", headers={"authorization": f"Bearer {KEY}"}).json()
        assert described["security"] == [{"apiKey": []}, {"browser": []}]
        assert described["paths"]["/healthz"]["get"]["security"] == []
        assert described["paths"]["/admin/reload"]["post"]["security"] == [{"adminKey": []}]
        assert KEY not in json.dumps(described)
    with running_gateway(DIFFER) as gateway:
        assert gateway.get("/openapi.json").json()["security"] == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "extent",
    [
        # By number, not by time: a slow machine does as much.
        ["--max-examples", "15"],
        pytest.param(["--max-examples", "500", "--max-time", "600"], marks=pytest.mark.slow),
    ],
    ids=["short", "long"],
)
def test_schemathesis_finds_nothing(extent, tmp_path):
    """Requests made from the description, sound and not, against the program itself."""
    rules = tmp_path / "schemathesis.toml"
    rules.write_text(RULES)
    keys = {"PYRAMID_MOA_API_KEYS": KEY, "PYRAMID_MOA_ADMIN_KEYS": ADMIN_KEY}
    with (
        faulty_models() as models,
        served_gateway(models, faults=FAULTS, variables=keys) as gateway,
    ):
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("--config-file", str(rules), "run"),
                *(f"{gateway.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}"),
                *("--checks", "all", "--exclude-checks", LEFT_OUT, "--mode", "all"),
                *extent,
                *("--seed", "1"),
                *("--generation-database", "none", "--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=800,
            env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert re.search(r"Tested: 8\n(.|\n)* generated, \d+ passed", done.stdout), done.stdout
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
