"""What the OpenAI backend keeps to itself: keys, passwords, addresses and prompts."""

import logging

import pytest
from faulty_server import Reply, faulty_server
from openai_backend import GREEDY, KEY, QUESTION, backend_of, chat, echo, failure, texts

from pyramid_moa.backends import openai_client
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.openai_endpoint import clean_message, endpoint_of
from pyramid_moa.backends.openai_errors import (
    StatusError,
    TooSlowError,
    UnreachableError,
    explained,
)
from pyramid_moa.errors import BackendError, ConfigError


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
