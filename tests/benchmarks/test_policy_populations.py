"""Populations whose true risk is known: what is said of them is what is drawn from them."""

import csv
from argparse import Namespace

import numpy as np
import pytest
from policy_cases import promise
from policy_cases.populations import curve_rows, of_table, smoothed
from policy_cases.scored import Scored
from suite import SUITE


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 2.0, size=600)
    return Scored(
        p_fails=p,
        ensemble=rng.random(600) > p,
        oracle=rng.random(600) > 0.3 * p,
        members_usd=rng.uniform(0.1, 0.2, size=600),
        oracle_usd=rng.uniform(0.5, 2.0, size=600),
    )


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("kind", ["table", "smoothed"])
def test_the_truth_is_what_draws_come_to(scored, kind, threshold):
    rng = np.random.default_rng(1)
    known = of_table(scored) if kind == "table" else smoothed(scored, rng)
    truth = known.truth()
    place = truth.at(threshold)
    drawn = known.draw(400_000, rng)
    asked = drawn.p_fails > threshold
    final = np.where(asked, drawn.oracle, drawn.ensemble)
    assert drawn.oracle.mean() - final.mean() == pytest.approx(truth.drop[place], abs=2e-3)
    cost = drawn.members_usd + asked * drawn.oracle_usd
    assert cost.mean() == pytest.approx(truth.cost[place], rel=5e-3)
    assert asked.mean() == pytest.approx(truth.escalation[place], abs=3e-3)


def test_smoothing_keeps_what_the_table_is_like(scored):
    drawn = smoothed(scored, np.random.default_rng(2)).draw(200_000, np.random.default_rng(3))
    assert drawn.oracle.mean() == pytest.approx(scored.oracle.mean(), abs=0.02)
    assert drawn.ensemble.mean() == pytest.approx(scored.ensemble.mean(), abs=0.02)
    assert drawn.oracle_usd.mean() == pytest.approx(scored.oracle_usd.mean(), rel=0.02)


def test_a_table_is_a_population_of_its_own_questions(scored):
    truth, p = of_table(scored).truth(), scored.p_fails
    for place in (0, 99, 599):
        kept = p <= truth.thresholds[place]
        final = np.where(kept, scored.ensemble, scored.oracle)
        assert truth.drop[place] == pytest.approx(scored.oracle.mean() - final.mean())
    assert truth.at(-1.0) == -1


def test_the_curve_that_a_card_would_have(scored):
    rows = curve_rows(scored)
    assert [rows[0]["escalation_rate"], rows[-1]["escalation_rate"]] == [0.0, 1.0]
    assert rows[0]["accuracy"] == pytest.approx(scored.ensemble.mean())
    for row in rows:
        kept = scored.p_fails <= row["threshold"]
        final = np.where(kept, scored.ensemble, scored.oracle)
        assert row["accuracy"] == pytest.approx(final.mean())
        lost = (kept & scored.oracle & ~scored.ensemble).mean()
        assert row["lost"] == pytest.approx(lost)


def test_promises_of_a_population_are_counted(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(promise, "_SIZES", (300,))
    (tmp_path / "promise" / "scores").mkdir(parents=True)
    scored.save(tmp_path / "promise" / "scores" / "crux-hard-70b.npz")
    # Its run is not looked at where its scores are kept, but for whose it is.
    monkeypatch.setattr(promise, "pyramid_run", lambda pyramid, _: tmp_path / pyramid.name)
    options = Namespace(
        out=tmp_path, data=None, pyramids=["crux-hard-70b"], draws=40, generated=0, suite=SUITE
    )
    promise.run(options)
    with (tmp_path / "promise" / "promise.csv").open(newline="") as file:
        rows = {(float(row["drop"]), row["method"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    for (_, method), row in rows.items():
        assert float(row["broken"]) > 0.2 if method == "measured" else float(row["broken"]) < 0.16
        assert float(row["cost_over_best"]) < 1.1 if method == "measured" else True
        assert 0 <= float(row["escalation"]) <= 1
    assert float(rows[0.005, "exact"]["unproven"]) > 0.5
    assert (tmp_path / "promise" / "promise.svg").is_file()
    before = (tmp_path / "promise" / "promise.csv").read_bytes()
    promise.run(options)  # from what it has kept
    assert (tmp_path / "promise" / "promise.csv").read_bytes() == before
