"""The OpenAI backend against a server on loopback that errs in every way a server can."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import Reply, Request, chat_reply, faulty_server, text_reply
from openai_backend import GREEDY, KEY, ask, backend_of, chat, echo, failure, spec_for, texts

from pyramid_moa.backends import openai_client
from pyramid_moa.backends.hidden_states_file import requested_name, states_path, write_states
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.protocol import Completion, Failure, HiddenStates, Prompt, Sampling


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
