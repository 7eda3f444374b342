"""``label`` on a real vLLM server, its answers delayed, cut, garbled and refused on the way."""

import random

import pytest
from faulty_proxy import Fault, faulty_proxy
from vllm_server import VllmServer

from label_case import assert_same_run, write_questions
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

QUESTIONS = 60
FAULTS = (
    Fault(kind="late", delay_s=0.3),
    Fault(kind="busy", status=429, headers={"retry-after-ms": "30"}),
    Fault(kind="broken", status=500),
    Fault(kind="gone", cut_at=-1),
    Fault(kind="cut", cut_at=40),
    Fault(kind="garbled", garble=lambda body: body[: len(body) // 2] + b"\xff{"),
)


def write_served_pyramid(path, server: VllmServer, base_url, *, retries):
    entry = (
        f"backend: openai, model: {server.served_name}, base_url: {base_url}, max_concurrency: 8, "
        f"timeout_s: 30, max_retries: {retries}"
    )
    path.write_text(
        f"members: [{{name: a, {entry}}}]\noracles: [{{name: o, {entry}}}]\n"
        "sampling: {max_tokens: 12}\n"
    )
    return load_pyramid(path)


@pytest.fixture(scope="module")
def unspoilt(vllm_server, tmp_path_factory):
    """Questions, and what the server says where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("faults")
    questions = load_queries(str(write_questions(folder / "questions.jsonl", QUESTIONS)))
    pyramid = write_served_pyramid(folder / "p.yaml", vllm_server, vllm_server.base_url, retries=0)
    label(questions, pyramid, folder / "run", strict=True)
    return questions, folder / "run"


@pytest.mark.parametrize("retries", [0, 3])
def test_however_answers_are_spoilt_the_run_is_the_same(vllm_server, unspoilt, tmp_path, retries):
    questions, run = unspoilt
    chance = random.Random(5)
    with faulty_proxy(vllm_server.base_url) as proxy:
        pyramid = write_served_pyramid(
            tmp_path / "p.yaml", vllm_server, proxy.base_url, retries=retries
        )
        proxy.fault = lambda body: chance.choice(FAULTS) if chance.random() < 0.4 else None
        manifest = label(questions, pyramid, tmp_path / "run")
        assert set(proxy.faults) == {"none", *(fault.kind for fault in FAULTS)}
        if not retries:
            assert manifest.counts["failed"] == manifest.counts["retryable"] > 0
        rounds = 0
        while manifest.counts["failed"]:
            rounds += 1
            assert rounds < 20
            manifest = label(questions, pyramid, tmp_path / "run", resume=True)
        # Every question, of member and oracle, was answered whole once, and not asked again.
        assert set(proxy.passed.values()) == {2}
        assert len(proxy.passed) == QUESTIONS
    assert_same_run(tmp_path / "run", run)
