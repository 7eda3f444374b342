"""The OpenAI backend against a server on loopback that errs in every way a server can."""

import asyncio
import gc
import gzip
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import FaultyServer, Reply, Request, chat_reply, faulty_server, soon, text_reply

from pyramid_moa.backends import openai_client
from pyramid_moa.backends.hidden_states_file import requested_name, states_path, write_states
from pyramid_moa.backends.loop_thread import LoopThread
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.openai_endpoint import clean_message, endpoint_of
from pyramid_moa.backends.openai_errors import (
    StatusError,
    TooSlowError,
    UnreachableError,
    explained,
)
from pyramid_moa.backends.protocol import (
    Completion,
    Failure,
    HiddenStates,
    Message,
    Prompt,
    Sampling,
    Token,
)
from pyramid_moa.errors import BackendError, ConfigError

KEY = "sk-not-a-real-key-0123456789"
QUESTION = "How many legs do seven spiders and a centipede have together?"
GREEDY = Sampling(max_tokens=20)


def chat(question: str = QUESTION) -> Prompt:
    return Prompt(messages=(Message(role="user", content=question),))


def echo(request: Request) -> dict[str, Any]:
    """Answer with the prompt, and with the model where they are asked for."""
    if request.body is None:
        return {"data": [{"id": "model-x"}]}
    return (chat_reply if "messages" in request.body else text_reply)(request.prompt)


def spec_for(server: FaultyServer, **fields: Any) -> ModelSpec:
    given = {"base_url": server.base_url, "max_retries": 0, "timeout_s": 5.0, **fields}
    return ModelSpec(name="member", model="model-x", backend="openai", **given)


@contextmanager
def backend_of(server: FaultyServer, **fields: Any) -> Iterator[OpenAIBackend]:
    backend = OpenAIBackend(spec_for(server, **fields))
    try:
        yield backend
    finally:
        backend.close()


def ask(
    answer: Callable[[Request], Any], prompt: Prompt | None = None, **fields: Any
) -> Completion | Failure:
    with faulty_server(answer) as server, backend_of(server, **fields) as backend:
        return backend.generate([prompt or chat()], GREEDY)[0]


def failure(answer: Callable[[Request], Any], **fields: Any) -> Failure:
    outcome = ask(answer, **fields)
    assert isinstance(outcome, Failure), outcome
    return outcome


@pytest.fixture(scope="module")
def outcome_of() -> "Iterator[Outcome]":
    """What becomes of a prompt where a server, the same for all, answers as told."""
    told: list[Any] = []
    with faulty_server(lambda _: told[-1]) as server, backend_of(server) as backend:

        def outcome(answer: Any, prompt: Prompt | None = None) -> Completion | Failure:
            told.append(answer)
            return backend.generate([prompt or chat()], GREEDY)[0]

        yield outcome


Outcome = Callable[..., Completion | Failure]


def texts(outcomes: Sequence[Completion | Failure]) -> list[str]:
    return [o.text if isinstance(o, Completion) else f"failed: {o.message}" for o in outcomes]


class TestRequests:
    def test_conversation(self) -> None:
        sampling = Sampling(max_tokens=9, temperature=0.7, top_p=0.9, seed=3, stop=("\n", "Q:"))
        messages = (Message(role="system", content="Be short."), Message(role="user", content="Hi"))
        extra = {"top_k": 5}
        with (
            faulty_server(echo) as server,
            backend_of(server, token_limit_field="max_completion_tokens", extra_body=extra) as b,
        ):
            (outcome,) = b.generate([Prompt(messages=messages)], sampling)
        assert outcome == Completion(
            text="Hi",
            finish_reason="stop",
            prompt_tokens=7,
            completion_tokens=3,
            latency_s=outcome.latency_s,
            tokens=(
                Token(start=0, end=1, logprob=-0.5),
                Token(start=1, end=2, logprob=-0.5),
                Token(start=2, end=2, logprob=-0.5),
            ),
        )
        assert 0 < outcome.latency_s < 5
        (request,) = server.requests
        assert request.path == "/v1/chat/completions"
        assert request.body == {
            "model": "model-x",
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Hi"},
            ],
            "max_completion_tokens": 9,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 3,
            "stop": ["\n", "Q:"],
            "logprobs": True,
            "top_k": 5,
        }

    def test_text(self) -> None:
        with (
            faulty_server(echo) as server,
            backend_of(server, token_limit_field="max_completion_tokens") as backend,
        ):
            (outcome,) = backend.generate([Prompt(text="1+1=")], GREEDY)
        assert isinstance(outcome, Completion)
        assert (outcome.text, outcome.finish_reason) == ("1+1=", "length")
        assert [(t.start, t.end, t.logprob) for t in outcome.tokens][1:3] == [
            (1, 2, -0.25),
            (2, 3, -0.25),
        ]
        (request,) = server.requests
        assert request.path == "/v1/completions"
        assert request.body == {
            "model": "model-x",
            "prompt": "1+1=",
            "max_tokens": 20,
            "temperature": 0.0,
            "top_p": 1.0,
            "logprobs": 1,
        }

    def test_without_logprobs(self) -> None:
        def plain(request: Request) -> dict[str, Any]:
            return chat_reply("4", logprobs=None) if "messages" in request.body else text_reply("4")

        with faulty_server(plain) as server, backend_of(server, logprobs=False) as backend:
            assert backend.gives_logprobs is False
            assert backend.hidden_keys == ()
            outcomes = backend.generate([chat(), Prompt(text="2+2=")], GREEDY)
        assert texts(outcomes) == ["4", "4"]
        assert all(not o.tokens for o in outcomes if isinstance(o, Completion))
        assert all("logprobs" not in request.body for request in server.requests)

    def test_extra_body_may_not_change_what_comes_back(self) -> None:
        with (
            faulty_server(echo) as server,
            pytest.raises(ConfigError, match=r"extra_body: .* found n, stream; remove"),
        ):
            OpenAIBackend(spec_for(server, extra_body={"stream": True, "n": 4}))

    @pytest.mark.parametrize(
        ("own", "sent"),
        [
            ({"max_tokens": 4096}, 20),
            ({"max_completion_tokens": 4096}, 20),
            ({"max_tokens": 5, "max_completion_tokens": None}, 5),
            ({"max_completion_tokens": 5}, 5),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_of_two_limits_the_smaller_holds(
        self, own: dict[str, object], sent: int, field: str
    ) -> None:
        with faulty_server(echo) as server:
            spec = {"extra_body": own, "token_limit_field": field}
            with backend_of(server, **spec) as backend:
                backend.generate([chat("Hi"), Prompt(text="Hi")], GREEDY)
        for request in server.requests:
            name = field if "messages" in request.body else "max_tokens"
            limits = {key: value for key, value in request.body.items() if key.startswith("max_")}
            assert limits == {name: sent}

    @pytest.mark.parametrize("limit", ["4096", 0, -1, 1.5, True])
    def test_a_limit_is_a_number_of_tokens(self, limit: object) -> None:
        spec = ModelSpec(
            name="m", model="x", base_url="http://h/v1", extra_body={"max_tokens": limit}
        )
        with pytest.raises(ConfigError, match="max_tokens: expected a number of tokens"):
            OpenAIBackend(spec)

    @pytest.mark.parametrize("value", [date(2026, 1, 1), {1}, float("inf"), b"bytes"])
    def test_extra_body_must_be_json(self, value: object) -> None:
        spec = ModelSpec(name="m", model="x", base_url="http://h/v1", extra_body={"field": value})
        with pytest.raises(ConfigError, match="extra_body: expected what JSON can hold"):
            OpenAIBackend(spec)

    def test_compressed_answer(self) -> None:
        body = gzip.compress(json.dumps(chat_reply("packed")).encode())
        outcome = ask(lambda _: Reply(body=body, headers={"content-encoding": "gzip"}))
        assert texts([outcome]) == ["packed"]

    def test_split_characters_and_surrogates(self) -> None:
        reply = chat_reply("né\ud83d", pieces=[])
        entries = [[110], [195], [169], None]
        reply["choices"][0]["logprobs"]["content"] = [
            {"token": "x", "bytes": entry, "logprob": -1.0} for entry in entries
        ]
        outcome = ask(lambda _: reply)
        assert isinstance(outcome, Completion)
        # Half a surrogate pair can't be stored anywhere: it becomes the replacement character.
        assert outcome.text == "né\ufffd"
        assert len(outcome.tokens) == 4
        assert all(0 <= token.start <= token.end <= 3 for token in outcome.tokens)

    def test_an_empty_answer_has_no_tokens(self) -> None:
        outcome = ask(lambda _: chat_reply("", pieces=[]))
        assert isinstance(outcome, Completion)
        assert (outcome.text, outcome.tokens) == ("", ())

    def test_usage_may_be_missing_or_nonsense(self) -> None:
        for usage in (
            None,
            7,
            {},
            {"prompt_tokens": -1, "completion_tokens": True},
            {"prompt_tokens": 10**30, "completion_tokens": 2**31 + 1},
        ):
            outcome = ask(lambda _, usage=usage: {**chat_reply("4"), "usage": usage})
            assert isinstance(outcome, Completion)
            assert (outcome.prompt_tokens, outcome.completion_tokens) == (None, None)


class TestSecrets:
    @pytest.fixture(autouse=True)
    def _account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An environment full of things that belong to OpenAI and nobody else."""
        for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
            monkeypatch.setenv(f"OPENAI_{name}", f"leaked-{name}")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/leaked")
        monkeypatch.setenv(
            "OPENAI_CUSTOM_HEADERS", "X-Account: leaked-header\nAuthorization: Bearer leaked-auth"
        )
        monkeypatch.setenv("MY_KEY", f" {KEY}\n")

    @pytest.mark.parametrize(
        ("key_env", "sent"), [(None, "Bearer none"), ("MY_KEY", f"Bearer {KEY}")]
    )
    def test_another_server_gets_its_own_key_and_nothing_else(
        self, key_env: str | None, sent: str
    ) -> None:
        with faulty_server(echo) as server, backend_of(server, api_key_env=key_env) as backend:
            backend.check()
            assert texts(backend.generate([chat("hello")], GREEDY)) == ["hello"]
        assert len(server.requests) == 2
        for request in server.requests:
            assert "leaked" not in repr(request)
            assert request.headers["authorization"] == sent
            assert not any(name.startswith("openai") for name in request.headers)

    def test_without_base_url_it_is_openais_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = ModelSpec(name="oracle", model="gpt", backend="openai")
        endpoint = endpoint_of(spec)
        assert endpoint.base_url == "https://api.openai.com/v1"
        assert (endpoint.key_env, endpoint.key) == ("OPENAI_API_KEY", "leaked-API_KEY")
        assert "leaked" not in repr(endpoint)
        client = openai_client.OpenAIClient(
            endpoint, max_concurrency=1, timeout_s=1, max_retries=0, longest_pause_s=1
        )
        assert str(client.url("/models")) == "https://api.openai.com/v1/models"
        assert client.headers["OpenAI-Organization"] == "leaked-ORG_ID"
        assert client.headers["OpenAI-Project"] == "leaked-PROJECT_ID"
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ConfigError, match=r"'oracle': .* OPENAI_API_KEY is not set"):
            OpenAIBackend(spec)

    def test_named_key_must_be_there_and_look_like_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = ModelSpec(name="m", model="x", base_url="http://h/v1", api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "  ")
        with pytest.raises(ConfigError, match="MY_KEY is not set"):
            OpenAIBackend(spec)
        monkeypatch.setenv("MY_KEY", "sk-secrét")
        with pytest.raises(ConfigError, match="MY_KEY holds characters") as caught:
            OpenAIBackend(spec)
        assert "secr" not in str(caught.value)

    @pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://h/v1", "http://", "http://h:99999/"])
    def test_base_url_must_be_an_address(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"base_url: expected an address such as"):
            OpenAIBackend(ModelSpec(name="m", model="x", backend="openai", base_url=url))

    def test_passwords_in_addresses_are_not_shown(self) -> None:
        url = "http://user:pass@[::1]:8000/v1?token=t"
        endpoint = endpoint_of(ModelSpec(name="m", model="x", base_url=url))
        assert endpoint.address == "http://[::1]:8000/v1"
        assert "pass" not in repr(endpoint)

    @pytest.mark.parametrize("status", [400, 200, 500])
    def test_messages_hold_neither_key_nor_prompt(self, status: int) -> None:
        words = f"bad\n\x1b[31m key {KEY} in {QUESTION!r}, also {QUESTION[5:40]} " + "blah " * 200
        outcome = failure(
            lambda _: Reply(body={"error": {"message": words}}, status=status), api_key_env="MY_KEY"
        )
        assert KEY not in outcome.message
        assert QUESTION[5:25] not in outcome.message
        assert "[prompt]" in outcome.message
        assert outcome.message.isprintable()
        assert len(outcome.message) < 500

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("http://me:s3cret%2FPW@h/v1", "bad password s3cret/PW"),
            ("http://me:s3cret%2FPW@h/v1", "bad password s3cret%2FPW"),
            ("http://user:s3cretPW@h/v1", "bad header Basic dXNlcjpzM2NyZXRQVw=="),
            ("http://token-in-place@h/v1", "bad user token-in-place"),
            ("http://h/v1?api-key=query%2Bsecret&v=1", "no query+secret here"),
            ("http://h/v1?api-key=query%2Bsecret&v=1", "no /v1?api-key=query%2Bsecret here"),
            ("http://h/v1?bare-secret", "no bare-secret here"),
            ("http://h/v1?a=secret&b=secret-and-more", "no secret-and-more here"),
        ],
    )
    def test_what_opens_a_server_is_in_no_message(self, url: str, said: str) -> None:
        endpoint = endpoint_of(ModelSpec(name="m", model="x", base_url=url))
        # Cut as all messages are, but not in the middle of one.
        for body in (said, QUESTION * 70 + said):
            message = str(
                explained(
                    StatusError(401, {}, body.encode()), endpoint, model="x", prompt=[QUESTION * 70]
                )
            )
            for part in ("s3cret", "dXNlc", "in-place", "query", "bare", "and-more"):
                assert part not in message
        assert "***" in str(explained(StatusError(401, {}, said.encode()), endpoint, model="x"))

    @pytest.mark.parametrize(
        "error",
        [
            StatusError(
                307, {"location": "https://10.1.2.3:8443/v1?k=KEY"}, b"see HTTPS://10.1.2.3/"
            ),
            StatusError(401, {}, b"ask 'http://h:8000/v1/keys' or grpc://10.1.2.3"),
            UnreachableError("refused"),
            TooSlowError("late"),
            BackendError("nothing at http://10.1.2.3/v1"),
            ValueError("http://u:p@10.1.2.3 is no URL"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_clients_are_told_no_address(self, error: Exception) -> None:
        spec = ModelSpec(name="m", model="x", base_url="http://h:8000/v1", api_key_env="MY_KEY")
        message = str(explained(error, endpoint_of(spec, for_clients=True), model="x"))
        assert message.startswith("m")
        for part in ("://", "10.1.2.3", "8000", "8443", "MY_KEY"):
            assert part not in message
        assert "h:8000" in str(explained(error, endpoint_of(spec), model="x"))

    def test_nothing_of_it_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        failure(lambda _: Reply(status=500, body=b"no"), api_key_env="MY_KEY")
        assert KEY not in caplog.text
        assert QUESTION[:20] not in caplog.text


@pytest.mark.parametrize(
    ("text", "prompt", "clean"),
    [
        ("bad input: 'ab'", ["ab"], "bad input: 'ab'"),
        ("bad input: 'abcd'", ["abcd"], "bad input: '[prompt]'"),
        ("quoted: 0123456789abcdefXYZ", ["__0123456789abcdef__"], "quoted: [prompt]XYZ"),
        ("x" * 400, [], "x" * 299 + "…"),
        ("two\nlines\ttab", [""], "two lines tab"),
    ],
)
def test_clean_message(text: str, prompt: list[str], clean: str) -> None:
    assert clean_message(text, prompt=prompt) == clean


class TestFaults:
    @pytest.mark.parametrize(
        ("status", "can_retry"),
        [
            *((status, True) for status in (408, 409, 429, 500, 502, 503, 529)),
            # A new key, a paid bill or a model that is loaded again puts these right.
            *((status, True) for status in (401, 402, 403, 404)),
            *((status, False) for status in (400, 413, 422)),
        ],
    )
    def test_status(self, outcome_of: Outcome, status: int, can_retry: bool) -> None:
        outcome = outcome_of(Reply(body={"error": {"message": "out of order"}}, status=status))
        assert isinstance(outcome, Failure)
        assert outcome.can_retry is can_retry
        assert f"answered {status}" in outcome.message
        assert "out of order" in outcome.message
        assert outcome.latency_s > 0

    @pytest.mark.parametrize(
        ("status", "body", "says"),
        [
            (401, {"error": {"message": "no"}}, "wants an API key: name the variable"),
            (404, {"error": {"message": "gone"}}, "is there a model 'model-x'"),
            (400, {"detail": "maximum context length is 9"}, "shorten the prompt or lower max_tok"),
            (500, b"<html><body>Bad Gateway</body></html>", "a page of HTML"),
            (500, b"", "without a word"),
            (422, [1, 2], "answered 422: [1, 2]"),
            (400, {"strange": 1}, "{'strange': 1}"),
        ],
    )
    def test_status_says_what_to_do(
        self, outcome_of: Outcome, status: int, body: Any, says: str
    ) -> None:
        outcome = outcome_of(Reply(body=body, status=status))
        assert isinstance(outcome, Failure)
        assert says in outcome.message

    def test_refused_key_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", KEY)
        outcome = failure(lambda _: Reply(body={}, status=401), api_key_env="MY_KEY")
        assert "refuses the API key in MY_KEY" in outcome.message

    def test_retry_after_is_honoured(self) -> None:
        replies = iter(
            [Reply(status=429, headers={"retry-after": "1"}, body={}), chat_reply("at last")]
        )
        started = time.monotonic()
        outcome = ask(lambda _: next(replies), max_retries=1)
        assert texts([outcome]) == ["at last"]
        # The client's own first wait is half a second at most.
        assert time.monotonic() - started >= 1.0
        assert outcome.latency_s >= 1.0

    @pytest.mark.parametrize("cut_at", [-1, 0, 40])
    def test_cut_connection(self, outcome_of: Outcome, cut_at: int) -> None:
        outcome = outcome_of(Reply(body=chat_reply("never read"), cut_at=cut_at))
        assert isinstance(outcome, Failure)
        assert outcome.can_retry
        assert "can't be reached" in outcome.message

    def test_cut_connection_is_tried_again(self) -> None:
        replies = iter([Reply(body=chat_reply("no"), cut_at=40), chat_reply("yes")])
        assert texts([ask(lambda _: next(replies), max_retries=1)]) == ["yes"]

    def test_every_try_names_its_hidden_states_anew(self, tmp_path: Path) -> None:
        wanted = HiddenStates(layers=(-1,), poolings=("last_prompt",))
        names: list[str] = []

        def answer(request: Request) -> Any:
            """Leave vectors, and lose the answer of the first two tries."""
            parameters = request.body["kv_transfer_params"]
            name = requested_name(parameters)
            assert name is not None
            names.append(name)
            vector = np.full(4, len(names), np.float32)
            write_states(states_path(tmp_path, name), dict.fromkeys(wanted.keys, vector))
            reply = {**chat_reply("at last"), "kv_transfer_params": parameters}
            return Reply(body=reply, cut_at=40) if len(names) < 3 else reply

        with faulty_server(answer) as server:
            spec = spec_for(server, max_retries=2, hidden_states_dir=str(tmp_path))
            backend = OpenAIBackend(spec, hidden_states=wanted)
            try:
                (outcome,) = backend.generate([chat()], GREEDY)
            finally:
                backend.close()
        assert isinstance(outcome, Completion), outcome
        assert len(set(names)) == 3
        (vector,) = outcome.hidden_states.values()
        np.testing.assert_array_equal(vector, np.full(4, 3.0))

    def test_slow_and_dripping_answers_run_out_of_time(self) -> None:
        for reply in (
            Reply(body=chat_reply("late"), delay_s=3.0),
            # Each byte is in time, all of them are not.
            Reply(body=chat_reply("late"), drip_s=0.05),
        ):
            started = time.monotonic()
            outcome = failure(lambda _, reply=reply: reply, timeout_s=0.3)
            assert outcome.can_retry
            assert "no answer in time; raise timeout_s" in outcome.message
            assert 0.3 <= time.monotonic() - started < 2.5

    @pytest.mark.parametrize(
        ("body", "can_retry", "says"),
        [
            (b"<!doctype html><p>Welcome", True, "found a page of HTML: does base_url name"),
            (b'{"choices": [', True, "expected JSON, found 13 bytes"),
            (b"\xff\xfe\x00garbage", True, "expected JSON"),
            (b"[" * 100_000, True, "expected JSON"),
            (b"", True, "found 0 bytes"),
            ([1], True, "to be a JSON object, found list"),
            ({}, True, "expected one choice"),
            ({"choices": []}, True, "expected one choice"),
            ({"choices": "many"}, True, "expected one choice"),
            ({"choices": [None]}, True, "choices[0] to be a JSON object, found NoneType"),
            ({"choices": [{}]}, True, "choices[0].message to be"),
            ({"error": "overloaded"}, False, "the server reports an error: overloaded"),
            ({"error": {"code": 503, "message": "later"}}, True, "reports an error: later"),
            (chat_reply("", message={"content": None}), False, "found a null content"),
            (
                chat_reply("", message={"content": None}, finish_reason="length"),
                False,
                "all of max_tokens = 20 went into reasoning",
            ),
            (chat_reply("", message={"content": ["a"]}), False, "to be text, found list"),
            (chat_reply("x" * 9_000, pieces=[]), False, "expected at most 20 tokens"),
            (chat_reply("4", logprobs=None), False, "set logprobs: false"),
            (chat_reply("4", logprobs={"content": [{"logprob": "a"}]}), False, "set logprobs"),
            (chat_reply("4", logprobs={"content": None}), False, "set logprobs: false"),
        ],
    )
    def test_malformed_answer(
        self, outcome_of: Outcome, body: Any, can_retry: bool, says: str
    ) -> None:
        outcome = outcome_of(body)
        assert isinstance(outcome, Failure)
        assert says in outcome.message
        assert outcome.can_retry is can_retry
        assert outcome.message.startswith("http://127.0.0.1:")

    @pytest.mark.parametrize(
        "logprobs",
        [
            None,
            {"tokens": ["4"], "token_logprobs": []},
            {"tokens": ["4"], "token_logprobs": [None]},
            {"tokens": ["4"], "token_logprobs": [float("-inf")]},
        ],
    )
    def test_malformed_logprobs_of_a_text(self, outcome_of: Outcome, logprobs: Any) -> None:
        outcome = outcome_of(text_reply("4", logprobs=logprobs), Prompt(text="2+2="))
        assert isinstance(outcome, Failure)
        assert "set logprobs: false" in outcome.message

    def test_finish_reason_may_be_missing(self, outcome_of: Outcome) -> None:
        outcome = outcome_of(chat_reply("4", finish_reason=None))
        assert isinstance(outcome, Completion)
        assert outcome.finish_reason == "unknown"

    def test_a_finish_reason_that_is_no_unicode(self, outcome_of: Outcome) -> None:
        # As JSON: the half pair travels as an escape.
        body = json.dumps(chat_reply("4", finish_reason="st\ud800op")).encode()
        outcome = outcome_of(Reply(body=body))
        assert isinstance(outcome, Completion)
        assert outcome.finish_reason == "st\ufffdop"

    def test_huge_answers_are_not_read_to_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openai_client, "MAX_BODY_BYTES", 2 << 20)
        # A bomb: 16 MB that travel as 16 kB.
        bomb = Reply(body=gzip.compress(b" " * (16 << 20)), headers={"content-encoding": "gzip"})
        outcome = failure(lambda _: bomb, max_retries=3)
        assert "the answer is larger than 2 MiB" in outcome.message
        assert not outcome.can_retry

    def test_a_prompt_that_is_no_unicode(self) -> None:
        outcome = ask(echo, prompt=chat("\ud800 what?"))
        assert isinstance(outcome, Failure)
        assert "half of a surrogate pair" in outcome.message
        assert "what" not in outcome.message

    def test_a_number_that_is_no_json(self) -> None:
        with faulty_server(echo) as server, backend_of(server) as backend:
            sampling = Sampling()
            object.__setattr__(sampling, "temperature", float("nan"))  # which it refuses itself
            (outcome,) = backend.generate([chat()], sampling)
        assert isinstance(outcome, Failure)
        assert "ValueError" in outcome.message
        assert not server.requests

    def test_redirects_are_not_followed(self) -> None:
        with faulty_server(echo) as other:
            moved = Reply(status=307, headers={"location": f"{other.base_url}/chat?key={KEY}"})
            outcome = failure(lambda _: moved)
        assert not other.requests
        host = other.base_url.removesuffix("/v1")
        assert f"answered 307 ({host}) and points elsewhere" in outcome.message
        assert not outcome.can_retry

    @pytest.mark.parametrize(
        "location", ["/login?to=/v1", "http://[", "http://h:port/", "https:///x"]
    )
    def test_a_redirect_to_nowhere_else_is_not_shown(self, location: str) -> None:
        outcome = failure(lambda _: Reply(status=307, headers={"location": location}))
        assert "answered 307 and points elsewhere" in outcome.message

    def test_one_failure_spoils_no_other(self) -> None:
        def answer(request: Request) -> Any:
            if request.prompt == "bad":
                return Reply(status=400, body={"error": {"message": "no"}})
            if request.prompt == "cut":
                return Reply(cut_at=-1)
            return echo(request)

        with faulty_server(answer) as server, backend_of(server) as backend:
            outcomes = backend.generate([chat(q) for q in ("a", "bad", "b", "cut", "c")], GREEDY)
        assert [isinstance(outcome, Completion) for outcome in outcomes] == [1, 0, 1, 0, 1]
        assert texts(outcomes)[::2] == ["a", "b", "c"]


class TestConcurrency:
    def test_bounded_and_in_order(self) -> None:
        def answer(request: Request) -> Any:
            # Later questions are answered sooner.
            return Reply(body=echo(request), delay_s=0.002 * (40 - int(request.prompt)))

        questions = [str(number) for number in range(40)]
        with faulty_server(answer) as server, backend_of(server, max_concurrency=5) as backend:
            outcomes = backend.generate([chat(q) for q in questions], GREEDY)
        assert texts(outcomes) == questions
        assert server.most_under_way == 5
        assert server.connections <= 5

    def test_calls_share_the_bound_and_the_connections(self) -> None:
        def answer(request: Request) -> Any:
            return Reply(body=echo(request), delay_s=0.02)

        async def many(backend: OpenAIBackend) -> list[list[Completion | Failure]]:
            calls = (backend.agenerate([chat(str(number))], GREEDY) for number in range(9))
            return await asyncio.gather(*calls)

        with faulty_server(answer) as server, backend_of(server, max_concurrency=3) as backend:
            for _ in range(2):
                # Each asyncio.run has a loop of its own.
                outcomes = asyncio.run(many(backend))
                assert texts([outcome for (outcome,) in outcomes]) == [str(i) for i in range(9)]
            backend.generate([chat()], GREEDY)
        assert server.most_under_way == 3
        assert server.connections == 3

    def test_sync_call_while_a_loop_runs(self) -> None:
        async def inside(backend: OpenAIBackend) -> list[str]:
            here = backend.generate([chat("here")], GREEDY)
            there = await asyncio.to_thread(backend.generate, [chat("there")], GREEDY)
            return texts([*here, *there])

        with faulty_server(echo) as server, backend_of(server) as backend:
            assert asyncio.run(inside(backend)) == ["here", "there"]
            assert backend.generate([], GREEDY) == []

    def test_the_loop_is_free_while_it_waits(self) -> None:
        async def inside(backend: OpenAIBackend) -> int:
            ticks = 0
            waiting = asyncio.ensure_future(backend.agenerate([chat()], GREEDY))
            while not waiting.done():
                await asyncio.sleep(0.005)
                ticks += 1
            return ticks

        slow = lambda request: Reply(body=echo(request), delay_s=0.2)  # noqa: E731 - one line
        with faulty_server(slow) as server, backend_of(server) as backend:
            assert asyncio.run(inside(backend)) > 5

    def test_cancelling_cancels_the_requests(self) -> None:
        async def impatient(backend: OpenAIBackend) -> None:
            async with asyncio.timeout(0.1):
                await backend.agenerate([chat(), chat()], GREEDY)

        with (
            faulty_server(lambda _: Reply(body=chat_reply("late"), delay_s=4)) as server,
            backend_of(server) as backend,
        ):
            with pytest.raises(TimeoutError):
                asyncio.run(impatient(backend))
            assert server.hung_up.wait(2.0)
            assert soon(lambda: server.under_way == 0)

    def test_closing_ends_what_is_under_way(self) -> None:
        found: list[BaseException] = []

        def call(backend: OpenAIBackend, run: Callable[[OpenAIBackend], object]) -> None:
            try:
                run(backend)
            except BaseException as error:
                found.append(error)

        ways: list[Callable[[OpenAIBackend], object]] = [
            lambda backend: backend.generate([chat()], GREEDY),
            lambda backend: asyncio.run(backend.agenerate([chat()], GREEDY)),
        ]
        with faulty_server(lambda _: Reply(delay_s=4)) as server:
            for run in ways:
                backend = OpenAIBackend(spec_for(server))
                caller = threading.Thread(target=call, args=(backend, run))
                server.started.clear()
                caller.start()
                assert server.started.wait(2.0)
                backend.close()
                caller.join(2.0)
                assert not caller.is_alive()
        assert [type(error) for error in found] == [BackendError, BackendError]

    def test_an_interrupt_cancels_the_requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        submit = LoopThread.submit

        class Interrupted:
            """A future whose waiter is interrupted once the request is under way."""

            def __init__(self, thread: LoopThread, work: Any) -> None:
                self.future = submit(thread, work)

            def result(self) -> None:
                assert server.started.wait(2.0)
                raise KeyboardInterrupt

            def cancel(self) -> bool:
                return self.future.cancel()

        monkeypatch.setattr(LoopThread, "submit", lambda *args: Interrupted(*args))
        with (
            faulty_server(lambda _: Reply(body=chat_reply("late"), delay_s=4)) as server,
            backend_of(server) as backend,
        ):
            with pytest.raises(KeyboardInterrupt):
                backend.generate([chat()], GREEDY)
            assert server.hung_up.wait(2.0)

    def test_closed_for_good_and_nothing_left(self) -> None:
        before = threading.active_count()
        with warnings.catch_warnings(record=True) as caught, faulty_server(echo) as server:
            warnings.simplefilter("always")
            backend = OpenAIBackend(spec_for(server))
            backend.check()
            backend.generate([chat(str(number)) for number in range(4)], GREEDY)
            backend.close()
            backend.close()
            with pytest.raises(BackendError, match="'member': the backend has been closed"):
                backend.generate([chat()], GREEDY)
            with pytest.raises(BackendError, match="has been closed"):
                asyncio.run(backend.agenerate([chat()], GREEDY))
            del backend
            gc.collect()
        assert not [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
        assert soon(lambda: threading.active_count() <= before)


class TestCheck:
    def check(self, answer: Any, **fields: Any) -> FaultyServer:
        with faulty_server(lambda _: answer) as server, backend_of(server, **fields) as backend:
            backend.check()
        return server

    @pytest.mark.parametrize(
        "answer",
        [
            {"object": "list", "data": [{"id": "other"}, {"id": "model-x"}]},
            [{"id": "model-x"}],
            {"data": []},
            {"models": "elsewhere"},
            "nothing",
            Reply(status=404),
            Reply(status=405),
        ],
    )
    def test_passes(self, answer: Any) -> None:
        server = self.check(answer)
        assert [request.path for request in server.requests] == ["/v1/models"]

    def test_unknown_model(self) -> None:
        listing = {"data": [{"id": f"m{number}"} for number in range(12)]}
        with pytest.raises(BackendError) as caught:
            self.check(listing)
        assert not caught.value.can_retry
        assert str(caught.value).endswith(
            "expected a model that the server has, found 'model-x'; it has "
            "m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more"
        )
        with pytest.raises(BackendError, match=r"it has only$"):
            self.check({"data": [{"id": "only"}, {"id": 7}, "x"]})

    def test_nobody_there(self) -> None:
        with faulty_server(echo) as server:
            spec = spec_for(server, max_retries=4)
        backend = OpenAIBackend(spec)
        started = time.monotonic()
        with pytest.raises(BackendError, match="is the server running there") as caught:
            backend.check()
        backend.close()
        assert caught.value.can_retry
        assert server.base_url in str(caught.value)
        assert "'member'" in str(caught.value)
        assert time.monotonic() - started < 2

    @pytest.mark.parametrize(
        ("answer", "can_retry", "says"),
        [
            (Reply(status=401), True, "wants an API key"),
            (Reply(status=403), True, "wants an API key"),
            (Reply(status=503), True, "answered 503"),
            (Reply(body=b"<html>"), True, "a page of HTML: does base_url"),
        ],
    )
    def test_fails(self, answer: Reply, can_retry: bool, says: str) -> None:
        with pytest.raises(BackendError, match=says) as caught:
            self.check(answer)
        assert caught.value.can_retry is can_retry

    def test_refused_key_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", KEY)
        with pytest.raises(BackendError, match="refuses the API key in MY_KEY"):
            self.check(Reply(status=403), api_key_env="MY_KEY")


def test_this_machines_servers_need_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with faulty_server(echo) as proxy, faulty_server(echo) as server:
        address = proxy.base_url.removesuffix("/v1")
        monkeypatch.setenv("HTTP_PROXY", address)
        near = server.base_url
        for url in (near, near.replace("127.0.0.1", "localhost")):
            with backend_of(server, base_url=url) as backend:
                assert texts(backend.generate([chat("hello")], GREEDY)) == ["hello"]
        assert not proxy.requests
        # Anybody else's server is reached through it.
        with backend_of(server, base_url="http://pyramid.invalid/v1") as backend:
            assert texts(backend.generate([chat("hello")], GREEDY)) == ["hello"]
        assert [request.path for request in proxy.requests] == [
            "http://pyramid.invalid/v1/chat/completions"
        ]


def test_importing_it_does_not_import_the_client() -> None:
    code = (
        "import sys, pyramid_moa.backends.openai_api; "
        "print([m for m in ('aiohttp', 'openai', 'httpx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
