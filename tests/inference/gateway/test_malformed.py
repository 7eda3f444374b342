"""Requests that are broken at random: never a fault of the gateway's, never a leak."""

import json
import random
import re

import pytest
from gateway_cases.malformed import KINDS, Case, draw_case
from gateway_fuzz import HUNG_UP, KEY, complaints, fuzz


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_request_finds_a_fault(count):
    fuzzed = fuzz(count, seed=count)
    assert not fuzzed.wrong
    assert fuzzed.cases == count
    seen = set().union(*fuzzed.outcomes.values())
    assert {"200", "400", "404", "405", "415"} <= seen
    assert seen <= {"100", "200", "204", "400", "401", "403", "404", "405", "408", "413", "415"} | {
        "422",
        "431",
        "503",
        HUNG_UP,
    }
    assert set(fuzzed.outcomes["sound"]) == {"200"}


def test_the_same_seed_draws_the_same_requests_of_every_kind():
    def drawn():
        draw = random.Random(5)
        return [draw_case(draw, KEY) for _ in range(300)]

    assert drawn() == drawn()
    assert {case.kind for case in drawn()} == set(KINDS)


ERROR = {"error": {"message": "no", "type": "t", "param": None, "code": None}}


def answer(status, body, headers="content-type: application/json\r\n"):
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\n{headers}content-length: {len(content)}\r\n\r\n"
    return head.encode() + content


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (answer(400, ERROR), None),
        (answer(200, {"any": 1}), None),
        (answer(500, ERROR), "status 500"),
        (answer(503, ERROR), "status 503"),
        (answer(503, ERROR, "retry-after: 1\r\ncontent-type: application/json\r\n"), None),
        (answer(400, {"detail": "no"}), "an error that has not OpenAI's form"),
        (answer(400, ERROR, "content-type: text/plain\r\n"), "an error that has not OpenAI's form"),
        (answer(200, {"key": "s3cret"}), "leaks b's3cret'"),
        (b"", "hung up on a whole request"),
        (b"nonsense", "no answer of HTTP"),
    ],
)
def test_what_would_be_wrong_is_seen(data, complaint):
    found = complaints(Case(kind="k", wire=b""), data, re.compile(b"s3cret"))
    assert bool(found) == (complaint is not None)
    if complaint:
        assert found[0].startswith(complaint)


def test_a_sound_request_has_to_be_answered():
    case = Case(kind="sound", wire=b"")
    assert complaints(case, answer(400, ERROR), re.compile(b"s3cret"))
    assert not complaints(case, answer(200, {}), re.compile(b"s3cret"))
