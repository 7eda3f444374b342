"""What the OpenAI backend asks of a server, and what it makes of an answer."""

import gzip
import json
import subprocess
import sys
from datetime import date
from typing import Any

import pytest
from faulty_server import Reply, Request, chat_reply, faulty_server, text_reply
from openai_backend import GREEDY, ask, backend_of, chat, echo, spec_for, texts

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.protocol import Completion, Message, Prompt, Sampling, Token
from pyramid_moa.errors import ConfigError


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
