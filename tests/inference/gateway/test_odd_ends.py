"""Clients and servers that do what nobody expects of them."""

import contextlib
import json
import socket

import pytest
from faulty_server import Reply, chat_reply, soon, stream_events
from running_gateway import chat_body, running_gateway, says

from pyramid_moa.inference.gateway import bounded_http
from pyramid_moa.inference.gateway.api_error import ApiError
from pyramid_moa.inference.gateway.api_request import ChatRequest
from pyramid_moa.inference.gateway.named_addresses import is_remote
from pyramid_moa.inference.gateway.question import check_limits
from pyramid_moa.inference.gateway.reply import event, json_text
from pyramid_moa.inference.gateway.settings import RequestLimits

MEMBERS = {"a": says("#### 16"), "b": says("#### 8")}
REFUSED = Reply(status=400, body={"error": {"message": "the prompt is longer than the context"}})


def odd(body):
    return lambda request: {"data": [{"id": "m"}]} if request.body is None else Reply(body=body)


@pytest.mark.parametrize("tokens", [-5, True, "7", 1.5, None, pytest.param(10**400, id="huge")])
def test_tokens_that_are_none_are_not_counted(tokens):
    reply = chat_reply("#### 16")
    reply["usage"] = {"prompt_tokens": tokens, "completion_tokens": 3}
    with running_gateway({**MEMBERS, "oracle": odd(reply)}) as gateway:
        told = gateway.post(chat_body(model="oracle"))
        assert told.status_code == 200
        assert told.json()["choices"][0]["message"]["content"] == "#### 16"
        assert "pyramid_moa_tokens" in gateway.get("/metrics").text


def test_numbers_that_json_lacks_become_null():
    value = {"a": float("-inf"), "b": [1.5, float("nan")], "c": {"d": float("inf")}}
    expected = {"a": None, "b": [1.5, None], "c": {"d": None}}
    assert json.loads(json_text(value)) == expected
    assert json.loads(event(value).removeprefix(b"data: ")) == expected
    assert json_text({"a": 0.5}) == b'{"a":0.5}'


def test_an_odd_logprob_of_a_server_does_no_harm():
    reply = chat_reply("#### 16")
    reply["choices"][0]["logprobs"] = {"content": [{"token": "#", "logprob": float("-inf")}]}
    with running_gateway({**MEMBERS, "oracle": odd(reply)}) as gateway:
        told = gateway.post(chat_body(model="oracle", logprobs=True))
        assert told.status_code == 200
        assert told.json()["choices"][0]["logprobs"]["content"][0]["logprob"] is None


def streamed_or_whole(levels=0, **choice):
    """A server whose answer has odd fields in its choice, some nested, however it is asked."""

    def text(body):
        return json.dumps(body).replace('"nested"', "[" * levels + "]" * levels)

    def answer(request):
        if request.body is None:
            return {"data": [{"id": "m"}]}
        if not request.body.get("stream"):
            return Reply(body=text(chat_reply("#### 99", **choice)).encode())
        *chunks, usage, done = stream_events("#### 99")
        for _, chunk in chunks:
            chunk["choices"][0] |= choice
        return Reply(events=[*((0.0, text(chunk)) for _, chunk in chunks), usage, done])

    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("index", [[0], {}, "0", None])
def test_an_index_that_is_no_number_is_that_of_the_only_answer(index, stream):
    with running_gateway({**MEMBERS, "oracle": streamed_or_whole(index=index)}) as gateway:
        told = gateway.post(chat_body(model="oracle", stream=stream))
        assert told.status_code == 200
        assert '"error"' not in told.text
        assert '"finish_reason":"stop"' in told.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("levels", "answered_by"), [(97, "oracle"), (98, "a"), (1000, "a")])
def test_what_is_nested_too_deeply_to_be_handed_on_is_no_answer(levels, answered_by, stream):
    turns = [{"role": role, "content": "And two?"} for role in ("user", "assistant", "user")]
    answer = streamed_or_whole(levels, odd="nested")
    with running_gateway({**MEMBERS, "oracle": answer}) as gateway:
        told = gateway.post(chat_body(messages=turns, stream=stream))
        assert told.status_code == 200
        assert told.headers["x-pyramid-answered-by"] == answered_by
        assert '"error"' not in told.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_every_model_refuses_is_the_clients_to_mend(stream):
    refuses = odd(None)

    def answer(request):
        return refuses(request) if request.body is None else REFUSED

    with running_gateway({"a": answer, "b": answer, "oracle": answer}) as gateway:
        told = gateway.post(chat_body(stream=stream))
        assert told.status_code == 400
        assert told.json()["error"]["code"] == "refused_by_model"
        assert "retry-after" not in told.headers


@contextlib.contextmanager
def unread(gateway, *, stream):
    """A client that asks for much and reads none of it, once the oracle has been asked."""
    body = json.dumps(chat_body(model="oracle", stream=stream)).encode()
    host, port = gateway.root.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        oracle = gateway.servers["oracle"]
        assert soon(lambda: any(r.body for r in oracle.requests), within_s=10)
        yield


def says_much(request):
    if request.body is None:
        return {"data": [{"id": "m"}]}
    if request.body.get("stream"):
        return Reply(events=stream_events("", pieces=["x" * 100_000] * 100))
    return Reply(body=chat_reply("x" * 10_000_000, pieces=["x"]))


@pytest.mark.parametrize(("stream", "status"), [(True, "499"), (False, "200")])
def test_a_client_that_stops_reading_loses_its_place(stream, status, monkeypatch, caplog):
    """And its connection, even where all of the answer has been written."""
    monkeypatch.setattr(bounded_http, "_WRITE_S", 1.0)
    with running_gateway({**MEMBERS, "oracle": says_much}) as gateway:
        with unread(gateway, stream=stream):
            ended = f'status="{status}"'
            assert soon(lambda: ended in gateway.get("/metrics").text, within_s=20)
            assert soon(lambda: not gateway.server.server_state.connections, within_s=20)
        # The oracle sees the end of its connection, and that takes a moment.
        assert soon(lambda: gateway.servers["oracle"].under_way == 0)
    assert not [r for r in caplog.records if r.name == "uvicorn.error" and r.levelname != "INFO"]


def test_a_client_that_stops_reading_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(bounded_http, "_WRITE_S", 1.0)
    with contextlib.ExitStack() as client:
        with running_gateway({**MEMBERS, "oracle": says_much}) as gateway:
            client.enter_context(unread(gateway, stream=False))
            assert soon(lambda: 'status="200"' in gateway.get("/metrics").text, within_s=20)
        # Which it does only when no connection is left.
        assert not gateway.server.server_state.connections


@pytest.mark.parametrize(
    "address",
    [
        "ht\ttp:/\t/169.254.169.254/",
        "\x01" * 70 + "http://169.254.169.254/",
        "http:/host",
        "http:\\\\host",
        "HTTPS://host",
        " file:///etc/passwd",
        " " * 4096 + "http://169.254.169.254/",
        "h" + "\n" * 5000 + "ttp://169.254.169.254/",
        "\u00a0" * 65 + "http://169.254.169.254/",
        "\u200bhttp://169.254.169.254/",
    ],
)
def test_addresses_are_seen_through_what_their_readers_leave_out(address):
    assert is_remote(address)
    part = {"type": "image_url", "image_url": {"url": address}}
    with running_gateway({**MEMBERS, "oracle": says("#### 16")}) as gateway:
        told = gateway.post(chat_body(messages=[{"role": "user", "content": [part]}]))
        assert told.status_code == 400
        assert not [r for r in gateway.servers["oracle"].requests if r.body is not None]


@pytest.mark.parametrize(
    "address", ["/etc/passwd", "cat.png", " data:,x", "//host/x", "\\\\host\\x"]
)
@pytest.mark.parametrize(
    "part",
    [
        lambda address: {"type": "image_url", "image_url": {"url": address}},
        lambda address: {"type": "image_url", "image_url": address},
        lambda address: {"type": "video_url", "video_url": {"url": [address]}},
    ],
)
def test_where_an_address_stands_only_data_is_one(part, address):
    def sent(address):
        message = {"role": "user", "content": [part(address)]}
        return ChatRequest.model_validate({"model": "m", "messages": [message]})

    with pytest.raises(ApiError, match="data: addresses"):
        check_limits(sent(address), RequestLimits())
    check_limits(sent(address), RequestLimits(remote_images=True))
    check_limits(sent("data:image/png;base64,AAAA"), RequestLimits())


FAR = "http://169.254.169.254/"


def with_message(**fields):
    return {"messages": [{"role": "user", "content": "hi", **fields}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "mcp", "server_url": FAR}]}, "tools"),
        ({"tools": [{"type": "mcp", "server_label": "x", "parameters": {"u": FAR}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {}, "server_url": "//h"}]}, "tools"),
        ({"tools": [{"headers": {"referer": FAR}}]}, "tools"),
        (with_message(image_url=FAR), "messages"),
        (with_message(images=[{"source": FAR}]), "messages"),
        (with_message(text={"source": FAR}), "messages"),
        ({"tool_choice": {"type": "mcp", "server_url": FAR}}, "tool_choice"),
        ({"function_call": {"at": FAR}}, "function_call"),
        ({"audio": {"voice": {"sample_url": "x.wav"}}}, "audio"),
        ({"prediction": {"type": "content", "content": [{"image_url": FAR}]}}, "prediction"),
    ],
    ids=str,
)
def test_no_field_that_is_handed_on_names_an_address(fields, param):
    request = ChatRequest.model_validate(chat_body(**fields))
    with pytest.raises(ApiError, match="lets no request name an address") as caught:
        check_limits(request, RequestLimits())
    assert caught.value.param == param
    check_limits(request, RequestLimits(remote_images=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"parameters": {"$schema": FAR}}}]},
        {"tools": [{"type": "function", "function": {"description": f"Reads {FAR}"}}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"examples": [FAR]}}]},
        {"tools": [{"type": "custom", "custom": {"name": "f", "description": FAR}}]},
        {"functions": [{"name": "f", "parameters": {"$schema": FAR}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$id": FAR}}}},
        with_message(tool_calls=[{"function": {"name": "f", "arguments": f'{{"url": "{FAR}"}}'}}]),
        with_message(reasoning_content=FAR, refusal=FAR, name="x"),
        {"prediction": {"type": "content", "content": FAR}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": FAR}]}]},
        {"tool_choice": "auto", "metadata": {"page": FAR}},
    ],
    ids=str,
)
def test_words_and_schemas_may_hold_addresses(fields):
    check_limits(ChatRequest.model_validate(chat_body(**fields)), RequestLimits())


@pytest.mark.parametrize("text", ["data:image/png;base64,AAAA", "image_url", "auto", "call_1"])
def test_what_is_no_address_passes(text):
    assert not is_remote(text)


def test_answers_that_are_thrown_away_are_answers():
    with running_gateway({**MEMBERS, "oracle": says("#### 16")}) as gateway:
        body = {"model": "oracle", "prompt": "Once", "best_of": 1_000_000}
        told = gateway.post(body, path="/v1/completions")
        assert told.status_code == 400
        assert "answers" in told.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [[{}], [], [None], ["x"]])
def test_what_is_no_answer_is_not_handed_on_as_one(choices, stream):
    def answer(request):
        if request.body is None:
            return {"data": [{"id": "m"}]}
        if request.body.get("stream"):
            ends = {"index": 0, "finish_reason": "stop"}
            good = [{"choices": [ends]}] if choices == [{}] else []
            return Reply(events=[(0.0, {"choices": choices}), *((0.0, c) for c in good)])
        return Reply(body={"choices": choices})

    with running_gateway({**MEMBERS, "oracle": answer}) as gateway:
        told = gateway.post(chat_body(model="oracle", stream=stream))
        if stream and choices == [{}]:
            # Choices without a text are chunks all the same.
            assert told.text.endswith("data: [DONE]\n\n")
            return
        assert told.status_code == 503
        assert told.json()["error"]["code"] == "no_model_available"


@pytest.mark.parametrize("late", ["usage with choices", "a comment of the server's", "nothing"])
def test_the_last_chunk_has_what_clients_need_whatever_a_server_sends_in_the_end(late):
    """Some send an empty choice with the tokens, some more than that, after the end."""
    *tokens, finish, _, done = stream_events("#### 99")
    empty = {"index": 0, "delta": {}, "finish_reason": None}
    usage = {"prompt_tokens": 7, "completion_tokens": 7}
    more = {
        "usage with choices": [(0.0, {"id": "up-1", "choices": [empty], "usage": usage})],
        "a comment of the server's": [(0.0, {"id": "up-1", "choices": [empty]})] * 2,
        "nothing": [],
    }[late]

    def answer(request):
        if request.body is None:
            return {"data": [{"id": "m"}]}
        return Reply(events=[*tokens, finish, *more, done])

    with running_gateway({**MEMBERS, "oracle": answer}) as gateway:
        chunks = gateway.stream(model="oracle")
        assert chunks[-1].id == chunks[0].id != ""
        assert chunks[-1].choices
        assert chunks[-1].pyramid["answered_by"] == "oracle"
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons.count("stop") == 1
        wanted = gateway.stream(model="oracle", stream_options={"include_usage": True})
        assert wanted[-1].id == wanted[0].id
        assert wanted[-1].pyramid["answered_by"] == "oracle"


def test_after_the_largest_seed_comes_the_smallest():
    greatest = 2**63 - 1
    with running_gateway({**MEMBERS, "oracle": says("#### 99")}) as gateway:
        gateway.ask(seed=greatest, n=2, temperature=1.0)
        seeds = {r.body["seed"] for r in gateway.servers["a"].requests if r.body}
        assert seeds == {greatest, -(2**63)}
