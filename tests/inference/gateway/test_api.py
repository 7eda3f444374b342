"""The API as OpenAI's own client sees it."""

import httpx
import openai
import pytest
from faulty_server import Reply, chat_reply, text_reply
from running_gateway import QUESTION, QUICK, chat_body, fails, running_gateway, says, text_of

from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.inference.gateway.settings import GatewaySettings, RequestLimits
from pyramid_moa.router_model.policy import OperatingPoint

AGREE = {"a": says("#### 16"), "b": says("it is 16"), "oracle": says("#### 99")}
DIFFER = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 99")}
NEVER = OperatingPoint(name="never", threshold=1.0, target="")


@pytest.fixture(scope="module")
def agreeing():
    with running_gateway(AGREE) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def differing():
    with running_gateway(DIFFER) as gateway:
        yield gateway


def test_an_answer_that_is_accepted(agreeing):
    reply = agreeing.ask()
    (choice,) = reply.choices
    assert choice.message.content == "#### 16"
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert reply.model == "pyramid"
    assert reply.object == "chat.completion"
    assert not agreeing.servers["oracle"].requests
    why = reply.pyramid
    assert (why["escalated"], why["answered_by"], why["answer"]) == (False, "a", "16")
    assert why["models_called"] == ["a", "b"]
    assert why["reason"] == "2 of 2 members agree: accepted"
    assert why["models"]["a"]["group"] == why["models"]["b"]["group"] == 0
    # 7 tokens of each prompt; 8 and 10 of the answers, the end token included.
    assert reply.usage.prompt_tokens == 14
    assert reply.usage.completion_tokens == len("#### 16") + len("it is 16") + 2
    assert why["cost_usd"] == pytest.approx(14 / 1e6)
    assert why["saved_usd"] == pytest.approx(why["oracle_cost_usd"] - why["cost_usd"])


def test_an_answer_of_the_oracle(differing):
    reply = differing.ask()
    assert reply.choices[0].message.content == "#### 99"
    why = reply.pyramid
    assert (why["escalated"], why["answered_by"], why["degraded"]) == (True, "oracle", False)
    assert why["models_called"] == ["a", "b", "oracle"]
    assert why["p_ensemble_fails"] == pytest.approx(0.5)
    assert (why["models"]["a"]["group"], why["models"]["b"]["group"]) == (0, 1)
    assert reply.usage.prompt_tokens == 21
    assert why["saved_usd"] < 0


def test_models_are_asked_what_the_pyramid_was_trained_to_ask():
    template = {"template": "Q: {question}\nThink.", "system": "You count."}
    with running_gateway(AGREE) as gateway:
        gateway.ask()
        (seen,) = gateway.servers["a"].requests
        assert seen.body["messages"] == [{"role": "user", "content": QUESTION}]
        assert seen.body["model"] == "served-a"
        assert seen.body["logprobs"] is True
        assert (seen.body["temperature"], seen.body["max_tokens"]) == (0.0, 512)
    with running_gateway(AGREE, pyramid={"prompt": PromptTemplate(**template)}) as gateway:
        gateway.ask()
        (seen,) = gateway.servers["a"].requests
        assert seen.body["messages"] == [
            {"role": "system", "content": "You count."},
            {"role": "user", "content": f"Q: {QUESTION}\nThink."},
        ]
        # The pyramid's own system prompt is what the router was trained with.
        reply = gateway.post(
            {
                "model": "pyramid",
                "messages": [
                    {"role": "system", "content": "You count."},
                    {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                ],
            }
        )
        assert reply.json()["pyramid"]["route"] == "vote"
        assert gateway.servers["a"].requests[1].body["messages"] == seen.body["messages"]


def test_what_the_client_wants_of_the_sampling_is_honoured(agreeing):
    before = len(agreeing.servers["a"].requests)
    reply = agreeing.ask(temperature=0.7, top_p=0.9, seed=5, max_tokens=33, stop=["\n\n", "Q:"])
    body = agreeing.servers["a"].requests[before].body
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 5)
    assert (body["max_tokens"], body["stop"]) == (33, ["\n\n", "Q:"])
    assert reply.pyramid["sampling_as_trained"] is False
    assert agreeing.ask(seed=7).pyramid["sampling_as_trained"] is True


def test_several_answers_are_several_ways_through_the_pyramid(agreeing):
    server = agreeing.servers["a"]
    before = len(server.requests)
    reply = agreeing.ask(n=3, temperature=1.0, seed=10)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert sorted(request.body["seed"] for request in server.requests[before:]) == [10, 11, 12]
    assert len(reply.pyramid["choices"]) == 3
    assert reply.usage.prompt_tokens == 3 * 14
    before = len(server.requests)
    greedy = agreeing.ask(n=3)
    assert [choice.message.content for choice in greedy.choices] == ["#### 16"] * 3
    assert len(server.requests) == before + 1  # greedy answers are one and the same
    streamed = agreeing.stream(n=2, temperature=1.0)
    assert {choice.index for chunk in streamed for choice in chunk.choices} == {0, 1}


def test_log_probabilities_are_the_winners(agreeing, differing):
    for gateway, text in ((agreeing, "#### 16"), (differing, "#### 99")):
        content = gateway.ask(logprobs=True).choices[0].logprobs.content
        assert "".join(entry.token for entry in content) == text
        assert {entry.logprob for entry in content} == {-0.5}
        chunks = gateway.stream(logprobs=True)
        streamed = [
            entry.token
            for chunk in chunks
            for choice in chunk.choices
            if choice.logprobs
            for entry in choice.logprobs.content
        ]
        assert "".join(streamed) == text
    assert agreeing.ask().choices[0].logprobs is None


def test_texts_are_questions_too(agreeing):
    before = len(agreeing.servers["a"].requests)
    with agreeing.client() as client:
        reply = client.completions.create(model="pyramid", prompt=["One?", "Two?"], logprobs=0)
        chunks = list(client.completions.create(model="pyramid", prompt="One?", stream=True))
    assert [choice.text for choice in reply.choices] == ["#### 16", "#### 16"]
    assert reply.choices[0].logprobs.text_offset == list(range(8))  # the end token's too
    assert reply.object == "text_completion"
    asked = [r.body["messages"][0]["content"] for r in agreeing.servers["a"].requests[before:]]
    assert sorted(asked) == ["One?", "One?", "Two?"]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "#### 16"


def test_the_models_that_are_offered(agreeing):
    with agreeing.client() as client:
        names = [model.id for model in client.models.list()]
        assert names == ["pyramid", "a", "b", "oracle"]
        assert client.models.retrieve("oracle").owned_by == "pyramid-moa"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4")
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="pyramid@best", messages=chat_body()["messages"])
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "requests with tools"),
        ({"response_format": {"type": "json_object"}}, "answers of a given format"),
        ({"presence_penalty": 0.5}, "requests with presence_penalty"),
        ({"logprobs": True, "top_logprobs": 3}, "requests with top_logprobs"),
        (
            {"messages": [{"role": "system", "content": "Be a pirate."}, *chat_body()["messages"]]},
            "this system prompt",
        ),
        (
            {
                "messages": [
                    *chat_body()["messages"],
                    {"role": "assistant", "content": "16"},
                    {"role": "user", "content": "and three?"},
                ]
            },
            "conversations of several turns",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "How many?"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}},
                        ],
                    }
                ]
            },
            "images and other parts that are no text",
        ),
    ],
)
def test_what_the_router_does_not_know_goes_to_the_oracle_as_it_is(agreeing, fields, why):
    before = len(agreeing.servers["a"].requests)
    reply = agreeing.post(chat_body(**fields))
    assert reply.status_code == 200
    content = reply.json()
    assert content["pyramid"]["route"] == "direct"
    assert content["pyramid"]["reason"] == (
        f"the router was not trained on {why}: straight to the oracle"
    )
    assert reply.headers["x-pyramid-answered-by"] == "oracle"
    assert content["choices"] == chat_reply("#### 99")["choices"]
    sent = agreeing.servers["oracle"].requests[-1].body
    assert sent == {**chat_body(**fields), "model": "served-oracle"}
    assert len(agreeing.servers["a"].requests) == before


def test_what_can_not_be_judged_may_be_refused_instead():
    with running_gateway(
        AGREE, settings=GatewaySettings(faults=QUICK, unsupported="refuse")
    ) as gateway:
        reply = gateway.post(chat_body(tools=[{"type": "function"}]))
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "not_judged"
        assert reply.json()["error"]["param"] == "tools"
        assert gateway.post(chat_body(tools=[{"type": "function"}], model="oracle")).is_success


def test_a_model_by_name_is_asked_as_it_is(agreeing):
    reply = agreeing.ask("hello", model="b")
    assert reply.choices[0].message.content == "it is 16"
    assert reply.model == "b"
    assert (reply.pyramid["route"], reply.pyramid["reason"]) == ("direct", "asked for by name")
    assert agreeing.servers["b"].requests[-1].body == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "served-b",
    }
    chunks = agreeing.stream("hello", model="b", stream_options={"include_usage": True})
    assert text_of(chunks) == "it is 16"
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.model == "b" for chunk in chunks)
    plain = agreeing.stream("hello", model="b")
    # Clients that did not ask for usage look into every chunk's first choice.
    assert all(chunk.choices for chunk in plain)
    assert plain[-1].pyramid["cost_usd"] == pytest.approx(7 / 1e6)


def test_the_dial_can_be_set_for_one_request(agreeing, differing):
    accepted = differing.ask(extra_body={"pyramid": {"threshold": 0.6}})
    assert accepted.pyramid["escalated"] is False
    assert accepted.pyramid["threshold"] == 0.6
    by_header = differing.post(chat_body(), headers={"x-pyramid-threshold": "0.6"})
    assert by_header.json()["pyramid"]["escalated"] is False
    assert by_header.headers["x-pyramid-escalated"] == "false"
    both = differing.post(
        chat_body(pyramid={"threshold": 0.1}), headers={"x-pyramid-threshold": "0.6"}
    )
    assert both.json()["pyramid"]["threshold"] == 0.1
    asked = agreeing.ask(extra_body={"pyramid": {"threshold": -1}})
    assert asked.pyramid["escalated"] is True


def test_a_request_may_have_a_budget(differing):
    reply = differing.ask(extra_body={"pyramid": {"max_cost_usd": 0.004}})
    assert reply.pyramid["budget_exhausted"] is True
    assert reply.pyramid["escalated"] is False
    assert "the budget has no room for more" in reply.pyramid["reason"]
    nothing = differing.post(chat_body(pyramid={"max_cost_usd": 1e-12}))
    assert nothing.status_code == 400
    assert nothing.json()["error"]["code"] == "budget_too_small"


def test_a_budget_without_an_end_is_one_that_holds(agreeing):
    for model in ("pyramid", "oracle"):
        reply = agreeing.post(chat_body(model=model, pyramid={"max_cost_usd": 1.7e308}))
        assert reply.status_code == 200


def test_the_reason_is_in_headers_too(differing):
    headers = differing.post(chat_body()).headers
    assert headers["x-pyramid-route"] == "vote"
    assert headers["x-pyramid-models-called"] == "a,b,oracle"
    assert headers["x-pyramid-reason"] == "1 of 2 members agree: the oracle is asked"
    assert float(headers["x-pyramid-cost-usd"]) > 0
    assert headers["x-request-id"].startswith("chatcmpl-")


def test_the_oracle_answers_where_nobody_else_does_whatever_the_threshold():
    mute = {"a": says("I do not know."), "b": says("Nor do I."), "oracle": says("#### 16")}
    with running_gateway(mute, point=NEVER) as gateway:
        reply = gateway.ask()
        assert reply.choices[0].message.content == "#### 16"
        why = reply.pyramid
        assert (why["escalated"], why["answered_by"]) == (True, "oracle")
        assert why["reason"] == "none of 2 members gave an answer: the oracle is asked"
        assert reply.usage.prompt_tokens == 21
        assert why["cost_usd"] > why["oracle_cost_usd"] > 0


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (chat_body(model="gpt-4"), 404, "model", "model_not_found"),
        ({"model": "pyramid"}, 400, "messages", "missing_field"),
        (chat_body(messages=[]), 400, "messages", "invalid_value"),
        (chat_body(messages="hello"), 400, "messages", "invalid_value"),
        (chat_body(messages=[{"role": "wizard"}]), 400, "messages[0].role", "invalid_value"),
        (chat_body(" \n"), 400, "messages", None),
        (chat_body(temperature=7), 400, "temperature", "invalid_value"),
        (chat_body(temperature="hot"), 400, "temperature", "invalid_value"),
        (chat_body(n=0), 400, "n", "invalid_value"),
        (chat_body(n=1000), 400, "n", None),
        (chat_body(max_tokens=0), 400, "max_tokens", "invalid_value"),
        (chat_body(kv_transfer_params={"host": "x"}), 400, "kv_transfer_params", "unknown_field"),
        (chat_body(pyramid={"treshold": 1}), 400, "pyramid.treshold", "unknown_field"),
        (chat_body(pyramid={"policy": "sequential"}), 400, "pyramid.policy", None),
        (chat_body(pyramid={"max_cost_usd": -1}), 400, "pyramid.max_cost_usd", "invalid_value"),
        ([1, 2], 400, None, "invalid_value"),
    ],
)
def test_a_request_that_is_wrong_is_told_what(agreeing, body, status, param, code):
    reply = agreeing.post(body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_errors_do_not_quote_the_request(agreeing):
    secret = "the launch code is 0451"
    for body in (
        chat_body(model=secret),
        chat_body(temperature=secret),
        chat_body(messages=[{"role": secret, "content": secret}]),
        chat_body(pyramid={"policy": secret}),
    ):
        assert secret not in agreeing.post(body).text


def test_no_body_and_no_path_makes_trouble(agreeing):
    url = f"{agreeing.base_url}/chat/completions"
    json_type = {"content-type": "application/json"}
    deep = b"[" * 100_000
    for content in (b"", b"{", deep, b"\xff\xfe", b'{"model": NaN}', b'{"model":"\\ud800"}'):
        reply = httpx.post(url, content=content, headers=json_type)
        assert reply.status_code == 400, content[:20]
        assert reply.json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(url, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert agreeing.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert agreeing.get("/v1/chat/completions").status_code == 405


def test_limits_of_a_request_are_kept():
    limits = RequestLimits(body_bytes=2000, messages=2, n=2, max_tokens=100)
    settings = GatewaySettings(faults=QUICK, requests=limits)
    with running_gateway(AGREE, settings=settings) as gateway:
        assert gateway.post(chat_body("x" * 3000)).status_code == 413

        def chunked():
            yield b'{"model": "pyramid", "messages": [' + b" " * 3000

        late = httpx.post(
            f"{gateway.base_url}/chat/completions",
            content=chunked(),
            headers={"content-type": "application/json"},
        )
        assert late.status_code == 413
        assert gateway.post(chat_body(n=3)).json()["error"]["param"] == "n"
        assert gateway.post(chat_body(max_tokens=101)).json()["error"]["param"] == "max_tokens"
        many = chat_body(messages=chat_body()["messages"] * 3)
        assert gateway.post(many).json()["error"]["param"] == "messages"
        texts = {"model": "pyramid", "prompt": ["a", "b", "c"]}
        assert gateway.post(texts, "/v1/completions").json()["error"]["param"] == "prompt"


@pytest.mark.parametrize(("asked", "sent"), [(33, 33), (5000, 4096)])
def test_of_the_clients_limit_and_an_entrys_the_smaller_holds_on_every_route(asked, sent):
    answers = {**AGREE, "a": says("#### 15")}
    entry = {"extra_body": {"max_tokens": 4096}}
    with running_gateway(answers, spec=entry) as gateway:
        for model in ("pyramid", "oracle"):
            assert gateway.ask(model=model, max_tokens=asked)
            assert gateway.stream(model=model, max_completion_tokens=asked)
        bodies = [r.body for server in gateway.servers.values() for r in server.requests if r.body]
    assert len([body for body in bodies if body["model"] == "served-oracle"]) == 4
    for body in bodies:
        limits = {name: value for name, value in body.items() if name.startswith("max_")}
        assert limits == {"max_tokens": sent}


def test_no_request_makes_a_server_fetch_an_address(agreeing):
    before = len(agreeing.servers["oracle"].requests)
    for url in ("http://169.254.169.254/", " HTTPS://x/", "file:///etc/passwd", "gopher://x"):
        image = {"type": "image_url", "image_url": {"url": url}}
        reply = agreeing.post(chat_body(messages=[{"role": "user", "content": [image]}]))
        assert reply.status_code == 400
        assert "lets no request name an address" in reply.json()["error"]["message"]
    for fields in (
        {"tools": [{"type": "mcp", "server_url": "http://169.254.169.254/"}]},
        {"messages": [{"role": "user", "content": "hi", "image_url": "http://169.254.169.254/"}]},
        {"mcp_servers": ["http://169.254.169.254/"]},
    ):
        assert agreeing.post(chat_body(**fields)).status_code == 400
    assert len(agreeing.servers["oracle"].requests) == before


def test_what_a_model_refuses_is_the_clients_to_mend():
    refuses = Reply(status=400, body={"error": {"message": "maximum context length is 10"}})
    with running_gateway({**AGREE, "oracle": fails(refuses)}) as gateway:
        reply = gateway.post(chat_body(model="oracle"))
        assert reply.status_code == 400
        assert "maximum context length" in reply.json()["error"]["message"]
        assert "127.0.0.1" not in reply.text


def test_a_base_model_behind_the_gateway_continues_texts():
    answers = {name: lambda request: text_reply("#### 16") for name in ("a", "b", "oracle")}
    plain = {"prompt": PromptTemplate(template="Q: {question} A:", chat=False)}
    with running_gateway(answers, pyramid=plain) as gateway:
        assert gateway.ask("Why?").choices[0].message.content == "#### 16"
        assert gateway.servers["a"].requests[0].body["prompt"] == "Q: Why? A:"
