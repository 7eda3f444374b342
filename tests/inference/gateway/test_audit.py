"""Accepted answers that the oracle is asked about when they have gone out."""

import math
import time

import numpy as np
import pytest
from faulty_server import soon
from running_gateway import chat_body, fails, running_gateway, says
from scipy.stats import binomtest

from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.audit import AuditCount, wilson_interval
from pyramid_moa.inference.gateway.settings import AuditSettings
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router

MEMBERS = {"a": says("#### 16"), "b": says("it is 16")}


def figures(gateway):
    lines = gateway.get("/metrics").text.splitlines()
    own = [line for line in lines if line.startswith("pyramid_moa_audit")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in own)}


@pytest.mark.parametrize(
    ("text", "result"), [("#### 16.0", "agree"), ("#### 17", "differ"), ("who knows", "differ")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_accepted_answer_is_compared_with_the_oracles(text, result, stream):
    with running_gateway({**MEMBERS, "oracle": says(text)}, audit=1.0) as gateway:
        reply = gateway.post(chat_body(stream=stream))
        assert '"escalated":false' in reply.text
        assert soon(lambda: figures(gateway)[f'pyramid_moa_audits{{result="{result}"}}'] == 1)
        assert figures(gateway)["pyramid_moa_audit_cost_usd"] > 0
        share = figures(gateway)['pyramid_moa_audit_disagreement{bound="estimate"}']
        assert share == (result == "differ")


def test_answers_do_not_wait_for_audits_nor_pile_them_up():
    oracle = says("#### 16", delay_s=8)
    with running_gateway({**MEMBERS, "oracle": oracle}, audit=1.0) as gateway:
        begun = time.monotonic()
        for _ in range(8):
            assert gateway.post(chat_body()).is_success
        assert time.monotonic() - begun < 8
        assert len(gateway.servers["oracle"].requests) == AuditSettings().max_concurrency


def test_what_the_oracle_has_answered_itself_is_not_audited():
    differ = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 16")}
    with running_gateway(differ, audit=1.0) as gateway:
        gateway.ask()
        gateway.ask(model="a")
        time.sleep(0.2)
        assert len(gateway.servers["oracle"].requests) == 1


def test_an_oracle_that_is_down_is_counted_and_does_no_harm():
    with running_gateway({**MEMBERS, "oracle": fails()}, audit=1.0) as gateway:
        assert gateway.ask().pyramid["degraded"] is False
        assert soon(lambda: figures(gateway)['pyramid_moa_audits{result="failed"}'] == 1)
        assert math.isnan(figures(gateway)['pyramid_moa_audit_disagreement{bound="estimate"}'])


def ask_and_audit(gateway, times):
    for number in range(1, times + 1):
        gateway.ask()
        differ = 'pyramid_moa_audits{result="differ"} '
        said = f"{differ}{float(number)}"
        assert soon(lambda said=said: said in gateway.get("/metrics").text)


def test_the_vote_rule_states_no_probability_that_could_be_broken(caplog):
    with running_gateway({**MEMBERS, "oracle": says("#### 17")}, audit=1.0) as gateway:
        ask_and_audit(gateway, 4)
        assert figures(gateway)["pyramid_moa_audit_drifted"] == 0.0
    assert not [record for record in caplog.records if "more often" in record.getMessage()]


def test_it_warns_once_when_answers_differ_more_often_than_they_may(caplog):
    """The router trusts members that agree: here they are always wrong."""
    router = {
        "router": Router.load("pretrained:numeric"),
        "point": OperatingPoint(name="never", threshold=1.0, target=""),
    }
    answers = {**MEMBERS, "oracle": says("#### 17")}
    with running_gateway(answers, audit=1.0, **router) as gateway:
        ask_and_audit(gateway, 8)
        assert figures(gateway)["pyramid_moa_audit_drifted"] == 1.0
    warnings = [record for record in caplog.records if "more often" in record.getMessage()]
    assert len(warnings) == 1


def ever_drifted(rng, believed, true, audits):
    """Whether the alarm was on at any time, looked at after every audit."""
    count = AuditCount()
    for differs in rng.random(audits) < true:
        count.compare(agrees=not differs, believed=believed)
        if count.has_drifted:
            return True
    return False


def test_a_router_whose_probabilities_hold_is_seldom_warned_of():
    rng = np.random.default_rng(0)
    for believed in (0.02, 0.05, 0.3):
        alarms = sum(ever_drifted(rng, believed, believed, 500) for _ in range(400))
        assert alarms <= 0.05 * 400 + 2 * (0.05 * 0.95 * 400) ** 0.5
    first = AuditCount()
    first.compare(agrees=False, believed=0.05)
    assert not first.has_drifted  # of one audit nothing follows
    assert not AuditCount().has_drifted


def test_a_drift_is_found():
    rng = np.random.default_rng(0)
    assert sum(ever_drifted(rng, 0.05, 0.15, 300) for _ in range(100)) >= 90
    assert sum(ever_drifted(rng, 0.02, 0.3, 60) for _ in range(100)) >= 95
    always = AuditCount()
    for _ in range(2000):
        always.compare(agrees=False, believed=0.5)
    assert always.has_drifted


@pytest.mark.parametrize(("hits", "of"), [(0, 10), (3, 10), (10, 10), (57, 1000)])
def test_the_interval_is_wilsons(hits, of):
    exact = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, of) == pytest.approx((exact.low, exact.high), abs=1e-6)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="share: expected from 0 to 1"):
        AuditSettings(share=2)
