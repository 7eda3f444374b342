"""The embedded pyramid with its backend lines changed to servers, with transformers as the measure.

A server a model, one after the other: slow. In every run, one model is served (test_openai_vllm)
and all are answered by vLLM in process (test_vllm_local).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from vllm_server import free_port, serve, skip_without_vllm

from pyramid_moa.backends import Completion, HiddenStates, open_backend
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.word_problems import make_problems
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Query

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

PYRAMID = load_pyramid("embedded")
HIDDEN = HiddenStates(layers=(-1, 0, 2), poolings=("last_prompt", "last_position", "answer_mean"))
QUERIES = [
    Query(query_id=str(n), question=problem.question)
    for n, problem in enumerate(make_problems(split="test", count=40, seed=3))
]


@pytest.mark.parametrize("name", [spec.name for spec in PYRAMID.models])
def test_answers_statistics_and_hidden_states_are_the_same(name: str, tmp_path: Path) -> None:
    skip_without_vllm()
    local_spec = PYRAMID.spec(name)
    prompts = [PYRAMID.prompt.render(query.question) for query in QUERIES]
    local = open_backend(local_spec, hidden_states=HIDDEN)
    wanted = local.generate(prompts, PYRAMID.sampling)
    local.close()
    spec = replace(
        local_spec,
        backend="vllm",
        port=free_port(),
        kv_cache_bytes=64 << 20,
        extra_args=["--enforce-eager"],
    )
    with serve(spec, tmp_path / "server.log", hidden_states=HIDDEN) as server:
        served = open_backend(server.spec_as_served(), hidden_states=HIDDEN)
        found = served.generate(prompts, PYRAMID.sampling)
        served.close()
    grader = load_grader(PYRAMID.grader)
    for query, one, other in zip(QUERIES, found, wanted, strict=True):
        assert isinstance(one, Completion), one
        assert isinstance(other, Completion), other
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.completion_tokens == other.completion_tokens
        assert one.prompt_tokens == other.prompt_tokens
        mine, theirs = (
            graded_generation(query, local_spec, row, grader).logprobs for row in (one, other)
        )
        assert mine is not None
        assert theirs is not None
        for statistic in ("mean", "minimum", "tail_mean", "answer_mean", "answer_minimum"):
            assert getattr(mine, statistic) == pytest.approx(getattr(theirs, statistic), abs=1e-3)
        assert one.hidden_states.keys() == set(HIDDEN.keys)
        for key, vector in other.hidden_states.items():
            size = max(1.0, float(np.abs(vector).max()))
            np.testing.assert_allclose(
                one.hidden_states[key].astype(float), vector.astype(float), atol=1e-3 * size
            )
