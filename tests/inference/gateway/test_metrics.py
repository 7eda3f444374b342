"""What Prometheus is told, as it reads it."""

import json
import math

import pytest
from faulty_server import soon
from prometheus_client.parser import text_string_to_metric_families
from running_gateway import KEY, QUESTION, QUICK, chat_body, fails, running_gateway, says

from pyramid_moa.inference.gateway.settings import Faults, GatewaySettings

DIFFER = {"a": says("#### 16"), "b": says("#### 9"), "oracle": says("#### 17")}
AGREE = {**DIFFER, "b": says("it is 16")}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


class Read:
    """One reading of /metrics."""

    def __init__(self, gateway):
        text = gateway.get("/metrics").text
        self.text = text
        self.samples = {
            (sample.name.removeprefix("pyramid_moa_"), frozenset(sample.labels.items())): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        return self.samples.get((name, frozenset(labels.items())))


def block_of(reply):
    """The reason of an answer, streamed or not."""
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    return json.loads(lines[-1] if lines else reply.text)["pyramid"]


def test_requests_escalations_and_money():
    with running_gateway(DIFFER) as gateway:
        blocks = [block_of(gateway.post(chat_body(stream=stream))) for stream in (False, True)]
        gateway.post(chat_body(model="nobody"))
        own = block_of(gateway.post(chat_body(model="a")))["cost_usd"]
        assert soon(lambda: Read(gateway)("requests_total", **direct("a")) == 1)
        read = Read(gateway)
        assert read("requests_total", model="pyramid", route="pyramid", status="200") == 2
        assert read("requests_total", model="other", route="none", status="404") == 1
        assert (read("judged_total"), read("escalations_total")) == (2, 2)
        assert read("direct_total", cause="by_name") == 1
        sums = {
            name: sum(block[name] for block in blocks)
            for name in ("cost_usd", "oracle_cost_usd", "saved_usd")
        }
        # Who asks for a member pays its price, with and without the pyramid.
        assert read("cost_usd_total") == pytest.approx(sums["cost_usd"] + own)
        assert read("oracle_cost_usd_total") == pytest.approx(sums["oracle_cost_usd"] + own)
        assert read("saved_usd") == pytest.approx(sums["saved_usd"])
        assert read("saved_usd") < 0 < own
        for kind in ("prompt", "completion"):
            assert read("tokens_total", kind=kind) > 0


def direct(model):
    return {"model": model, "route": "direct", "status": "200"}


def test_accepted_answers_save_money():
    with running_gateway(AGREE) as gateway:
        block = gateway.post(chat_body()).json()["pyramid"]
        read = Read(gateway)
        assert read("escalations_total") == 0
        assert read("saved_usd") == pytest.approx(block["saved_usd"])
        assert read("saved_usd") == pytest.approx(
            read("oracle_cost_usd_total") - read("cost_usd_total")
        )
        assert read("saved_usd") > 0


def test_times_by_stage_and_what_is_believed():
    with running_gateway(DIFFER) as gateway:
        for stream in (False, True):
            gateway.post(chat_body(stream=stream))
        gateway.post(chat_body(model="a"))
        assert soon(lambda: Read(gateway)("request_seconds_count", route="direct") == 1)
        read = Read(gateway)
        for stage in ("members", "oracle"):
            assert read("stage_seconds_count", stage=stage) == 2
            assert read("stage_seconds_sum", stage=stage) > 0
        assert read("router_seconds_count") == 2
        assert read("request_seconds_count", route="pyramid") == 2
        assert read("first_byte_seconds_count", route="pyramid") == 1
        assert read("model_call_seconds_count", model="a") == 3
        # The vote rule's belief: the share that does not stand behind the answer.
        assert read("p_ensemble_fails_bucket", le="0.45") == 0
        assert read("p_ensemble_fails_bucket", le="0.5") == 2
        # No router: nobody knows how far a question is from those of training.
        assert read("question_distance_count") == 0


def test_failures_of_members_and_breakers():
    settings = GatewaySettings(faults=Faults(retries=0, breaker_failures=2))
    answers = {**AGREE, "c": fails()}
    answers = {name: answers[name] for name in ("a", "b", "c", "oracle")}
    with running_gateway(answers, settings=settings) as gateway:
        for _ in range(3):
            assert gateway.post(chat_body()).is_success
        read = Read(gateway)
        assert read("model_calls_total", model="c", result="failed") == 2
        assert read("model_calls_total", model="c", result="left_out") == 1
        assert read("model_calls_total", model="a", result="answered") == 3
        assert read("breaker_state", model="c") == 2
        assert read("breaker_state", model="a") == 0


@pytest.mark.parametrize("fields", [{}, {"tools": [{"type": "function"}]}])
def test_answers_in_anothers_place_are_degraded(fields):
    """Judged: the ensemble's for want of the oracle; unjudged: a member's in its place."""
    answers = {**AGREE, "oracle": fails()}
    with running_gateway({**answers, "b": DIFFER["b"]}) as gateway:
        reply = gateway.post(chat_body(**fields))
        stands_in = reply.is_success and reply.json()["pyramid"]["degraded"]
        assert Read(gateway)("degraded_total") == bool(stands_in)
        if not fields:
            assert stands_in


def test_a_plain_answer_that_the_oracle_owed_is_degraded_too():
    with running_gateway({**AGREE, "oracle": fails()}) as gateway:
        turns = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "16"},
            {"role": "user", "content": "And five?"},
        ]
        block = gateway.post({"model": "pyramid", "messages": turns}).json()["pyramid"]
        assert (block["route"], block["degraded"]) == ("direct", True)
        read = Read(gateway)
        assert read("degraded_total") == 1
        assert read("direct_total", cause="not_supported") == 1


def test_audits():
    with running_gateway(AGREE, audit=1.0) as gateway:
        gateway.post(chat_body())
        assert soon(lambda: Read(gateway)("audits", result="differ") == 1)
        read = Read(gateway)
        assert read("audit_disagreement", bound="estimate") == 1
        assert 0 < read("audit_disagreement", bound="low") < 1
        assert read("audit_drifted") == 0
        assert read("audit_cost_usd") > 0


def test_what_has_not_happened_yet_is_there_to_be_watched():
    with running_gateway(DIFFER) as gateway:
        read = Read(gateway)
        for name in ("judged", "escalations", "degraded", "cost_usd", "oracle_cost_usd"):
            assert read(f"{name}_total") == 0
        assert read("saved_usd") == 0
        for cause in ("by_name", "not_supported", "out_of_distribution"):
            assert read("direct_total", cause=cause) == 0
        assert math.isnan(read("audit_disagreement", bound="estimate"))
        assert read("requests_in_progress") == read("requests_waiting") == 0
        assert read("process_resident_memory_bytes") > 0


def test_no_label_holds_what_a_client_has_made_up():
    settings = GatewaySettings(faults=QUICK)
    with running_gateway(DIFFER, settings=settings, keys=[KEY]) as gateway:
        headers = {"authorization": f"Bearer {KEY}"}
        gateway.post(chat_body("a secret question", model="my-secret-model"), headers=headers)
        gateway.post(chat_body("a secret question"), headers=headers)
        text = gateway.get("/metrics", headers=headers).text
        assert "pyramid_moa_judged_total 1.0" in text
        assert "secret" not in text
        assert KEY not in text
        assert gateway.get("/metrics").status_code == 401
