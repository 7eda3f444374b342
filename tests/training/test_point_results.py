from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.router_model.policy import OperatingPoint, Promise
from pyramid_moa.training.metrics import compute_metrics
from pyramid_moa.training.point_results import PROMISED, PointResult, point_rows
from pyramid_moa.training.report_tables import point_table

POINT = OperatingPoint(
    name="half", threshold=0.5, target="half", split="calibration", questions=40, accuracy=0.9
)


def promised(kind, value, **changes):
    promise = Promise(kind=kind, value=value, confidence=0.9, questions=40, method="made up")
    return replace(POINT, promise=promise, **changes)


def test_figures_by_hand(five_queries):
    (row,) = point_rows([PointResult(point=POINT, outcomes=five_queries())], resamples=50)
    assert row["accuracy"] == 1.0
    assert row["escalation_rate"] == pytest.approx(0.6)
    assert row["cost_ratio"] == pytest.approx(0.5)
    assert row["cost_ratio_flops"] == pytest.approx(0.8)
    assert row["usd_per_1000"] == pytest.approx(1000.0)
    assert row["drop"] == pytest.approx(-0.2)
    assert row["chosen"]["accuracy"] == 0.9
    assert row["chosen"]["questions"] == 40
    assert row["promise"] is None
    assert (row["policy"], row["rule"]) == ("parallel", "failure")


def test_figures_and_intervals_are_those_of_the_evaluated_point(simulated):
    rows = simulated(200)
    point = replace(POINT, name="balanced", threshold=0.3)
    metrics = compute_metrics(
        rows, seed=3, resamples=100, points=[PointResult(point=point, outcomes=rows)]
    )
    (own,) = metrics["operating_points"]
    for name in ("accuracy", "escalation_rate", "cost_ratio", "cost_ratio_flops"):
        assert own[name] == pytest.approx(metrics["operating_point"][name])
        if name != "cost_ratio_flops":
            assert own["intervals"][name] == pytest.approx(
                metrics["intervals"][f"operating_point.{name}"]
            )


@pytest.mark.parametrize("kind", PROMISED)
def test_kept_missed_within_error_and_broken(kind, simulated):
    rows = simulated(300)
    figure, more_is_better = PROMISED[kind]
    (plain,) = point_rows([PointResult(point=POINT, outcomes=rows)], resamples=200)
    value, (low, high) = plain[figure], plain["intervals"][figure]
    assert low < value < high
    beyond = high if more_is_better else low
    for target, held in (
        (value, "yes"),
        ((value + beyond) / 2, "within sampling error"),
        (beyond + (0.05 if more_is_better else -0.05) * abs(beyond), "no"),
    ):
        (row,) = point_rows(
            [PointResult(point=promised(kind, target), outcomes=rows)], resamples=200
        )
        assert row["promise"]["held"] == held, (kind, held)
        assert row["promise"]["measured"] == pytest.approx(value)
        assert row["promise"]["interval"] == pytest.approx([low, high])
        assert row["promise"]["figure"] == figure


def test_of_several_targets_each_is_measured(simulated):
    rows = simulated(300)
    point = promised("target_accuracy", 0.0)
    others = (("target_cost_ratio", 0.0), ("max_drop", 1.0))
    point = replace(point, promise=replace(point.promise, others=others))
    (row,) = point_rows([PointResult(point=point, outcomes=rows)], resamples=50)
    assert (row["promise"]["kind"], row["promise"]["held"]) == ("target_accuracy", "yes")
    told = [(own["kind"], own["value"], own["held"]) for own in row["promise"]["others"]]
    assert told == [("target_cost_ratio", 0.0, "no"), ("max_drop", 1.0, "yes")]
    assert row["promise"]["others"][0]["measured"] == pytest.approx(row["cost_ratio"])
    (shown,) = point_table([row], "")
    assert [own["held"] for own in shown["promises"]] == ["yes", "no", "yes"]
    assert all("for all 3 together" in own["told"] for own in shown["promises"])


def test_unknown_prices_and_kinds_say_nothing_of_a_promise(simulated):
    unknown = np.full(30, np.nan)
    rows = simulated(30, oracle_cost_usd=unknown, final_cost_usd=unknown)
    points = [promised("target_cost_ratio", 0.5), promised("no_such_thing", 0.5, name="other")]
    metrics = compute_metrics(
        rows, resamples=20, points=[PointResult(point=point, outcomes=rows) for point in points]
    )
    for row in metrics["operating_points"]:
        assert row["promise"]["held"] == "unknown"
        assert row["promise"]["measured"] is None
    assert compute_metrics(rows, resamples=0)["operating_points"] == []
