"""``stream``: every prompt once, a bounded number under way, and what drawing raises comes out."""

import asyncio
import itertools
import threading
import time

import pytest
from faulty_server import Reply, faulty_server

from pyramid_moa.backends import Completion, Prompt, RecordedBackend, Sampling, open_backend
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.errors import BackendError, DataError
from pyramid_moa.records import Generation

GREEDY = Sampling(max_tokens=4)


class Source:
    """Prompts without end, counted."""

    def __init__(self, *, most=10**9, error=None):
        self.drawn = 0
        self._most = most
        self._error = error

    def __iter__(self):
        for number in range(self._most):
            self.drawn += 1
            yield Prompt(text=f"prompt {number}")
        if self._error is not None:
            raise self._error


def answer(request):
    number = request.prompt.removeprefix("prompt ")
    return Reply(
        body={
            "choices": [{"text": number, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1},
        },
        # Later prompts are answered sooner now and then.
        delay_s=0.004 * (int(number) % 3),
    )


@pytest.fixture
def server():
    with faulty_server(answer) as running:
        yield running


@pytest.fixture
def remote(server):
    spec = ModelSpec(
        name="m",
        backend="openai",
        model="m",
        base_url=server.base_url,
        max_concurrency=4,
        logprobs=False,
    )
    from pyramid_moa.backends.openai_api import OpenAIBackend

    backend = OpenAIBackend(spec)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def local(tiny_models):
    backend = open_backend(ModelSpec(name="m", model=str(tiny_models.member_a), batch_size=4))
    yield backend
    backend.close()


def test_a_server_answers_each_prompt_once(remote, server):
    outcomes = dict(remote.stream(Source(most=50), GREEDY))
    assert sorted(outcomes) == list(range(50))
    assert all(outcomes[number].text == str(number) for number in outcomes)
    # Never more than were asked for at once; on a busy machine they may not meet.
    assert 1 < server.most_under_way <= 4


def test_a_server_is_asked_no_more_than_is_taken(remote):
    source = Source()
    outcomes = remote.stream(source, GREEDY)
    for _ in itertools.islice(outcomes, 3):
        time.sleep(0.2)
    # Under way, waiting to be taken, and taken.
    assert source.drawn <= 4 + (4 * 4 + 4) + 3
    outcomes.close()
    time.sleep(0.1)
    drawn = source.drawn
    time.sleep(0.1)
    assert source.drawn == drawn


def test_what_drawing_raises_comes_out_of_a_server_stream(remote):
    seen = []
    with pytest.raises(DataError, match="broken source"):
        seen.extend(remote.stream(Source(most=5, error=DataError("broken source")), GREEDY))
    assert dict(remote.stream(Source(most=2), GREEDY)).keys() == {0, 1}


def test_closing_the_backend_ends_its_stream(remote):
    outcomes = remote.stream(Source(), GREEDY)
    next(outcomes)
    threading.Timer(0.05, remote.close).start()
    with pytest.raises(BackendError, match="closed"):
        for _ in outcomes:
            pass


def test_a_stream_and_single_requests_share_the_bound(remote, server):
    outcomes = remote.stream(Source(most=40), GREEDY)
    first = next(outcomes)
    single = asyncio.run(remote.agenerate([Prompt(text="prompt 99")], GREEDY))
    assert single[0].text == "99"
    assert len([first, *outcomes]) == 40
    assert server.most_under_way <= 4


def test_transformers_answer_as_generate_does(local):
    prompts = [Prompt(text=f"{number} apples and {number % 5}") for number in range(37)]
    source = iter(prompts)
    outcomes = local.stream(source, GREEDY)
    first = next(outcomes)
    assert len(list(source)) == 37 - 16  # four batches of four are drawn at once
    assert first[0] == 0
    assert [number for number, _ in outcomes] == list(range(1, 16))
    whole = local.generate(prompts, GREEDY)
    streamed = dict(local.stream(iter(prompts), GREEDY))
    assert [streamed[number].text for number in range(37)] == [row.text for row in whole]


def test_recorded_answers_come_one_by_one():
    rows = {
        Prompt(text=f"prompt {number}"): Generation(
            query_id=str(number), model="m", response=str(number)
        )
        for number in range(3)
    }
    source = Source()
    outcomes = RecordedBackend("m", rows).stream(source, GREEDY)
    found = [next(outcomes) for _ in range(4)]
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert isinstance(found[2][1], Completion)
    assert found[3][1].message == "no recorded answer of m"
    assert source.drawn == 4
