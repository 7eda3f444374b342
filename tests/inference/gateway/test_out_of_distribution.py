"""A router that does not know the kind of a question is not asked about it."""

from dataclasses import replace

import pytest
from faulty_server import text_reply
from running_gateway import QUICK, chat_body, fails, running_gateway, says, text_of

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.gateway.settings import (
    GatewaySettings,
    OutOfDistribution,
    PageSettings,
)
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.known_questions_fit import fit_known_questions

POEM = "Write a poem about autumn leaves falling in the park."
ANSWERS = {"a": says("#### 16"), "b": says("it is 16"), "oracle": says("Leaves, 17 of them")}
SETTINGS = GatewaySettings(faults=QUICK)


@pytest.fixture(scope="module")
def texts():
    return [row.question for row in load_queries("word-problems?train=300&test=1&seed=3").queries]


@pytest.fixture(scope="module")
def options(texts):
    """A router that knows word problems, at a point that accepts whatever members agree on."""
    plain = Router.load("pretrained:numeric")
    router = Router(plain.card, plain.network, known=fit_known_questions(texts))
    return {"router": router, "point": OperatingPoint(name="most", threshold=0.99, target="")}


def metric(gateway, name):
    lines = gateway.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_of_another_kind_goes_to_the_oracle_as_it_is(options, stream):
    with running_gateway(ANSWERS, **options) as gateway:
        if stream:
            chunks = gateway.stream(POEM)
            said, block = text_of(chunks), chunks[-1].pyramid
        else:
            reply = gateway.ask(POEM)
            said, block = reply.choices[0].message.content, reply.pyramid
        assert said == "Leaves, 17 of them"
        assert (block["route"], block["cause"]) == ("direct", "out_of_distribution")
        assert block["escalated"]
        assert block["question_distance"] > 1
        assert "not trained on such a question (by" in block["reason"]
        # No member is paid for it, and the prompt is the client's own.
        assert not gateway.servers["a"].requests
        assert not gateway.servers["b"].requests
        asked = gateway.servers["oracle"].requests[-1].body["messages"]
        assert asked == [{"role": "user", "content": POEM}]
        assert metric(gateway, 'pyramid_moa_direct_total{cause="out_of_distribution"}') == 1
        assert metric(gateway, 'pyramid_moa_direct_total{cause="not_supported"}') == 0
        assert metric(gateway, 'pyramid_moa_question_distance_bucket{le="1.0"}') == 0
        assert metric(gateway, "pyramid_moa_question_distance_count") == 1


def test_a_question_of_the_kind_is_judged(options, texts):
    with running_gateway(ANSWERS, **options) as gateway:
        reply = gateway.post(chat_body(texts[0]))
        block = reply.json()["pyramid"]
        assert (block["route"], block["escalated"]) == ("router", False)
        assert 0 < float(reply.headers["x-pyramid-question-distance"]) <= 1
        assert "cause" not in block
        assert not gateway.servers["oracle"].requests


@pytest.mark.parametrize("texts_shown", [False, True])
def test_the_page_shows_what_was_unlike_where_texts_may_be_shown(options, texts_shown):
    settings = replace(SETTINGS, page=PageSettings(texts=texts_shown))
    with running_gateway(ANSWERS, settings=settings, **options) as gateway:
        gateway.ask(POEM)
        page = gateway.get("/").text
        assert ("autumn leaves falling" in page) == texts_shown
        assert "1 unlike the questions of training" in page


def test_headers_say_why(options):
    with running_gateway(ANSWERS, **options) as gateway:
        headers = gateway.post(chat_body(POEM)).headers
        assert headers["x-pyramid-cause"] == "out_of_distribution"
        assert headers["x-pyramid-route"] == "direct"
        assert gateway.post(chat_body(model="a")).headers["x-pyramid-cause"] == "by_name"


def continues(request):
    """A server that continues each of several texts."""
    if request.body is None:
        return {"data": [{"id": "m"}]}
    choices = [
        {**text_reply("17")["choices"][0], "index": place}
        for place, _ in enumerate(request.body["prompt"])
    ]
    return {**text_reply("17"), "choices": choices}


def test_of_several_questions_the_furthest_counts(options, texts):
    with running_gateway({**ANSWERS, "oracle": continues}, **options) as gateway:
        body = {"model": "pyramid", "prompt": [texts[0], POEM]}
        refused = replace(SETTINGS, unsupported="refuse")
        assert gateway.post(body, "/v1/completions").json()["pyramid"]["route"] == "direct"
    with running_gateway(ANSWERS, settings=refused, **options) as gateway:
        reply = gateway.post(body, "/v1/completions")
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "out_of_distribution"
        assert reply.json()["error"]["param"] == "prompt"
        assert POEM not in reply.text


@pytest.mark.parametrize(
    "own", [OutOfDistribution(enabled=False), OutOfDistribution(threshold=1e6)]
)
def test_the_owner_may_think_otherwise(options, own):
    settings = replace(SETTINGS, out_of_distribution=own)
    with running_gateway(ANSWERS, settings=settings, **options) as gateway:
        assert gateway.ask(POEM).pyramid["route"] == "router"


def test_where_the_oracle_is_gone_the_best_of_the_others_stands_in(options):
    with running_gateway({**ANSWERS, "oracle": fails()}, **options) as gateway:
        block = gateway.ask(POEM).pyramid
        assert block["degraded"]
        assert block["cause"] == "out_of_distribution"


def test_a_checkpoint_that_does_not_know_says_so_once(options, caplog):
    unknowing = {**options, "router": Router.load("pretrained:numeric")}
    with running_gateway(ANSWERS, **unknowing) as gateway:
        block = gateway.ask(POEM).pyramid
        gateway.ask(POEM)
        assert (block["route"], block["question_distance"]) == ("router", None)
    said = [record for record in caplog.records if "look like" in record.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_is_a_distance(threshold):
    with pytest.raises(ConfigError, match="out_of_distribution: threshold"):
        OutOfDistribution(threshold=threshold)
