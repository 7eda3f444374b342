"""The circuit breaker, on a clock that the test holds."""

import pytest

from pyramid_moa.inference.gateway.circuit_breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(failures=3, open_s=10.0, clock=clock)


def fail(breaker, times):
    for _ in range(times):
        breaker.admit().failed()


def test_it_opens_after_failures_in_a_row(breaker, clock):
    fail(breaker, 2)
    breaker.admit().succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    assert breaker.admit() is None
    clock.now += 4
    assert breaker.closes_in_s == 6.0


def test_half_open_lets_one_call_through_at_a_time(breaker, clock):
    fail(breaker, 3)
    clock.now += 10
    assert breaker.state == "half-open"
    probe = breaker.admit()
    assert breaker.admit() is None
    probe.succeeded()
    assert breaker.state == "closed"
    assert breaker.admit() is not None


def test_a_probe_that_fails_opens_it_for_as_long_again(breaker, clock):
    fail(breaker, 3)
    clock.now += 10
    fail(breaker, 1)
    assert breaker.state == "open"
    clock.now += 9.9
    assert breaker.admit() is None
    clock.now += 0.2
    assert breaker.admit() is not None


def test_a_probe_that_is_given_up_makes_room_for_another(breaker, clock):
    fail(breaker, 3)
    clock.now += 10
    breaker.admit().abandoned()
    assert breaker.state == "half-open"
    assert breaker.admit() is not None


def test_calls_of_before_it_opened_do_not_count_after(breaker, clock):
    early, late = breaker.admit(), breaker.admit()
    fail(breaker, 3)
    early.succeeded()
    assert breaker.state == "open"
    clock.now += 10
    probe = breaker.admit()
    late.failed()
    assert breaker.state == "half-open"
    probe.succeeded()
    assert breaker.state == "closed"


def test_only_the_first_outcome_of_a_call_counts(breaker):
    permit = breaker.admit()
    permit.succeeded()
    for _ in range(5):
        permit.failed()
    assert breaker.state == "closed"


def test_what_was_given_up_says_nothing(breaker):
    fail(breaker, 2)
    breaker.admit().abandoned()
    fail(breaker, 1)
    assert breaker.state == "open"


def test_an_open_breaker_lets_one_through_early_where_nobody_else_is_left():
    now = [0.0]
    breaker = CircuitBreaker(failures=1, open_s=10.0, clock=lambda: now[0])
    breaker.admit(early=True).failed()
    assert breaker.state == "open"
    assert breaker.admit() is None
    probe = breaker.admit(early=True)
    assert (probe is not None, breaker.admit(early=True), breaker.admit()) == (True, None, None)
    now[0] = 5.0
    probe.failed()
    # It has failed just now: it is left alone from now on.
    assert (breaker.state, breaker.closes_in_s) == ("open", 10.0)
    breaker.admit(early=True).succeeded()
    assert breaker.state == "closed"
    assert breaker.admit() is not None
