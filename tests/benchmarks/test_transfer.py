"""Transfer: whose answers a router must not have seen; routers that come with the package."""

import pytest
from pretrain import pretrain
from suite import read_suite
from transfer import base_name, same_models, shared_sets

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.inference.gate import Gate
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.evaluate import evaluate
from pyramid_moa.training.train import train
from synthetic import MEMBERS, quick_config


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("gemma-2-27b-it@together", "gemma-2-27b"),
        ("Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("Llama-3.1-8B (base)::chain of draft, temperature 1.0::4", "llama-3.1-8b"),
        ("Qwen2.5-Math-1.5B-Instruct + adapter (main)::budget 2", "qwen2.5-math-1.5b"),
        ("chatgpt-4o-latest-24-09-07", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("gemini-1.5-pro-exp-0827", "gemini-1.5-pro"),
        ("command-r-plus", "command-r-plus"),
    ],
)
def test_one_model_under_many_names(recorded, name):
    assert base_name(recorded) == name


def test_who_is_left_out():
    (pyramid,) = (one for one in read_suite().pyramids if one.name == "gsm8k-easy-gpt-4o")
    pool = ["gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gemma-2-9b-it", "gemma-2-2b-it"]
    assert same_models(pyramid, pool) == {"gpt-4o-2024-08-06", "gemma-2-9b-it"}


def test_sets_are_joined_while_they_are_small():
    own = {"a": frozenset("xy"), "b": frozenset("pq"), "c": frozenset("xyz"), "d": frozenset()}
    joined = shared_sets(own, 3)
    assert all(own[name] <= joined[name] for name in own)
    assert joined["a"] == joined["c"] == joined["d"] == frozenset("xyz")
    assert joined["b"] == frozenset("pq")
    assert list(shared_sets(own, 0).values()).count(frozenset()) == 1
    assert set(shared_sets(own, 9).values()) == {frozenset("xyzpq")}


def test_a_router_for_the_package(labelled_run, imported_run, tmp_path):
    """It serves members that it does not know, and others start from it."""
    run = read_labelled_run(labelled_run)
    folder = tmp_path / "numeric"
    pretrain([run, run], folder, quick_config())
    router = Router.load(folder)
    assert router.card.hidden_key is None
    assert router.card.trained_on["queries"]["fitted"] == 2 * len(run.queries)
    assert not set(router.card.member_names) & set(MEMBERS)
    assert router.card.operating_points[0].name == "risk-10"
    metrics = evaluate(imported_run, tmp_path / "report", router=folder, split="all")
    assert metrics["vote_failure_auroc"] > 0.75
    gate = Gate.from_run(imported_run, router=folder)
    question = read_labelled_run(imported_run).queries[0].question
    assert gate.answer(question).rule == "router"
    started = train(imported_run, tmp_path / "started", quick_config(), init=folder)
    assert started.card.member_names == list(MEMBERS)
