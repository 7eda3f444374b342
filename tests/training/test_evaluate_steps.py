"""The report of a pyramid that goes step by step, with a mid oracle."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.policy import Promise
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.evaluate import evaluate
from pyramid_moa.training.replay import check_steps, replay, score_run
from synthetic import MEMBERS, MID_ORACLE, ORACLE


@pytest.fixture(scope="module")
def promising(trained_on_three_tiers, tmp_path_factory):
    """The checkpoint, a sequential and a parallel point of which promise something."""
    router = Router.load(trained_on_three_tiers)
    points = []
    for point in router.card.operating_points:
        sequential = point.policy == "sequential"
        promise = Promise(
            kind="target_accuracy" if sequential else "max_drop",
            value=1.0 if sequential else 0.5,
            confidence=0.95,
            questions=36,
            method="<b>made up</b>",
        )
        named = point.name in ("parity", "sequential")
        points.append(replace(point, promise=promise if named else None))
    dear = replace(router.card.operating_point("sequential"), name="thorough", threshold=0.003)
    router.card = replace(router.card, operating_points=[*points, dear])
    out = tmp_path_factory.mktemp("checkpoints") / "promising"
    router.save(out)
    return out


@pytest.fixture(scope="module")
def report(three_tier_run, promising, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "steps"
    metrics = evaluate(
        three_tier_run, out, router=promising, point="sequential", split="all", seed=2
    )
    return out, metrics, json.loads((out / "plots_data.json").read_text())


def test_the_curve_meets_the_replayed_points(report):
    _, metrics, plots = report
    curve = metrics["sequential_curve"]
    assert set(curve[0]) >= {"threshold", "escalation_rate", "accuracy", "cost_ratio"}
    rows = [row for row in metrics["operating_points"] if row["policy"] == "sequential"]
    assert {row["name"] for row in rows} == {"sequential", "sequential-accurate", "thorough"}
    for row in rows:
        own = min(curve, key=lambda setting, row=row: abs(setting["threshold"] - row["threshold"]))
        # An oracle that fails leaves the vote of all in the one, of those asked in the other.
        assert own["accuracy"] == pytest.approx(row["accuracy"], abs=2 / metrics["n"])
        for name in ("escalation_rate", "cost_ratio"):
            assert own[name] == pytest.approx(row[name], abs=0.01)
    drawn = {row["threshold"]: (row["x"], row["accuracy"]) for row in plots["pareto"]["sequential"]}
    assert drawn == {row["threshold"]: (row["cost_ratio"], row["accuracy"]) for row in curve}
    assert len(plots["pareto"]["sequential_band"]) == len(curve)
    for line, band in zip(
        plots["pareto"]["sequential"], plots["pareto"]["sequential_band"], strict=True
    ):
        assert line["x"] == band["x"]
        assert band["low"] <= line["accuracy"] <= band["high"]


def test_every_point_lies_where_the_table_says(report, promising):
    _, metrics, plots = report
    names = [point.name for point in Router.load(promising).card.operating_points]
    assert [row["name"] for row in metrics["operating_points"]] == names
    marks = {row["name"]: row for row in plots["pareto"]["operating_points"]}
    for row in metrics["operating_points"]:
        assert marks[row["name"]]["x"] == pytest.approx(row["cost_ratio"])
        assert marks[row["name"]]["accuracy"] == pytest.approx(row["accuracy"])
    assert [row["name"] for row in marks.values() if row["evaluated"]] == ["sequential"]
    rows = {row["name"]: row for row in metrics["operating_points"]}
    assert rows["sequential"]["promise"]["held"] == "no"
    assert rows["parity"]["promise"]["held"] == "yes"
    assert rows["sequential-accurate"]["promise"] is None
    point = metrics["operating_point"]
    assert point["policy"] == "sequential"
    assert rows["sequential"]["cost_ratio"] == pytest.approx(point["cost_ratio"])


def test_paths_are_those_of_the_decisions(report):
    out, metrics, plots = report
    table = pq.read_table(out / "decisions.parquet").to_pydict()
    called = Counter(map(tuple, table["models_called"]))
    paths = metrics["paths"]
    assert len(called) > 2
    assert {tuple(name for group in row["path"] for name in group): row["n"] for row in paths} == (
        called
    )
    assert sum(row["n"] * row["cost_per_query"] for row in paths) == pytest.approx(
        sum(table["cost"])
    )
    assert sum(row["n"] * row["accuracy"] for row in paths) == pytest.approx(sum(table["correct"]))
    assert plots["paths"]["paths"] == paths
    asked = {name for row in paths for group in row["path"] for name in group}
    assert plots["paths"]["models"] == [
        name for name in (*MEMBERS, MID_ORACLE, ORACLE) if name in asked
    ]


@pytest.mark.parametrize("name", ["sequential", "thorough"])
def test_mistakes_go_by_what_was_held_when_the_oracle_was_asked(
    name, three_tier_run, promising, tmp_path
):
    out = tmp_path / "report"
    metrics = evaluate(three_tier_run, out, router=promising, point=name, split="all")
    run, router = read_labelled_run(three_tier_run), Router.load(promising)
    rows = pq.read_table(out / "decisions.parquet").to_pydict()
    counts, differs = Counter(), 0
    for index, called in enumerate(rows["models_called"]):
        asked = [name for name in run.manifest.models_before_oracle if name in called]
        held, answer = False, None
        if asked:
            reading = router.read(
                run.queries[index].question, {name: run.generations[name][index] for name in asked}
            )
            choice = reading.scores.choice
            if reading.vote.winner is not None:
                own = run.generations[asked[reading.vote.winner if choice is None else choice]]
                held, answer = bool(own[index].correct), own[index].answer
        assert rows["held_answer"][index] == answer
        assert rows["held_correct"][index] == held
        differs += held != rows["ensemble_correct"][index]
        oracle = run.labels[index].oracle_correct
        if ORACLE not in called:
            counts["rightly" if held else "wrongly" if oracle else "either"] += 1
        elif not asked:
            counts["first"] += 1
        elif not held and not oracle:
            counts["vain"] += 1
        elif oracle:
            counts["needlessly" if held else "put right"] += 1
    assert differs  # else the ensemble of all members would do
    asks = metrics["operating_point"]["escalation_rate"]
    assert (asks > 0.1) == (name == "thorough"), asks
    decisions = metrics["decisions"]
    assert sum(decisions.values()) == metrics["n"]
    assert decisions["rightly_trusted"] == counts["rightly"]
    assert decisions["wrongly_trusted"] == counts["wrongly"]
    assert decisions["wrong_either_way"] == counts["either"]
    assert decisions["needlessly_escalated"] == counts["needlessly"]
    assert decisions["rightly_escalated"] == counts["put right"]
    assert decisions["escalated_in_vain"] == counts["vain"]
    assert decisions["asked_first"] == counts["first"]


def test_costs_and_times_are_those_of_who_was_asked(report, three_tier_run):
    out, metrics, _ = report
    run = read_labelled_run(three_tier_run)
    called = pq.read_table(out / "decisions.parquet")["models_called"].to_pylist()
    rows = [[run.generations[name][i] for name in names] for i, names in enumerate(called)]
    spent = sum(row.cost_usd for own in rows for row in own)
    alone = sum(row.cost_usd for row in run.generations[ORACLE])
    assert metrics["operating_point"]["cost_ratio"] == pytest.approx(spent / alone)
    seconds = [sum(row.latency_s for row in own) for own in rows]
    oracle = [row.latency_s for row in run.generations[ORACLE]]
    latency = metrics["latency"]
    assert latency["added_sequential_s"] == pytest.approx(np.mean(seconds) - np.mean(oracle))
    assert latency["added_parallel_s"] is None
    assert latency["members_parallel_s"] is None
    assert metrics["mid_oracles"][MID_ORACLE]["accuracy"] == pytest.approx(
        np.mean([bool(row.correct) for row in run.generations[MID_ORACLE]])
    )


def test_the_page_shows_it(report):
    out, metrics, _ = report
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "one model after another" in page
    assert "is above" not in page.split("<section", 1)[0]
    assert "(mid oracle)" in page
    assert "step by step" in page
    assert "accuracy of at least 100.0 %, at confidence 0.95, from 36 questions" in page
    assert "at most 50.00 points below the oracle" in page
    assert "&lt;b&gt;made up&lt;/b&gt;" in page
    assert '<td class="wrong">no</td>' in page
    assert '<td class="right">yes</td>' in page
    assert "P(oracle right)" in page
    commonest = metrics["paths"][0]["path"]
    assert " → ".join(name for (name,) in commonest) in page


def test_another_oracle_is_refused_by_steps_alone(three_tier_run, promising, tmp_path):
    run, router = read_labelled_run(three_tier_run), Router.load(promising)
    other = replace(
        run,
        manifest=replace(run.manifest, oracle="another"),
        generations={**run.generations, "another": run.generations[ORACLE]},
    )
    with pytest.raises(CheckpointError, match=r"steps to .*another are worth, found .*oracle"):
        check_steps(other, router, router.card.operating_point("sequential"))
    check_steps(other, router, router.card.operating_point("parity"))


def test_a_router_of_two_tiers_has_no_sequential_curve_on_three(
    three_tier_run, trained_on_hidden, tmp_path
):
    metrics = evaluate(
        three_tier_run, tmp_path / "report", router=trained_on_hidden, point="parity"
    )
    assert metrics["sequential_curve"] == []
    assert {row["policy"] for row in metrics["operating_points"]} == {"parallel"}
    plots = json.loads((tmp_path / "report" / "plots_data.json").read_text())
    assert plots["pareto"]["sequential"] == plots["pareto"]["sequential_band"] == []


def test_all_at_once_nothing_was_held_but_the_ensembles_answer(three_tier_run, promising):
    run, router = read_labelled_run(three_tier_run), Router.load(promising)
    positions = list(range(30))
    rows = replay(
        run, positions, score_run(run, router, positions), router.card.operating_point("parity")
    )
    assert rows.held_answer == rows.ensemble_answer
    assert rows.held_correct.tolist() == rows.ensemble_correct.tolist()
    assert set(rows.paths) <= {(MEMBERS,), (MEMBERS, (ORACLE,))}
    assert not rows.asked_nobody_before.any()
