"""vLLM in this process, with transformers as the measure, on the embedded models."""

import os
import random
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from vllm_server import skip_without_vllm

from pyramid_moa.backends import (
    Backend,
    Completion,
    Failure,
    HiddenStates,
    Prompt,
    Sampling,
    open_backend,
    vllm_local,
)
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.word_problems import make_problems
from pyramid_moa.errors import BackendError, ConfigError
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Query

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

PYRAMID = load_pyramid("embedded")
HIDDEN = HiddenStates(layers=(-1, 0, 2), poolings=("last_prompt", "last_position", "answer_mean"))
QUERIES = [
    Query(query_id=str(n), question=problem.question)
    for n, problem in enumerate(make_problems(split="test", count=40, seed=3))
]
EAGER = ["--enforce-eager"]
# So little room that long prompts come in chunks and that requests are put off and begun again.
NARROW = [*EAGER, "--max-num-seqs", "8", "--max-num-batched-tokens", "128"]
FILLING = "Anna has 3 apples and buys 4 more. "
MEMBER = replace(PYRAMID.members[0], kv_cache_bytes=8 << 20, extra_args=NARROW)


@pytest.fixture(scope="module", autouse=True)
def _needs_vllm() -> None:
    skip_without_vllm()


@pytest.fixture(scope="module")
def backend() -> Iterator[vllm_local.VllmBackend]:
    opened = open_backend(replace(MEMBER, backend="vllm"), hidden_states=HIDDEN)
    assert isinstance(opened, vllm_local.VllmBackend)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Backend]:
    opened = open_backend(replace(MEMBER, backend="transformers"), hidden_states=HIDDEN)
    yield opened
    opened.close()


def assert_same(
    found: Sequence[Completion | Failure], wanted: Sequence[Completion | Failure]
) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, Completion), one
        assert isinstance(other, Completion), other
        assert replace(one, tokens=(), latency_s=0) == replace(other, tokens=(), latency_s=0)
        assert [(t.start, t.end) for t in one.tokens] == [(t.start, t.end) for t in other.tokens]
        assert [t.logprob for t in one.tokens] == pytest.approx(
            [t.logprob for t in other.tokens], abs=1e-3
        )
        assert one.hidden_states.keys() == other.hidden_states.keys()
        for key, vector in other.hidden_states.items():
            size = max(1.0, float(np.abs(vector).max()))
            np.testing.assert_allclose(
                one.hidden_states[key].astype(float), vector.astype(float), atol=1e-3 * size
            )


@pytest.mark.parametrize("number", range(1, 4))
def test_the_embedded_pyramid_with_only_the_backend_lines_changed(number: int) -> None:
    """Answers, texts, log-probability statistics and hidden states; member-a is below."""
    spec = PYRAMID.models[number]
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES]
    grader = load_grader(PYRAMID.grader)
    outcomes = {}
    for kind in ("transformers", "vllm"):
        opened = open_backend(
            replace(spec, backend=kind, kv_cache_bytes=64 << 20, extra_args=EAGER),
            hidden_states=HIDDEN,
        )
        try:
            outcomes[kind] = opened.generate(prompts, PYRAMID.sampling)
        finally:
            opened.close()
    with pytest.raises(BackendError, match="has been closed"):
        opened.generate(prompts[:1], PYRAMID.sampling)
    assert_same(outcomes["vllm"], outcomes["transformers"])
    for query, *pair in zip(QUERIES, outcomes["vllm"], outcomes["transformers"], strict=True):
        one, other = (graded_generation(query, spec, outcome, grader) for outcome in pair)
        assert one.answer == other.answer
        assert one.logprobs is not None
        assert other.logprobs is not None
        for name in ("mean", "minimum", "tail_mean", "answer_mean", "answer_minimum"):
            assert getattr(one.logprobs, name) == pytest.approx(
                getattr(other.logprobs, name), abs=1e-3
            )


def test_long_prompts_shared_beginnings_and_too_little_room(
    backend: vllm_local.VllmBackend, local: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler: Any = backend._engine.llm.engine_core.engine_core.scheduler
    preempt, put_off = scheduler._preempt_request, []

    def counted(request: Any, *rest: Any, **options: Any) -> Any:
        put_off.append(request.request_id)
        return preempt(request, *rest, **options)

    monkeypatch.setattr(scheduler, "_preempt_request", counted)
    prompts = [
        # Two tokens less than a block of the cache: each answer needs another block.
        *(Prompt(text=f"Tom has {number} pears. " + FILLING * 10) for number in range(16)),
        *(Prompt(text=FILLING * 24 + f"Tom has {number} pears.") for number in range(16)),
    ]
    sampling = Sampling(max_tokens=100)
    found = backend.generate(prompts, sampling)
    assert put_off, "the cache was meant to be too small"
    assert_same(found, local.generate(prompts, sampling))
    counts = [row.prompt_tokens for row in found[16:] if isinstance(row, Completion)]
    # Longer than a block of the cache and than a chunk.
    assert min(count or 0 for count in counts) > 200
    # And every block is given back.
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=2),
        Sampling(max_tokens=60, stop=(" =", "####")),
        Sampling(max_tokens=60, stop=("no such text",)),
    ],
)
def test_short_and_stopped_answers(
    backend: vllm_local.VllmBackend, local: Backend, sampling: Sampling
) -> None:
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES[:12]]
    assert_same(backend.generate(prompts, sampling), local.generate(prompts, sampling))


def test_bad_prompts_are_failures_in_the_same_words(
    backend: vllm_local.VllmBackend, local: Backend
) -> None:
    good = PYRAMID.prompt.render(QUERIES[0].question)
    prompts = [
        good,
        Prompt(text=""),
        Prompt(text="x" * 100_000),
        Prompt(text="long " * 600),
        Prompt(text="half of a pair \ud800"),
        Prompt(text="a null byte \0 in it"),
        good,
    ]
    sampling = Sampling(max_tokens=8)
    found, wanted = backend.generate(prompts, sampling), local.generate(prompts, sampling)
    assert [type(row) for row in found] == [type(row) for row in wanted]
    assert [row.message for row in found if isinstance(row, Failure)] == [
        row.message for row in wanted if isinstance(row, Failure)
    ]
    assert [row.text for row in found if isinstance(row, Completion)] == [
        row.text for row in wanted if isinstance(row, Completion)
    ]


def test_sampling_follows_the_seed(backend: vllm_local.VllmBackend) -> None:
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES[:6]]

    long = Prompt(text="She asks: " + FILLING * 24)  # comes in chunks

    def sampled(seed: int) -> list[str]:
        sampling = Sampling(max_tokens=30, temperature=1.5, seed=seed)
        rows = backend.generate([*prompts, long], sampling)
        alone = backend.generate([long], sampling)
        texts = [row.text for row in [*rows, *alone] if isinstance(row, Completion)]
        assert len(texts) == 8
        # However it was cut into chunks.
        assert texts[-1] == texts[-2]
        return texts

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_stream_is_drawn_as_it_is_answered_and_can_be_given_up(
    backend: vllm_local.VllmBackend,
) -> None:
    drawn = []

    def source() -> Iterator[Prompt]:
        for number in range(10_000):
            drawn.append(number)
            yield Prompt(text=f"Tom has {number} pears .")

    outcomes = backend.stream(source(), Sampling(max_tokens=12))
    first = [next(outcomes) for _ in range(20)]
    assert len({number for number, _ in first}) == 20
    assert len(drawn) <= 20 + 2 * backend._most_under_way
    before = len(drawn)
    # Somebody else's questions are answered while this stream waits to be drawn on.
    (other,) = backend.generate([Prompt(text="Ann has 2 pears .")], Sampling(max_tokens=4))
    assert isinstance(other, Completion)
    assert len(drawn) == before
    outcomes.close()  # type: ignore[attr-defined] # a generator
    backend.generate([Prompt(text="Ann has 2 pears .")], Sampling(max_tokens=4))
    assert not backend._engine.llm.has_unfinished_requests()
    assert (backend._under_way, backend._unwritten, backend._ready) == ({}, {}, {})


def test_what_is_given_up_during_a_step_is_not_kept(
    backend: vllm_local.VllmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, step = Sampling(max_tokens=2), backend._step
    ids = backend._prompts.ids(Prompt(text="Ann has 2 pears ."), sampling)
    assert not isinstance(ids, Failure)
    left = {backend._ask(ids, sampling) for _ in range(4)}
    answered: set[str] = set()

    def step_while_another_thread_gives_up() -> dict[str, Completion | Failure]:
        done = step()
        mine = left & done.keys()
        answered.update(mine)
        backend._give_up(mine)
        return done

    monkeypatch.setattr(backend, "_step", step_while_another_thread_gives_up)
    backend.generate([Prompt(text="Ann has 2 pears .")], Sampling(max_tokens=12))
    assert answered == left
    assert backend._ready == {}


def test_what_is_asked_and_given_up_between_adding_and_aborting_is_not_kept(
    backend: vllm_local.VllmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_tokens=2)
    ids = backend._prompts.ids(Prompt(text="Ann has 2 pears ."), sampling)
    assert not isinstance(ids, Failure)
    left: list[str] = []

    class WhileAnotherThreadAsks(deque[Any]):
        def __bool__(self) -> bool:
            if len(self) or left:
                return len(self) > 0
            left.append(backend._ask(ids, sampling))
            backend._give_up(left)
            return False

    monkeypatch.setattr(backend, "_to_add", WhileAnotherThreadAsks())
    backend.generate([Prompt(text="Ann has 2 pears .")], Sampling(max_tokens=12))
    assert left
    assert (backend._under_way, backend._unwritten, backend._ready) == ({}, {}, {})


def test_threads_share_the_engine(backend: vllm_local.VllmBackend, local: Backend) -> None:
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES[:12]]
    sampling = Sampling(max_tokens=40)
    found: dict[int, list[Completion | Failure]] = {}

    def ask(part: int) -> None:
        found[part] = backend.generate(prompts[part::3], sampling)

    threads = [threading.Thread(target=ask, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = local.generate(prompts, sampling)
    for part in range(3):
        assert_same(found[part], wanted[part::3])


def test_a_writer_that_fails_costs_its_rows_and_no_more(
    backend: vllm_local.VllmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = backend._engine.storage
    assert folder is not None
    before = set(folder.iterdir())
    monkeypatch.setattr(vllm_local, "WAIT_S", 0.3)
    folder.rename(folder.with_name("aside"))
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES[:4]]
    try:
        lost = backend.generate(prompts, Sampling(max_tokens=8))
    finally:
        folder.with_name("aside").rename(folder)
    assert all(isinstance(row, Failure) and row.can_retry for row in lost)
    (answer,) = backend.generate(prompts[:1], Sampling(max_tokens=8))
    assert isinstance(answer, Completion)
    assert answer.hidden_states.keys() == set(HIDDEN.keys)
    scheduler = backend._engine.llm.engine_core.engine_core.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    assert set(folder.iterdir()) <= before


def test_the_cpu_sampler_has_been_mended(backend: vllm_local.VllmBackend) -> None:
    from pyramid_moa.backends.vllm_sampling_fix import expands_rightly, mend_cpu_kernel

    assert backend.gives_logprobs
    assert expands_rightly()
    # One that is right is left alone.
    assert not mend_cpu_kernel()


def test_what_fits_vllm_only_is_said() -> None:
    spec = replace(MEMBER, backend="vllm")
    with pytest.raises(ConfigError, match=r"extra_args: vLLM says: .*--no-such-thing"):
        open_backend(replace(spec, extra_args=["--no-such-thing"]))
    with pytest.raises(BackendError, match=r"has 4 layers: .* between -5 and 4, found \[7\]"):
        open_backend(spec, hidden_states=HiddenStates(layers=(7,)))
    with pytest.raises(BackendError, match="can't start 'no/such-model'") as caught:
        open_backend(replace(spec, model="no/such-model"))
    assert "\n" not in str(caught.value)


def test_a_process_is_left_as_it_was_and_a_second_engine_gets_its_own() -> None:
    """The fixture's engine runs in this process: this one is beside it."""
    threads, numbers = torch.set_num_threads, torch.random.get_rng_state()
    python, environment = random.getstate(), dict(os.environ)
    second = open_backend(
        replace(PYRAMID.members[1], backend="vllm", kv_cache_bytes=32 << 20, extra_args=EAGER),
        hidden_states=HIDDEN,
    )
    assert isinstance(second, vllm_local.VllmBackend)
    storage = second._engine.storage
    assert storage is not None
    try:
        assert torch.set_num_threads is threads
        assert torch.equal(torch.random.get_rng_state(), numbers)
        assert random.getstate() == python
        assert dict(os.environ) == environment
        assert not second._engine.in_process
        (answer,) = second.generate(
            [PYRAMID.prompt.render(QUERIES[0].question)], Sampling(max_tokens=20)
        )
        assert isinstance(answer, Completion)
        assert answer.hidden_states.keys() == set(HIDDEN.keys)
        for process in second._engine.llm.engine_core.resources.engine_manager.processes:
            os.kill(process.pid, signal.SIGKILL)
        for _ in range(2):  # and it stays so
            with pytest.raises(BackendError, match="model 'member-b': the vLLM engine has failed"):
                second.generate([PYRAMID.prompt.render("2 + 2 ?")], Sampling(max_tokens=90))
    finally:
        second.close()
    second.close()
    assert not storage.parent.exists()
