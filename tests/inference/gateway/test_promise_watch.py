"""A promise that is broken is noticed, and one that is kept is seldom doubted."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from faulty_server import soon
from running_gateway import DOWN, fails, running_gateway, says

from pyramid_moa.inference.gateway.confidence_sequence import log_evidence_against, share_bounds
from pyramid_moa.inference.gateway.promise_watch import PromiseWatch, watches_of
from pyramid_moa.inference.gateway.settings import AuditSettings
from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.router_model.router import Router

PROMISE = Promise(
    kind="max_drop", value=0.02, confidence=0.95, questions=500, method="", most_differ=0.05
)


def watch(allowed=0.05):
    return PromiseWatch(point="safe", promise=PROMISE, allowed=allowed)


def ever_broken(rng, allowed, true, audits):
    """Whether the alarm was on at any time, looked at after every audit."""
    own = watch(allowed)
    for differs in rng.random(audits) < true:
        own.add(differs=bool(differs))
        if own.broken:
            return own.drawn
    return None


@pytest.mark.parametrize("allowed", [0.005, 0.02, 0.1, 0.4])
def test_a_promise_that_is_kept_is_seldom_doubted(allowed):
    rng = np.random.default_rng(0)
    runs = 200
    alarms = sum(ever_broken(rng, allowed, allowed, 600) is not None for _ in range(runs))
    assert alarms <= 0.025 * runs + 2 * (0.025 * 0.975 * runs) ** 0.5


@pytest.mark.parametrize(
    ("allowed", "true", "audits"), [(0.02, 0.06, 800), (0.05, 0.12, 600), (0.05, 0.3, 60)]
)
def test_a_promise_that_is_broken_is_noticed(allowed, true, audits):
    rng = np.random.default_rng(1)
    noticed = [ever_broken(rng, allowed, true, audits) for _ in range(100)]
    assert sum(found is not None for found in noticed) >= 90


def test_an_alarm_stays_whatever_comes_after():
    own = watch()
    for _ in range(20):
        own.add(differs=True)
    assert own.broken
    for _ in range(2000):
        own.add(differs=False)
    assert own.share[0] < own.allowed
    assert own.broken


@pytest.mark.parametrize("true", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_the_interval_has_the_share_in_it_at_all_times(true):
    rng = np.random.default_rng(2)
    runs, missed = 200, 0
    for _ in range(runs):
        hits = np.cumsum(rng.random(300) < true).tolist()
        # What the interval leaves out is what so much speaks against.
        missed += any(
            log_evidence_against(true, k, n) >= math.log(20) for n, k in enumerate(hits, 1)
        )
    assert missed <= 0.05 * runs + 2 * (0.05 * 0.95 * runs) ** 0.5


@pytest.mark.parametrize(("hits", "of"), [(0, 5), (1, 7), (7, 90), (60, 61), (5, 5)])
def test_a_share_is_in_the_interval_where_little_speaks_against_it(hits, of):
    low, high = share_bounds(hits, of, level=0.05)
    for share in np.linspace(0, 1, 201):
        doubted = log_evidence_against(float(share), hits, of) >= math.log(20)
        assert doubted == (not low < share < high) or share in (0, 1)


def test_the_intervals_ends_are_where_the_doubt_is_large_enough():
    low, high = share_bounds(7, 90, level=0.05)
    assert 0 < low < 7 / 90 < high < 1
    assert log_evidence_against(low, 7, 90) == pytest.approx(math.log(20), abs=1e-6)
    assert log_evidence_against(high, 7, 90) == pytest.approx(math.log(20), abs=1e-6)
    assert share_bounds(0, 0, level=0.05) == (0.0, 1.0)
    assert share_bounds(0, 50, level=0.05)[0] == 0.0
    assert share_bounds(50, 50, level=0.05)[1] == 1.0


def test_only_promises_that_audits_can_speak_to_are_watched():
    cost = replace(PROMISE, kind="target_cost_ratio", most_differ=None)
    points = [
        OperatingPoint(name="safe", threshold=0.5, target="", promise=PROMISE),
        OperatingPoint(name="cheap", threshold=0.5, target="", promise=cost),
        OperatingPoint(name="plain", threshold=0.5, target=""),
    ]
    assert list(watches_of(points)) == ["safe"]


def test_all_that_is_promised_together_is_told():
    joint = replace(PROMISE, others=(("max_usd_per_1000", 5.0),))
    assert "max_usd_per_1000 5: of" in replace(watch(0.1), promise=joint).told


def gate_options(threshold=0.99, **promised):
    """A router whose first point promises something."""
    router = Router.load("pretrained:numeric")
    point = OperatingPoint(
        name="safe", threshold=threshold, target="", promise=replace(PROMISE, **promised)
    )
    router.card = replace(router.card, operating_points=[point, *router.card.operating_points])
    return {"router": router, "point": point}


def figures(gateway):
    lines = gateway.get("/metrics").text.splitlines()
    own = [line for line in lines if line.startswith("pyramid_moa_promise")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in own)}


MEMBERS = {"a": says("#### 16"), "b": says("it is 16")}
DIFFER = 'pyramid_moa_promise_audits{point="safe",result="differ"}'
SAME = 'pyramid_moa_promise_audits{point="safe",result="same"}'
BROKEN = 'pyramid_moa_promise_broken{point="safe"}'


def test_answers_that_differ_break_it_and_the_log_says_so_once(caplog):
    with running_gateway({**MEMBERS, "oracle": says("17")}, audit=1.0, **gate_options()) as gateway:
        assert figures(gateway)[BROKEN] == 0
        for number in range(1, 7):
            assert not gateway.ask().pyramid["escalated"]
            assert soon(lambda number=number: figures(gateway)[DIFFER] == number)
            if number == 1:
                assert "not refuted" in gateway.get("/").text
        assert "The promise no longer holds for these questions" in gateway.get("/").text
        found = figures(gateway)
        assert found[BROKEN] == 1
        share = "pyramid_moa_promise_disagreement"
        assert found[f'{share}{{bound="allowed",point="safe"}}'] == 0.05
        assert found[f'{share}{{bound="low",point="safe"}}'] > 0.05
        said = [r.getMessage() for r in caplog.records if "promise no longer" in r.getMessage()]
        assert len(said) == 1
        assert "operating point safe, max_drop 0.02" in said[0]
    # It does not go out without a word.
    assert any("the alarm that they gave" in record.getMessage() for record in caplog.records)


def test_answers_of_the_oracle_count_as_its_own():
    with running_gateway(
        {**MEMBERS, "oracle": says("17")}, audit=1.0, **gate_options(threshold=0.0)
    ) as gateway:
        for _ in range(3):
            assert gateway.ask().pyramid["escalated"]
        assert soon(lambda: figures(gateway)[SAME] == 3)
        assert figures(gateway)[DIFFER] == 0
        # They were asked for, not audited.
        assert len(gateway.servers["oracle"].requests) == 3


def test_what_the_point_did_not_decide_is_not_held_against_it():
    with running_gateway({**MEMBERS, "oracle": fails()}, audit=1.0, **gate_options(0.0)) as gateway:
        assert gateway.ask().pyramid["degraded"]
        gateway.ask(extra_body={"pyramid": {"threshold": 0.99}})
        gateway.ask(model="a")
        failed = 'pyramid_moa_audits{result="failed"} 1.0'
        assert soon(lambda: failed in gateway.get("/metrics").text, within_s=10)
        assert figures(gateway)[SAME] == figures(gateway)[DIFFER] == 0


def test_clients_can_not_break_it_by_sampling_of_their_own():
    with running_gateway({**MEMBERS, "oracle": says("17")}, audit=1.0, **gate_options()) as gateway:
        for _ in range(3):
            assert not gateway.ask(temperature=1.5, max_tokens=5).pyramid["sampling_as_trained"]
        gateway.ask(seed=3)
        assert soon(lambda: figures(gateway)[DIFFER] == 1, within_s=10)
        # Those before were not even begun.
        assert len(gateway.servers["oracle"].requests) == 1


def test_what_a_member_failed_on_is_not_held_against_it():
    def member(request):
        if request.body is not None and "broken" in request.prompt:
            return DOWN
        return says("it is 16")(request)

    servers = {"a": says("#### 16"), "b": member, "oracle": says("17")}
    with running_gateway(servers, audit=1.0, **gate_options()) as gateway:
        found = gateway.ask("How many legs has a broken table?").pyramid
        assert found["models"]["b"]["error"] is not None
        assert not found["escalated"]
        assert gateway.ask().pyramid["escalated"] is False
        assert soon(lambda: figures(gateway)[DIFFER] == 1, within_s=10)
        assert len(gateway.servers["oracle"].requests) == 1


def test_where_audits_are_too_slow_escalated_answers_are_left_out_like_accepted_ones():
    let_go = threading.Event()

    def hard(request):
        return request.body is not None and "hard" in request.prompt

    def member(request):
        return says("#### 8" if hard(request) else "#### 16")(request)

    def oracle(request):
        if request.body is not None and not hard(request):
            let_go.wait(60)
        return says("17")(request)

    servers = {"a": says("#### 16"), "b": member, "oracle": oracle}
    left_out = 'pyramid_moa_audits{result="left_out"} '
    with running_gateway(servers, audit=1.0, **gate_options(0.4)) as gateway:
        try:
            for _ in range(AuditSettings().max_concurrency):
                assert not gateway.ask().pyramid["escalated"]
            assert gateway.ask("hard").pyramid["escalated"]
            assert not gateway.ask().pyramid["escalated"]
            assert f"{left_out}2.0" in gateway.get("/metrics").text
            assert figures(gateway)[SAME] == 0
        finally:
            let_go.set()
        audited = AuditSettings().max_concurrency
        assert soon(lambda: figures(gateway)[DIFFER] == audited, within_s=10)
        assert gateway.ask("hard").pyramid["escalated"]
        assert figures(gateway)[SAME] == 1
        assert f"{left_out}2.0" in gateway.get("/metrics").text
