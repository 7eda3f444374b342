"""The gateway in front of real vLLM servers: every decision as evaluation has it, query by query.

In every run on one server, which answers as each of the models, in ways that the prompt makes
differ; in the slow form on a server for each of the embedded models: the benchmark, with few
questions.
"""

import json

import openai
import pytest
import yaml
from gateway_cases.end_to_end import (
    TimedOracle,
    ask_everything,
    compared,
    expected_outcomes,
    given_dial,
    named_dial,
)
from gateway_cases.served_hang_ups import hang_up
from gateway_cases.vllm_pyramid import (
    gateway_under_way,
    write_long_winded,
    write_served_pyramid,
)
from gateway_vllm import measure
from label_cases.served import served
from vllm_server import skip_without_vllm

from pyramid_moa.backends import Completion, open_backend
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.progress import Progress
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.train import train
from synthetic import quick_config

# The limit counts the start of the server, whichever test comes first.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

LABELLED, ASKED = 90, 8
WAYS = {
    "a": {},
    "b": {"add_generation_prompt": False},
    "c": {"add_special_tokens": True},
    "oracle": {},
}


@pytest.fixture(scope="module")
def pyramid(vllm_server, tmp_path_factory):
    """The file of a pyramid whose models are one server, asked in different ways."""
    specs = [
        {
            "name": name,
            "backend": "vllm",
            "model": vllm_server.served_name,
            "port": vllm_server.spec.port,
            "price": {"input": 1.0, "output": 20.0 if name == "oracle" else 1.0},
            "extra_body": extra,
        }
        for name, extra in WAYS.items()
    ]
    content = {
        "members": specs[:-1],
        "oracles": specs[-1:],
        "grader": "exact",
        "sampling": {"max_tokens": 6},
        "hidden_states": {"layers": [-1], "poolings": ["answer_mean"]},
    }
    path = tmp_path_factory.mktemp("served") / "pyramid.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def trained_over_it(pyramid):
    """A run over the server and a router trained on it; every other answer of a is right."""
    config = load_pyramid(pyramid)
    questions = [f"Question {number}: {number} + 1 = " for number in range(LABELLED)]
    with_answers = open_backend(config.members[0])
    said = with_answers.generate(
        [config.prompt.render(question) for question in questions], config.sampling
    )
    with_answers.close()
    rows = []
    for number, (question, outcome) in enumerate(zip(questions, said, strict=True)):
        assert isinstance(outcome, Completion), outcome
        gold = outcome.text if number % 2 else "none of theirs"
        rows.append(json.dumps({"question": question, "answer": gold}))
    folder = pyramid.parent
    (folder / "questions.jsonl").write_text("\n".join(rows))
    dataset = load_queries(str(folder / "questions.jsonl"))
    label(dataset, config, folder / "run", strict=True)
    train(folder / "run", folder / "router", quick_config())
    return read_labelled_run(folder / "run"), Router.load(folder / "router")


def client_of(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


def test_the_gateway_decides_as_evaluation_does(pyramid, trained_over_it, vllm_server):
    run, router = trained_over_it
    assert router.card.hidden_key == "layer-1/answer_mean"
    positions = list(range(ASKED))
    queries = [run.queries[index] for index in positions]
    anywhere = expected_outcomes(run, positions, router, [given_dial(router, 0.5)])
    chances = sorted(set(anywhere[0].p_ensemble_fails.tolist()))
    middle = len(chances) // 2
    dials = [
        named_dial(router, "parity"),
        named_dial(router, "sequential"),
        given_dial(router, (chances[middle - 1] + chances[middle]) / 2),
    ]
    with (
        gateway_under_way(pyramid, pyramid.with_name("router"), pyramid.parent) as url,
        client_of(url) as client,
        client_of(vllm_server.base_url) as server,
        Progress("asking", total=len(dials) * ASKED) as progress,
    ):
        oracle = TimedOracle(client=server, model=vllm_server.served_name, max_tokens=6)
        replies = ask_everything(client, oracle, queries, dials, progress=progress)
    outcomes = expected_outcomes(run, positions, router, dials)
    for dial, own, outcome in zip(dials, replies, outcomes, strict=True):
        figures = compared(dial, own, outcome, run, positions)
        assert not figures.differences
        assert figures.other_answers == 0
        if dial.point.policy == "parallel":
            assert figures.largest_p_difference < 1e-4
        for found, expected in (figures.accuracy, figures.cost_ratio, figures.escalated):
            assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < figures.escalated[0] < 1


def test_a_client_that_hangs_up_ends_the_servers_work(pyramid, trained_over_it, vllm_server):
    path = write_long_winded(pyramid, pyramid.with_name("long-winded.yaml"), max_tokens=180)
    with gateway_under_way(path, pyramid.with_name("router"), pyramid.parent) as url:
        for stream in (False, True):
            # On a busy machine an answer may end before the client has hung up: that tells nothing,
            # and it is tried again. Without an end of the work every try would fail.
            assert any(
                hang_up(
                    url,
                    "Go on and on.",
                    during="members",
                    ports=[vllm_server.spec.port],
                    stream=stream,
                ).finished
                == 0
                for _ in range(3)
            )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_embedded_models_on_servers(tmp_path):
    skip_without_vllm()
    path = write_served_pyramid(tmp_path / "pyramid.yaml")
    with served(path, tmp_path / "logs"):
        found = measure(
            tmp_path,
            path,
            train_questions=200,
            test_questions=25,
            first_tokens=5,
            hang_ups=4,
            points=["parity", "sequential"],
            thresholds=[0.01, 0.2],
            seed=1,
        )
    for figures in found.dials:
        causes = {difference.cause for difference in figures.differences}
        # Which is the only thing that batches may change, where nothing else does.
        assert causes <= {"on the threshold", "a model answered otherwise"}, figures.differences
        assert len(figures.differences) <= 1
    parity, *_, loose = found.dials
    assert 0 < parity.escalated[0] < 1
    assert loose.cost_ratio[0] < 1
    assert all(one.finished == 0 for one in found.hang_ups)
    assert json.dumps(found.as_json())
