"""The fault matrix and the soak in short: the program itself in front of servers that fail."""

import pytest
from gateway_cases.fault_cases import FAULT_CASES
from gateway_cases.fault_load import Seen
from gateway_cases.faulty_gateway import faulty_models, served_gateway
from gateway_cases.hang_ups import hang_ups
from gateway_cases.soak import _growth, soak
from gateway_faults import FAULTS, matrix, row_of

# One row of each kind: those that differ in what the gateway sees.
SHORT = (
    "a member hangs",
    "a member refuses connections",
    "all members refuse connections",
    "members flap",
    "the oracle refuses connections",
    "the oracle dies in mid-stream",
    "everything refuses connections",
    "everything fails at random",
)
# On a machine that does much else at the same time a model that is well has to be in time, too.
PATIENT = {**FAULTS, "member_timeout_s": 2.0, "deadline_s": 6.0}
SLACK_S = 20.0


@pytest.fixture(scope="module")
def models():
    with faulty_models() as under_way:
        yield under_way


def check(rows, cases):
    assert len(rows) == len(cases)
    for row, case in zip(rows, cases, strict=True):
        assert (row.fault, row.hangs, row.wrong, row.examples) == (case.name, 0, 0, [])
        if "unavailable" not in case.judged:
            assert (row.unanswered, row.answered > 0) == (0, True), row
        else:
            assert row.requests > 0


@pytest.mark.parametrize("fallback", [False, True])
def test_under_each_fault_clients_get_an_answer_or_the_right_error(models, fallback):
    cases = [case for case in FAULT_CASES if case.fallback == fallback and case.name in SHORT]
    faults = {**PATIENT, **({"fallback_oracle": "spare"} if fallback else {})}
    models.turn({})
    with served_gateway(models, faults=faults) as gateway:
        rows = list(matrix(models, gateway, cases, rate=20, seconds=1.2, slack_s=SLACK_S))
    check(rows, cases)


@pytest.mark.slow
@pytest.mark.parametrize("fallback", [False, True])
def test_a_minute_of_each_fault(models, fallback):
    cases = [case for case in FAULT_CASES if case.fallback == fallback]
    faults = {**FAULTS, **({"fallback_oracle": "spare"} if fallback else {})}
    models.turn({})
    with served_gateway(models, faults=faults) as gateway:
        rows = list(matrix(models, gateway, cases, rate=20, seconds=60, slack_s=1.5))
    check(rows, cases)


@pytest.mark.parametrize("minutes", [0.1, pytest.param(20.0, marks=pytest.mark.slow)])
def test_half_of_what_it_bears_for_long(models, minutes):
    """Of a few seconds memory tells nothing; of twenty minutes it does."""
    models.turn({})
    said = []
    with served_gateway(models, faults=PATIENT) as gateway:
        found = soak(
            models, gateway, minutes=minutes, slack_s=SLACK_S, say=said.append, measured_s=1.5
        )
    assert (found.lost, found.wrong, found.hangs, found.examples) == (0, 0, 0, [])
    assert found.requests > 30 * minutes
    assert 2 * found.rate == pytest.approx(found.most_per_s)
    assert minutes < 1 or found.is_good
    assert len(said) == 2


def test_work_for_clients_that_go_away_ends(models):
    with served_gateway(models, faults={**PATIENT, "member_timeout_s": 30.0}) as gateway:
        found = hang_ups(models, gateway, clients=3)
    assert (found.clients, found.missing) == (3, 0)
    # Of calls that would have gone on for half a minute.
    assert 0 < found.p50_s <= found.longest_s < 5


def test_what_a_fault_does_not_call_for_is_counted():
    case = next(case for case in FAULT_CASES if case.name == "a member hangs")
    seen = Seen()
    for outcome, seconds in (("answered", 0.1), ("unavailable", 0.2), ("gone", 9.0), ("lost", 9.0)):
        seen.add("judged", outcome, seconds, limit_s=5.0)
    seen.is_wrong("lost")
    row = row_of(case, seen)
    assert (row.answered, row.unanswered, row.wrong, row.hangs) == (1, 2, 2, 1)
    assert (row.requests, row.p50_s, row.p99_s) == (4, 0.2, 9.0)


def test_growth_is_of_what_comes_after_the_warm_up():
    # Looked at 600 times in 20 minutes: it doubles in the first two, and then gains a twentieth.
    memory = [100.0] * 59 + [200.0] * 240 + [205.0] * 240 + [210.0] * 61
    assert _growth(memory, seconds=1200) == pytest.approx(0.05)
