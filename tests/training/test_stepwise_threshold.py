"""Targets, promises and values of the policy that goes step by step."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.router_model.card import TypicalCall
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.dial_path import ALWAYS, steps_path, tried_steps
from pyramid_moa.training.operating_points import NotAttainableError
from pyramid_moa.training.replay import replay, score_run
from pyramid_moa.training.stepwise_points import router_dial
from pyramid_moa.training.threshold import add_threshold
from pyramid_moa.training.train import train
from pyramid_moa.training.value_point import add_value_point
from synthetic import COSTS, MEMBERS, ORACLE, quick_config


@pytest.fixture
def router(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "router")


def walked(run_folder, router, point, split):
    """What a point comes to, query by query, as the gate goes."""
    run, loaded = read_labelled_run(run_folder), Router.load(router)
    positions = run.of_split(split)
    return replay(run, positions, score_run(run, loaded, positions), point, router=loaded)


def test_the_path_begins_with_the_oracle_and_ends_with_the_cheapest(trained):
    card = Router.load(trained).card
    path = steps_path(card.steps_curve, 100)
    thresholds = [point.threshold for point in path.points]
    assert thresholds[:2] == [ALWAYS, 0.0]
    assert thresholds == sorted(thresholds)
    assert {point.policy for point in path.points} == {"sequential"}
    assert path.plan.lost[0] == path.plan.gained[0] == 0.0
    rates = [row["escalation_rate"] for row in card.steps_curve]
    assert rates[0] < rates[-1]  # from dear to free


def test_the_oracle_every_time(imported_run, router):
    always = OperatingPoint(name="always", threshold=ALWAYS, target="", policy="sequential")
    rows = walked(imported_run, router, always, "test")
    assert set(rows.models_called) == {("oracle",)}
    assert rows.final_correct.tolist() == rows.oracle_correct.tolist()
    assert rows.final_cost_usd == pytest.approx(rows.oracle_cost_usd)


@pytest.mark.parametrize(
    ("target", "meets"),
    [
        ({"target_accuracy": 0.7}, lambda point, oracle: point.accuracy >= 0.7),
        ({"max_drop": 0.4}, lambda point, oracle: point.accuracy >= oracle - 0.4),
        ({"target_cost_ratio": 0.9}, lambda point, oracle: point.cost_ratio <= 0.9),
        ({"max_usd_per_1000": 0.4}, lambda point, oracle: point.cost_ratio is not None),
    ],
)
@pytest.mark.parametrize("confidence", [None, 0.8])
def test_targets(imported_run, router, target, meets, confidence):
    point = add_threshold(
        imported_run, router, **target, confidence=confidence, policy="sequential"
    )
    assert point.policy == "sequential"
    assert (point.promise is None) == (confidence is None)
    if confidence is not None:
        assert "fixed sequence of 52 settings" in point.promise.method
    rows = walked(imported_run, router, point, "calibration")
    assert meets(point, rows.oracle_correct.mean())
    assert rows.final_correct.mean() == pytest.approx(point.accuracy)
    assert rows.escalated.mean() == pytest.approx(point.escalation_rate)
    ratio = rows.final_cost_usd.sum() / rows.oracle_cost_usd.sum()
    assert ratio == pytest.approx(point.cost_ratio)
    if "max_usd_per_1000" in target:
        assert rows.final_cost_usd.mean() * 1000 <= 0.4
    assert Router.load(router).card.operating_point("target") == point


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ({"target_accuracy": 1.0}, "the most accurate setting has accuracy"),
        ({"target_cost_ratio": 0.0001}, "the cheapest setting costs"),
    ],
)
def test_what_is_not_attainable(imported_run, router, target, nearest):
    before = (router / "router.json").read_bytes()
    with pytest.raises(NotAttainableError, match=nearest):
        add_threshold(imported_run, router, **target, confidence=None, policy="sequential")
    assert (router / "router.json").read_bytes() == before


def test_a_router_without_steps(imported_run, router):
    loaded = Router.load(router)
    loaded.steps = None
    loaded.save(router)
    with pytest.raises(CheckpointError, match="found one that knows no steps"):
        add_threshold(imported_run, router, max_drop=0.5, policy="sequential")


@pytest.mark.parametrize("policy", ["parallel", "sequential"])
def test_the_more_a_right_answer_is_worth_the_more_is_spent_on_it(imported_run, router, policy):
    points = [
        add_value_point(imported_run, router, value_usd=value, policy=policy, name=f"v{value}")
        for value in (1e-5, 1e-3, 1.0)
    ]
    costs = [point.cost_ratio for point in points]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
    price = Router.load(router).card.typical_calls["oracle"].cost_usd
    assert points[1].threshold == pytest.approx(price / 1e-3)
    rows = walked(imported_run, router, points[1], "calibration")
    assert rows.final_correct.mean() == pytest.approx(points[1].accuracy)
    if policy == "parallel":
        gain = rows.p_oracle_right - (1 - rows.p_ensemble_fails)
        assert np.array_equal(rows.escalated, gain * 1e-3 > price)


def test_waiting_has_a_price(imported_run, router):
    with pytest.raises(CheckpointError, match="knows the latency of a call of oracle"):
        add_value_point(imported_run, router, value_usd=0.01, usd_per_second=0.1)
    loaded = Router.load(router)
    calls = {
        name: TypicalCall(cost_usd=call.cost_usd, latency_s=2.0)
        for name, call in loaded.card.typical_calls.items()
    }
    loaded.card = replace(loaded.card, typical_calls=calls)
    loaded.save(router)
    point = add_value_point(imported_run, router, value_usd=0.5, usd_per_second=0.1)
    assert point.threshold == pytest.approx((calls["oracle"].cost_usd + 0.2) / 0.5)


@pytest.mark.parametrize("wrong", [{"value_usd": 0.0}, {"value_usd": 1.0, "usd_per_second": -1.0}])
def test_values_that_can_not_be(imported_run, router, wrong):
    with pytest.raises(ConfigError, match="expected --value-usd above 0"):
        add_value_point(imported_run, router, **wrong)


def dial_and_replays(run, router, positions):
    """What the dial says of each setting, and what the gate's way comes to."""
    dial = router_dial(run, router, positions)
    scores = score_run(run, router, positions)
    path = steps_path(router.card.steps_curve, 100)
    tried = tried_steps(dial)
    for place in range(0, len(path.points), 5):
        rows = replay(run, positions, scores, path.points[place], router=router)
        yield tried.correct[place], tried.cost[place], tried.escalated[place], rows


def same(run, router, positions):
    asked = 0
    for correct, cost, escalated, rows in dial_and_replays(run, router, positions):
        assert correct.tolist() == rows.final_correct.tolist()
        assert cost == pytest.approx(rows.final_cost_usd)
        assert escalated.tolist() == rows.escalated.tolist()
        asked += sum(escalated)
    assert asked


def test_the_dial_is_what_the_gate_does_where_models_fail(labelled_run, trained_on_hidden):
    run, router = read_labelled_run(labelled_run), Router.load(trained_on_hidden)
    name = run.manifest.oracle
    rows = [
        replace(row, answer=None, response=None, correct=False, error="gone", cost_usd=0.0)
        if index % 3 == 0
        else row
        for index, row in enumerate(run.generations[name])
    ]
    labels = [
        replace(label, oracle_answer=None, oracle_correct=False) if index % 3 == 0 else label
        for index, label in enumerate(run.labels)
    ]
    failing = replace(run, generations={**run.generations, name: rows}, labels=labels)
    same(failing, router, range(80))


def test_the_dial_is_what_the_gate_does_in_another_order_of_members(recorded_table, tmp_path):
    import_recorded(
        [recorded_table],
        members=MEMBERS[::-1],
        oracle=ORACLE,
        out=tmp_path / "turned",
        prices=COSTS,
    )
    straight = tmp_path / "straight"
    import_recorded([recorded_table], members=MEMBERS, oracle=ORACLE, out=straight, prices=COSTS)
    train(straight, tmp_path / "ck", quick_config())
    run, router = read_labelled_run(tmp_path / "turned"), Router.load(tmp_path / "ck")
    assert list(router.steps.members) == run.manifest.members[::-1]
    for correct, cost, escalated, rows in dial_and_replays(run, router, range(80)):
        # Who stands for an answer that several gave depends on the order, what it costs does not.
        assert np.mean(correct != rows.final_correct) <= 0.02
        assert np.mean(escalated != rows.escalated) <= 0.02
        assert cost.sum() == pytest.approx(rows.final_cost_usd.sum(), rel=0.02)
