"""Budgets of single queries: dollars, and milliseconds in models."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.inference.budget import Budget, expected_calls
from pyramid_moa.inference.gate import Gate
from pyramid_moa.router_model.card import TypicalCall
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router

NEVER = OperatingPoint(name="never", threshold=1.0, target="")
MEMBER, ORACLE = (100 * 1 + 50 * 2) / 1e6, (100 * 10 + 50 * 20) / 1e6


@pytest.mark.parametrize("limits", [{"max_usd": -1.0}, {"max_ms": float("nan")}, {"max_ms": -3}])
def test_what_is_no_amount_is_refused(limits):
    with pytest.raises(ConfigError, match="expected a number from 0"):
        Budget(**limits)


def test_what_calls_are_expected_to_take(make_pyramid):
    pyramid = make_pyramid("a", "b")
    known = {"a": TypicalCall(cost_usd=0.5, latency_s=2.0)}
    expected = expected_calls(pyramid, known, "x" * 400)
    assert expected["a"] == known["a"]
    price = (100 * 1 + pyramid.sampling.max_tokens * 2) / 1e6  # the longest answer there can be
    assert expected["b"] == TypicalCall(cost_usd=pytest.approx(price))
    assert list(expected) == ["a", "b", "oracle"]


def room(*groups, **limits):
    calls = {
        "a": TypicalCall(cost_usd=0.25, latency_s=2.0),
        "b": TypicalCall(cost_usd=0.5, latency_s=1.0),
        "c": TypicalCall(cost_usd=0.125),
    }
    return Budget(**limits).leaves_room(groups, calls, spent_usd=0.25, spent_s=1.0)


def test_money_adds_up_and_time_runs_at_once():
    assert room(["a", "b"], max_usd=1.0)
    assert not room(["a", "b"], max_usd=0.99)
    assert room(["a", "b"], max_ms=3000)
    assert not room(["a", "b"], max_ms=2999)
    assert room(["b"], max_ms=2000, max_usd=0.75)
    assert not room(["b"], max_ms=2000, max_usd=0.7)
    assert room(["a", "b", "c"])


def test_groups_follow_each_other():
    assert room(["a"], ["b"], max_ms=4000)
    assert not room(["a"], ["b"], max_ms=3999)
    assert room(["a", "b"], ["a"], max_ms=5000, max_usd=1.25)
    assert not room(["a", "b"], ["a"], max_usd=1.24)


def test_time_that_nobody_measured_can_not_be_limited():
    calls = {"a": TypicalCall(cost_usd=1.0, latency_s=1.0), "c": TypicalCall(cost_usd=1.0)}
    Budget(max_usd=1.0).check(calls)
    with pytest.raises(ConfigError, match="measured latencies of c, found none"):
        Budget(max_ms=9000).check(calls)


def dear_oracle(make_pyramid, fake_backend, **answers):
    """A gate by votes, whose oracle costs ten times what a member does."""
    pyramid = make_pyramid(*(name for name in answers if name != "oracle"))
    price = replace(pyramid.oracle.price, input=20.0, output=20.0)
    pyramid = replace(pyramid, oracles=[replace(pyramid.oracle, price=price)])
    backends = {name: fake_backend(name, answer) for name, answer in answers.items()}
    return Gate(pyramid, backends), backends


def test_members_as_far_as_the_money_goes(make_pyramid, fake_backend):
    gate, backends = dear_oracle(make_pyramid, fake_backend, a="5", b="7", c="5", oracle="6")
    # Without a router's experience the longest answer is reckoned with.
    longest = 512 * 2 / 1e6
    decision = gate.answer("What?", budget=Budget(max_usd=2.5 * longest))
    assert decision.models_called == ("a", "b")
    assert decision.answer == "5"
    assert decision.budget_exhausted
    assert not decision.escalated
    assert "the budget has no room for more" in decision.reason
    assert not backends["oracle"].asked
    free = gate.answer("What?", budget=Budget(max_usd=1.0))
    assert (free.answer, free.budget_exhausted) == ("6", False)


def test_who_knows_nothing_of_the_question_asks_the_members(make_pyramid, fake_backend):
    """The oracle does not seem to fit in beside them; they cost less than usual, and it does."""
    gate, backends = dear_oracle(make_pyramid, fake_backend, a="5", b="7", c="5", oracle="6")
    decision = gate.answer("What?", budget=Budget(max_usd=12 * 512 * 2 / 1e6))
    assert decision.models_called == ("a", "b", "c", "oracle")
    assert (decision.answer, decision.budget_exhausted) == ("6", False)
    assert backends["a"].asked


def test_no_money_no_answer(fake_gate):
    gate, backends = fake_gate({"a": "5", "oracle": "6"})
    decision = gate.answer("What?", budget=Budget(max_usd=0.0))
    assert decision.answer is None
    assert decision.budget_exhausted
    assert decision.models_called == ()
    assert decision.cost_usd == 0.0
    assert (
        decision.reason == "nobody was asked, the budget has no room for more: there is no answer"
    )
    assert not backends["a"].asked


def test_an_oracle_is_asked_where_only_it_is_affordable(fake_gate, make_pyramid, fake_backend):
    """Members may be the dearer ones: then the oracle comes first."""
    pyramid = make_pyramid("a")
    dear = replace(pyramid.members[0], price=replace(pyramid.oracle.price, input=1e6))
    pyramid = replace(pyramid, members=[dear])
    backends = {"a": fake_backend("a", "5"), "oracle": fake_backend("oracle", "6")}
    decision = Gate(pyramid, backends).answer("What is it?", budget=Budget(max_usd=0.1))
    assert decision.models_called == ("oracle",)
    assert decision.answer == "6"


@pytest.mark.parametrize("policy", ["parallel", "sequential"])
def test_more_money_does_not_make_answers_worse(labelled_run, trained_on_hidden, policy):
    """Means over the run's questions; each budget is kept to in the mean, by what calls cost."""
    data = read_labelled_run(labelled_run)
    golds = [query.gold for query in data.queries]
    calls = Router.load(trained_on_hidden).card.typical_calls
    all_of_them = sum(call.cost_usd for call in calls.values())
    accuracies, spent = [], []
    with Gate.from_run(labelled_run, router=trained_on_hidden, policy=policy) as gate:
        for share in (0.0, 0.05, 0.1, 0.5, 1.05):
            budget = Budget(max_usd=share * all_of_them)
            decisions = gate.answer_many(data.queries, budget=budget)
            accuracies.append(
                np.mean([d.answer == gold for d, gold in zip(decisions, golds, strict=True)])
            )
            spent.append(np.mean([d.cost_usd for d in decisions]) / all_of_them)
            assert spent[-1] <= share + 0.02
        unlimited = gate.answer_many(data.queries)
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == 0.0
    assert spent == sorted(spent)
    assert [d.answer for d in decisions] == [d.answer for d in unlimited]


def with_latencies(router, folder, **seconds):
    loaded = Router.load(router)
    calls = {
        name: replace(call, latency_s=seconds.get(name, seconds["others"]))
        for name, call in loaded.card.typical_calls.items()
    }
    loaded.card = replace(loaded.card, typical_calls=calls)
    loaded.save(folder)
    return folder


@pytest.mark.parametrize("policy", ["parallel", "sequential"])
def test_time_runs_out(labelled_run, trained_on_hidden, tmp_path, policy):
    """What calls usually take is what they are expected to."""
    router = with_latencies(trained_on_hidden, tmp_path / "slow", oracle=5.0, others=1.0)
    queries = read_labelled_run(labelled_run).queries[:60]
    with Gate.from_run(labelled_run, router=router, policy=policy) as gate:
        free = gate.answer_many(queries)
        bound = gate.answer_many(queries, budget=Budget(max_ms=4999.0))
        none = gate.answer_many(queries, budget=Budget(max_ms=999.0))
    assert any(decision.escalated for decision in free)
    assert not any(decision.escalated for decision in bound)
    limited = [decision.budget_exhausted for decision in bound]
    assert all(kept or not one.escalated for one, kept in zip(free, limited, strict=True))
    assert not all(limited)
    assert all(decision.answer is None and decision.budget_exhausted for decision in none)


def test_nobody_is_paid_before_it_is_known_that_time_can_be_kept(fake_gate):
    gate, backends = fake_gate({"a": "5", "b": "7", "oracle": "6"})
    with pytest.raises(ConfigError, match="measured latencies of a, b, oracle, found none"):
        gate.answer("What?", budget=Budget(max_ms=100.0))
    assert not any(backend.asked for backend in backends.values())
