import json
import time

import numpy as np
import pytest

from pyramid_moa.training.metrics import calls_needed, compute_metrics, json_ready, latencies


@pytest.fixture(scope="module")
def by_hand(five_queries):
    return compute_metrics(five_queries(), resamples=50)


def test_accuracies_and_costs_by_hand(by_hand):
    assert by_hand["n"] == 5
    assert by_hand["members"] == pytest.approx({"a": 0.6, "b": 0.6})
    assert by_hand["member_costs"]["a"]["cost_ratio"] == pytest.approx(0.05)
    assert by_hand["ensemble"]["accuracy"] == pytest.approx(0.6)
    assert by_hand["ensemble"]["cost"] == pytest.approx(1.0)
    assert by_hand["ensemble"]["cost_per_query"] == pytest.approx(0.2)
    assert by_hand["oracle"]["accuracy"] == pytest.approx(0.8)
    assert by_hand["oracle"]["cost"] == pytest.approx(10.0)
    assert by_hand["oracle"]["name"] == "big"
    hindsight = by_hand["hindsight"]
    assert hindsight == pytest.approx(
        {"accuracy": 1.0, "cost_ratio": 0.4, "cost_ratio_flops": 0.6, "escalation_rate": 0.4}
    )


def test_rules_by_hand(by_hand):
    assert by_hand["vote_rule"] == pytest.approx(
        {
            "theta": 1.0,
            "accuracy": 0.8,
            "escalation_rate": 0.4,
            "cost_ratio": 0.4,
            "cost_ratio_flops": 0.6,
        }
    )
    assert [rule["theta"] for rule in by_hand["vote_rules"]] == [0.5, 1.0]
    # Two calls: query 0, and of the tie between 1 and 2 the first.
    assert by_hand["router_at_vote_cost"]["accuracy"] == pytest.approx(1.0)
    assert by_hand["router_at_vote_cost"]["cost_ratio"] == pytest.approx(0.4)
    assert by_hand["router_at_vote_accuracy"]["cost_ratio"] == pytest.approx(0.2)
    differences = by_hand["differences"]
    assert differences["router_minus_vote_rule_accuracy_at_vote_cost"] == pytest.approx(0.2)
    assert differences["router_minus_vote_rule_cost_ratio_at_vote_accuracy"] == pytest.approx(-0.2)
    point = by_hand["operating_point"]
    assert (point["name"], point["threshold"]) == ("half", 0.5)
    assert point["accuracy"] == pytest.approx(1.0)
    assert point["escalation_rate"] == pytest.approx(0.6)
    assert point["cost_ratio"] == pytest.approx(0.5)
    assert point["cost_ratio_flops"] == pytest.approx(0.8)
    assert point["cost_usd"] == pytest.approx(5.0)
    assert point["failure_recall"] == pytest.approx(1.0)
    assert point["helpful_share_of_escalations"] == pytest.approx(2 / 3)


def test_figures_by_hand(by_hand):
    assert by_hand["failure_auroc"] == pytest.approx(5.5 / 6)
    assert by_hand["vote_failure_auroc"] == 1.0
    assert by_hand["agreement_auroc"] == pytest.approx(3.5 / 6)
    assert by_hand["brier"] == pytest.approx(0.116)
    assert by_hand["ece"] == pytest.approx(0.12)
    assert by_hand["cost_ratio_at_parity"] == pytest.approx(0.2)
    assert by_hand["cost_ratio_flops_at_parity"] == pytest.approx(0.4)
    assert by_hand["apgr"] == pytest.approx(1.4)
    assert by_hand["aiq"] == pytest.approx(0.94)
    assert by_hand["cpt"] == pytest.approx({"0.2": 0.2, "0.5": 0.2, "0.8": 0.2})
    assert by_hand["pgr"] == pytest.approx(2.0)
    assert by_hand["headroom_captured"] == pytest.approx(1.0)


def test_latency_by_hand(by_hand):
    assert by_hand["latency"] == pytest.approx(
        {
            "n": 5,
            "ensemble_sequential_s": 3.0,
            "members_parallel_s": 2.0,
            "members_sequential_s": 3.0,
            "oracle_s": 5.0,
            "added_parallel_s": 0.0,
            "added_sequential_s": 1.0,
        }
    )


def test_latency_takes_only_queries_whose_times_are_known(changed, five_queries):
    rows = five_queries()
    times = rows.member_latency_s.copy()
    times[0, 0] = np.nan
    assert latencies(changed(rows, member_latency_s=times))["n"] == 4
    unknown = latencies(changed(rows, oracle_latency_s=np.full(5, np.nan)))
    assert unknown["n"] == 0
    assert unknown["added_parallel_s"] is None


def test_members_that_were_not_asked_are_not_paid_for(changed, five_queries):
    rows = changed(
        five_queries(),
        models_called=(("a", "b", "big"),) * 3 + (("a",),) * 2,
        final_cost_usd=np.array([1.2, 2.2, 1.2, 0.1, 0.1]),
    )
    point = compute_metrics(rows, resamples=0)["operating_point"]
    assert point["cost_ratio"] == pytest.approx(0.48)
    assert point["cost_ratio_flops"] == pytest.approx((5 * 10 + 3 * 10 + 300) / 500)
    assert point["members_called_mean"] == pytest.approx(1.6)


def test_point_estimates_lie_in_their_intervals_and_repeat_with_the_seed(simulated):
    rows = simulated(400)
    one, again = compute_metrics(rows, seed=5), compute_metrics(rows, seed=5)
    assert one == again
    assert one["intervals"] != compute_metrics(rows, seed=6)["intervals"]
    wanted = {
        "members.member-0": one["members"]["member-0"],
        "ensemble.accuracy": one["ensemble"]["accuracy"],
        "oracle.accuracy": one["oracle"]["accuracy"],
        "operating_point.accuracy": one["operating_point"]["accuracy"],
        "operating_point.cost_ratio": one["operating_point"]["cost_ratio"],
        "failure_auroc": one["failure_auroc"],
        "vote_failure_auroc": one["vote_failure_auroc"],
        "agreement_auroc": one["agreement_auroc"],
        "differences.failure_auroc_minus_agreement_auroc": one["differences"][
            "failure_auroc_minus_agreement_auroc"
        ],
        "brier": one["brier"],
        "cost_ratio_at_parity": one["cost_ratio_at_parity"],
        "router_at_vote_cost.accuracy": one["router_at_vote_cost"]["accuracy"],
    }
    for name, value in wanted.items():
        low, high = one["intervals"][name]
        assert low <= value <= high, name
        assert low < high, name
    assert "ece" in one["intervals"]


def test_intervals_are_those_of_metrics_on_drawn_rows(changed, simulated):
    """The weighted figures are the ordinary ones on a sample where rows repeat."""
    from pyramid_moa.training.headline import HeadlineFigures

    rows = simulated(60, seed=2)
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.integers(0, 60, 60))
    weights = np.bincount(drawn, minlength=60).astype(np.float64)[None]
    columns = {}
    for name, column in vars(rows).items():
        if isinstance(column, np.ndarray):
            columns[name] = column[drawn]
        elif isinstance(column, tuple) and len(column) == 60:
            columns[name] = tuple(column[i] for i in drawn)
    columns["query_ids"] = tuple(map(str, range(60)))
    repeated = HeadlineFigures(outcomes=changed(rows, **columns))(np.ones((1, 60)))
    weighted = HeadlineFigures(outcomes=rows)(weights)
    for name, value in repeated.items():
        if name != "ece":  # its bins stay those of the full sample
            assert weighted[name][0] == pytest.approx(value[0], nan_ok=True), name


def test_json_has_no_nan_and_the_promised_keys(simulated):
    metrics = compute_metrics(simulated(30), resamples=20)
    text = json.dumps(metrics, allow_nan=False)
    assert json.loads(text) == metrics
    promised = (
        "n members ensemble oracle hindsight failure_auroc vote_failure_auroc agreement_auroc "
        "ece brier curve cost_ratio_at_parity intervals vote_rule vote_rules operating_point "
        "router_at_vote_cost reference price_note tokens_estimated latency apgr aiq"
    )
    assert set(promised.split()) <= set(metrics)
    assert {"threshold", "escalation_rate", "accuracy", "cost_ratio"} <= set(metrics["curve"][0])


def test_long_curves_are_thinned_but_keep_parity_and_operating_point(simulated):
    rows = simulated(3000)
    metrics = compute_metrics(rows, resamples=0)
    curve = metrics["curve"]
    assert len(curve) <= 202
    assert metrics["curve_points_in_full"] == 3001
    reached = [p["cost_ratio"] for p in curve if p["accuracy"] >= curve[-1]["accuracy"]]
    assert min(reached) == pytest.approx(metrics["cost_ratio_at_parity"])
    rates = [p["escalation_rate"] for p in curve]
    gaps = [abs(rate - metrics["operating_point"]["escalation_rate"]) for rate in rates]
    assert min(gaps) <= 1 / 3000 + 1e-9


@pytest.mark.parametrize("right", [True, False])
def test_one_class_alone_has_no_auroc(right, simulated):
    rows = simulated(
        20,
        ensemble_correct=np.full(20, right),
        vote_correct=np.full(20, right),
        held_correct=np.full(20, right),
        final_correct=np.full(20, right),
    )
    metrics = compute_metrics(rows, resamples=20)
    for name in ("failure_auroc", "agreement_auroc", "failure_average_precision"):
        assert metrics[name] is None
    assert metrics["intervals"]["failure_auroc"] is None
    if right:
        assert metrics["operating_point"]["failure_recall"] is None
        assert metrics["cpt"]["0.5"] is None
        everyone = metrics["ensemble"]["cost_ratio"]
        assert metrics["cost_ratio_at_parity"] == pytest.approx(everyone)


def test_costs_that_are_zero_or_unknown_have_a_reason(simulated):
    free = compute_metrics(simulated(20, oracle_cost_usd=np.zeros(20)), resamples=20)
    assert free["operating_point"]["cost_ratio"] is None
    assert free["cost_ratio_at_parity"] is None
    assert free["intervals"]["operating_point.cost_ratio"] is None
    assert free["operating_point"]["cost_ratio_flops"] is not None
    assert "cost nothing" in free["cost_ratio_missing"]
    unknown = compute_metrics(simulated(20, oracle_cost_usd=np.full(20, np.nan)), resamples=0)
    assert "unknown" in unknown["cost_ratio_missing"]
    assert unknown["oracle"]["cost"] is None
    assert compute_metrics(simulated(20), resamples=0)["cost_ratio_missing"] is None


def test_no_escalation_at_all(simulated):
    rows = simulated(
        9,
        threshold=1.0,
        escalated=np.zeros(9, dtype=np.bool_),
        models_called=(("member-0",),) * 9,
    )
    point = compute_metrics(rows, resamples=5)["operating_point"]
    assert point["escalation_rate"] == 0
    assert point["helpful_share_of_escalations"] is None


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("members", [1, 2])
def test_small_samples(n, members, simulated):
    metrics = compute_metrics(simulated(n, members=members), resamples=30)
    json.dumps(metrics, allow_nan=False)
    assert metrics["curve"][0]["escalation_rate"] == 0
    assert metrics["curve"][-1]["escalation_rate"] == 1


def test_calls_needed_by_hand():
    rate, accuracy = np.array([0, 0.25, 0.5, 1.0]), np.array([0.5, 0.6, 0.9, 1.0])
    assert calls_needed(rate, accuracy, 0.2) == 0.25
    assert calls_needed(rate, accuracy, 0.8) == 0.5
    assert calls_needed(rate, accuracy[::-1], 0.5) is None


def test_json_ready_leaves_only_json():
    value = {"a": np.float64("nan"), 3: (np.int64(2), np.array([True, False])), "p": json}
    ready = json_ready(value)
    assert ready["a"] is None
    assert ready["3"] == [2, [True, False]]
    assert isinstance(ready["p"], str)


def test_a_thousand_resamples_of_many_queries_take_seconds(simulated):
    rows = simulated(4000)
    start = time.process_time()
    compute_metrics(rows)
    assert time.process_time() - start < 6
