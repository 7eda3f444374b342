"""The gateway as the clients that people have see it: OpenAI's own, and LiteLLM's."""

import asyncio
import json
import subprocess
from pathlib import Path

import openai
import pydantic
import pytest
from faulty_server import Reply, chat_reply, stream_events, text_reply
from running_gateway import DOWN, KEY, QUESTION, QUICK, fails, running_gateway, says

import litellm_env
from pyramid_moa.inference.gateway.settings import GatewaySettings, Load, RequestLimits

DIFFER = {"a": says("#### 16"), "b": says("#### 8"), "oracle": says("#### 99")}
MESSAGES = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "legs", "parameters": {"type": "object"}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "legs", "arguments": '{"of": 2}'}}


def oracle(request):
    """It calls tools where it is given some, and writes JSON where that is wanted."""
    body = request.body
    if body is None:
        return {"data": [{"id": "m"}]}
    if "messages" not in body:
        return text_reply("#### 99")
    if body.get("tools") and body.get("stream"):
        delta = {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}
        chunk = {"id": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        end = {"id": "up", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        return Reply(events=[(0.0, chunk), (0.0, end), (0.0, "[DONE]")])
    if body.get("tools"):
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        return chat_reply("", message=message, finish_reason="tool_calls")
    text = '{"legs": 16}' if body.get("response_format") else "#### 99"
    return Reply(events=stream_events(text)) if body.get("stream") else chat_reply(text)


@pytest.fixture(scope="module")
def gateway():
    with running_gateway({**DIFFER, "oracle": oracle}, keys=[KEY]) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway):
    with gateway.client() as opened:
        yield opened


class Legs(pydantic.BaseModel):
    legs: int


def test_the_reason_is_in_reach_of_the_clients_own_ways(client):
    raw = client.chat.completions.with_raw_response.create(model="pyramid", messages=MESSAGES)
    assert raw.headers["x-pyramid-escalated"] == "true"
    reply = raw.parse()
    assert reply.pyramid["answered_by"] == "oracle"
    assert reply.to_dict()["pyramid"] == reply.pyramid
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_models_are_listed_and_looked_up(client):
    assert [model.id for model in client.models.list()] == ["pyramid", "a", "b", "oracle"]
    assert client.models.retrieve("oracle").owned_by == "pyramid-moa"


def test_tools_are_the_oracles_to_call(client):
    reply = client.chat.completions.create(
        model="pyramid", messages=MESSAGES, tools=[TOOL], tool_choice="auto"
    )
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("legs", {"of": 2})
    assert reply.choices[0].finish_reason == "tool_calls"
    assert (reply.pyramid["route"], reply.pyramid["answered_by"]) == ("direct", "oracle")


def test_the_clients_own_reading_of_streams_puts_tool_calls_together(client):
    with client.chat.completions.stream(model="pyramid", messages=MESSAGES, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].message.tool_calls[0].function.name == "legs"


def test_the_clients_own_reading_of_streams_puts_the_text_together(client):
    with client.chat.completions.stream(model="pyramid", messages=MESSAGES) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "".join(pieces) == "#### 99"
    assert len(pieces) > 1
    assert final.choices[0].finish_reason == "stop"


def test_an_answer_of_a_form_is_parsed(client, gateway):
    reply = client.chat.completions.parse(model="pyramid", messages=MESSAGES, response_format=Legs)
    assert reply.choices[0].message.parsed == Legs(legs=16)
    sent = gateway.servers["oracle"].requests[-1].body["response_format"]
    assert sent["json_schema"]["name"] == "Legs"
    assert reply.pyramid["reason"].startswith("the router was not trained on answers of a given")


def test_texts_can_be_streamed_and_stopped(client, gateway):
    parts = list(
        client.completions.create(
            model="pyramid",
            prompt="How?",
            stream=True,
            stop=["\n"],
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.text for part in parts for choice in part.choices)
    assert text == "#### 99"
    assert parts[-1].usage.prompt_tokens == 21
    assert gateway.servers["a"].requests[-1].body["stop"] == ["\n"]


def test_many_ask_at_once_without_threads(gateway):
    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=KEY) as client:
            one = client.chat.completions.create
            return await asyncio.gather(
                *(one(model="pyramid", messages=MESSAGES, n=2, temperature=1.0) for _ in range(5))
            )

    for reply in asyncio.run(all_of_them()):
        assert [choice.message.content for choice in reply.choices] == ["#### 99"] * 2


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({"model": "none"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"nonsense": 1}}, openai.BadRequestError, "unknown_field"),
        ({"stream": True, "top_p": 7}, openai.BadRequestError, "invalid_value"),
    ],
)
def test_what_is_wrong_is_the_error_that_programs_expect(client, fields, kind, code):
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "pyramid", "messages": MESSAGES, **fields})
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.body["message"]


def test_who_may_not_ask_is_told_so(gateway):
    with gateway.client(api_key="another-key-0123456789") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with (
        running_gateway(DIFFER) as open_one,
        open_one.client(default_headers={"host": "evil.example"}) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.models.list()


def test_too_much_is_the_error_that_programs_expect():
    limits = RequestLimits(body_bytes=1000)
    load = Load(max_concurrency=1, max_queue=0)
    slow = {name: says("#### 16", delay_s=3.0) for name in DIFFER}
    settings = GatewaySettings(faults=QUICK, requests=limits, load=load)
    with running_gateway(slow, settings=settings) as gateway, gateway.client() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            gateway.ask("x" * 2000)
        assert caught.value.status_code == 413

        async def two():
            async with openai.AsyncOpenAI(
                base_url=gateway.base_url, api_key=KEY, max_retries=0
            ) as asking:
                one = asking.chat.completions.create
                asked = [one(model="pyramid", messages=MESSAGES) for _ in range(2)]
                return await asyncio.gather(*asked, return_exceptions=True)

        replies = asyncio.run(two())
        (refused,) = [reply for reply in replies if isinstance(reply, Exception)]
        assert isinstance(refused, openai.RateLimitError)
        assert int(refused.response.headers["retry-after"]) >= 1
        assert client.models.list()


def test_nobody_there_is_an_error_that_clients_try_again():
    with (
        running_gateway({name: fails(DOWN) for name in DIFFER}) as gateway,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        gateway.ask()
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]


@pytest.fixture(scope="session")
def litellm_python():
    """Of LiteLLM's environment, which is made where it is not there yet."""
    return litellm_env.litellm_bin() / "python"


@pytest.mark.timeout(300)
def test_litellms_client_is_served_as_openais_is(gateway, litellm_python):
    script = Path(__file__).with_name("litellm_client.py")
    done = subprocess.run(
        [str(litellm_python), str(script), gateway.base_url, KEY],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    errors = found.pop("errors")
    assert found == {
        "whole": "#### 99",
        "finish_reason": "stop",
        "usage": 3 * 7 + 8 + 7 + 8,
        "escalated": "true",
        "reason": "1 of 2 members agree: the oracle is asked",
        "streamed": "#### 99",
        "streamed_usage": found["streamed_usage"],
        "several": ["#### 99"] * 2,
        "logprobs": 8,
        "tool": "legs",
        "tool_reason": "direct",
        "formed": '{"legs": 16}',
        "dial": "false",
        "text": "#### 99",
        "later": "#### 99",
    }
    assert found["streamed_usage"] > 20
    assert errors == {
        "key": "AuthenticationError",
        "model": "NotFoundError",
        "value": "BadRequestError",
        "field": "BadRequestError",
    }
