"""What the OpenAI backend finds out of a server before it asks anything."""

import time
from typing import Any

import pytest
from faulty_server import FaultyServer, Reply, faulty_server
from openai_backend import KEY, backend_of, echo, spec_for

from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.errors import BackendError


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
