"""The router head to head with other rules on whole runs."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import pytest

from pyramid_moa.errors import ConfigError, DataError, RunFolderError
from pyramid_moa.training.benchmark import benchmark
from pyramid_moa.training.head_to_head_first import FRAME
from synthetic import quick_config

ALL = (
    "vote",
    "router",
    "router-anytime",
    "cascade-routing",
    "query-only",
    "scorer",
    "self-check",
    "hidden-probe",
    "random",
    "members-only",
    "oracle-only",
    "hindsight",
)
# Imported answers have neither log-probabilities nor hidden states.
LABELLED_ONLY = ("self-check", "hidden-probe")
CHEAP = ("vote", "cascade-routing", "hindsight")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tables(out):
    names = ("rules.csv", "differences.csv", "rules.json", "relative_curves.csv")
    files = {name: (out / name).read_text() for name in names}
    # What a fold took is a measured time.
    rules = [
        {k: v for k, v in row.items() if k != "seconds_a_fold"} for row in table(out / names[0])
    ]
    entries = json.loads(files["rules.json"])["entries"]
    return (
        rules,
        [{**own, "seconds_a_fold": 0} for own in entries],
        files[names[1]],
        files[names[3]],
    )


@pytest.fixture(scope="module")
def done(imported_run, labelled_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    said = []
    rows = benchmark(
        [imported_run, labelled_run],
        out,
        config=quick_config(),
        folds=3,
        seeds=1,
        resamples=200,
        say=said.append,
    )
    return out, rows, said


def test_the_routers_table(done):
    out, rows, said = done
    found = table(out / "benchmark.csv")
    assert [row["run"] for row in found] == ["imported", "labelled"]
    assert [int(row["n"]) for row in found] == [300, 240]
    for row, written in zip(rows, found, strict=True):
        assert set(row) == set(written)
        assert float(written["failure_auroc"]) == pytest.approx(row["failure_auroc"])
        difference = row["failure_auroc"] - row["agreement_auroc"]
        assert row["failure_auroc_minus_agreement"] == pytest.approx(difference)
        assert row["interval_low"] <= difference <= row["interval_high"]
        assert row["failure_auroc"] > row["agreement_auroc"]
        assert row["interval_low"] > 0
    assert any(line.startswith("imported: 300 queries, failure AUROC 0.") for line in said)


def test_a_report_a_run(done):
    out, _, _ = done
    for name in ("imported", "labelled"):
        page = (out / name / "report.html").read_text(encoding="utf-8")
        assert "3-fold cross-validation by question, seed 0" in page


def test_every_rule_on_every_run_and_pooled(done):
    out, _, said = done
    rows = {(row["scope"], row["name"], row["rule"]): row for row in table(out / "rules.csv")}
    everywhere = [rule for rule in ALL if rule not in LABELLED_ONLY]
    pooled_rules = [rule for scope, _, rule in rows if scope == "all"]
    assert pooled_rules == [*everywhere, *LABELLED_ONLY]
    assert {rows["all", "all", rule]["runs"] for rule in LABELLED_ONLY} == {"1"}
    assert rows["all", "all", "router"]["runs"] == "2"
    # Both runs are of one data set, which is all.
    assert {scope for scope, _, _ in rows} == {"all", "run"}
    assert "imported: without hidden-probe: there are no hidden states of all members" in said
    assert any(line.startswith("imported: without self-check: not every answer") for line in said)
    one, two, pooled = (
        float(rows[key]["failure_auroc"])
        for key in (
            ("run", "imported", "router"),
            ("run", "labelled", "router"),
            ("all", "all", "router"),
        )
    )
    assert pooled == pytest.approx((one + two) / 2)
    for scope, name in {key[:2] for key in rows}:
        own = {rule: rows[scope, name, rule] for rule in ALL if (scope, name, rule) in rows}
        assert float(own["hindsight"]["area"]) > max(
            float(row["area"]) for rule, row in own.items() if rule != "hindsight" and row["area"]
        )
        assert own["oracle-only"]["area"] == own["members-only"]["area"] == ""
        assert float(own["vote"]["cost_at_abc_cost"]) == pytest.approx(1.0)
        assert float(own["random"]["apgr"]) == pytest.approx(0.5, abs=0.1)
        assert float(own["oracle-only"]["cost_ratio_at_parity"]) == pytest.approx(1.0)


def test_differences_are_those_of_the_table(done):
    out, _, _ = done
    rows = {(row["name"], row["rule"]): row for row in table(out / "rules.csv")}
    found = [row for row in table(out / "differences.csv") if row["figure"] == "failure_auroc"]
    assert {row["rule"] for row in found} >= {"router", "scorer", "query-only"}
    for row in found:
        if rows[row["name"], row["rule"]]["runs"] == rows[row["name"], "vote"]["runs"]:
            own, vote = (
                float(rows[row["name"], rule]["failure_auroc"]) for rule in (row["rule"], "vote")
            )
            assert float(row["less_vote"]) == pytest.approx(own - vote)
        assert float(row["interval_low"]) < float(row["interval_high"])
    best = next(row for row in found if (row["name"], row["rule"]) == ("all", "router"))
    assert float(best["interval_low"]) > 0


def test_how_far_rules_are_behind_the_first(done):
    out, _, _ = done
    rules = {(row["name"], row["rule"]): row for row in table(out / "rules.csv")}
    rows = [row for row in table(out / "behind_first.csv") if row["figure"] == "area"]
    for name in ("all", "imported", "labelled"):
        own = {row["rule"]: row for row in rows if row["name"] == name}
        (first,) = {row["first"] for row in own.values()}
        assert own[first]["standing"] == "first"
        assert own["hindsight"]["standing"] == "ahead"
        for row in own.values():
            least, most = float(row["interval_low"]), float(row["interval_high"])
            assert least <= float(row["less_first"]) <= most
            assert (row["standing"] == "behind") == (most < 0)
        assert float(own["vote"]["value"]) == pytest.approx(float(rules[name, "vote"]["area"]))


def test_plots_and_their_numbers(done):
    out, _, _ = done
    for name in ("imported", "labelled", "suite_pareto"):
        for suffix in ("svg", "png", "csv"):
            assert (out / "plots" / f"{name}.{suffix}").stat().st_size > 500
    rows = table(out / "plots" / "labelled.csv")
    assert {row["rule"] for row in rows} == set(ALL)
    abc = [row for row in rows if row["budget"] == "all agree"]
    assert [row["rule"] for row in abc] == ["vote"]
    suite = {row["rule"] for row in table(out / "plots" / "suite_pareto.csv")}
    assert not suite & set(LABELLED_ONLY)  # they have one of two runs only
    assert {"vote", "router", "hindsight"} <= suite


def test_one_page_has_all_of_it(done):
    out, _, _ = done
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "3-fold cross-validation by question, seed 0; intervals" in page
    assert page.count("data:image/svg+xml;base64,") == 3  # two runs, and over both
    assert "How many labels it takes" not in page
    for row in table(out / "rules.csv"):
        assert page.count(f"<td>{row['rule']}<") >= 2 * 3  # two tables, two runs and both
        assert not row["area"] or f"<td>{float(row['area']):.3f}</td>" in page
    for row in table(out / "behind_first.csv"):
        compared = row["figure"] == "area" and row["rule"] not in FRAME
        if compared and row["standing"] == "behind":
            assert f"{float(row['less_first']):.3f} (".replace("-", "\N{MINUS SIGN}") in page


def test_again_from_the_cache_it_is_the_same(done, imported_run, labelled_run, monkeypatch):
    out, _, _ = done
    before = tables(out)

    def refuse(*_, **__):
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr("pyramid_moa.training.head_to_head_cells.compute_cell", refuse)
    runs = [imported_run, labelled_run]
    benchmark(runs, out, config=quick_config(), folds=3, seeds=1, resamples=200)
    assert tables(out) == before


def test_afresh_it_is_the_same_and_one_run_is_as_among_others(labelled_run, done, tmp_path):
    out, _, _ = done
    benchmark([labelled_run], tmp_path / "out", rules=CHEAP, folds=3, seeds=1, resamples=0)
    alone = {
        row["rule"]: row for row in table(tmp_path / "out" / "rules.csv") if row["scope"] == "run"
    }
    among = {
        row["rule"]: row
        for row in table(out / "rules.csv")
        if row["scope"] == "run" and row["name"] == "labelled"
    }
    for rule in CHEAP:
        for name, value in alone[rule].items():
            if name in ("scope", "name", "rule") or not value:
                assert value == among[rule][name], (rule, name)
            elif name != "seconds_a_fold":
                assert float(value) == pytest.approx(float(among[rule][name])), (rule, name)
    assert not (tmp_path / "out" / "benchmark.csv").exists()  # the router took no part


KILLED = """
import os, signal, sys
from pyramid_moa.training import head_to_head_cells as module
from pyramid_moa.training.benchmark import benchmark
compute, cells = module.compute_cell, []

def compute_and_die(*arguments):
    if len(cells) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    cells.append(compute(*arguments))
    return cells[-1]

module.compute_cell = compute_and_die
benchmark([sys.argv[1]], sys.argv[2], rules=sys.argv[3:], folds=3, seeds=2, resamples=20)
"""


@pytest.mark.timeout(300)  # a process of its own loads everything anew
def test_a_killed_benchmark_goes_on(labelled_run, tmp_path):
    out, whole = tmp_path / "killed", tmp_path / "whole"
    program = [sys.executable, "-c", KILLED, str(labelled_run), str(out), "hindsight"]
    assert subprocess.run(program, capture_output=True).returncode == -signal.SIGKILL
    cache = out / "cache"
    kept = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.npz")}
    assert len(kept) == 7
    (cache / ".partial-0123-cut.npz").write_bytes(b"half")
    benchmark([labelled_run], out, rules=["hindsight"], folds=3, seeds=2, resamples=20)
    after = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(after) == 12
    assert kept.items() <= after.items()
    benchmark([labelled_run], whole, rules=["hindsight"], folds=3, seeds=2, resamples=20)
    assert tables(out) == tables(whole)


def test_runs_of_one_name_are_refused_before_anything_is_fitted(imported_run, tmp_path):
    other = shutil.copytree(imported_run, tmp_path / "imported")
    with pytest.raises(ConfigError, match="found imported more than once"):
        benchmark([imported_run, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(imported_run, tmp_path):
    with pytest.raises(RunFolderError, match="expected a run folder"):
        benchmark([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(RunFolderError, match="different questions"):
        benchmark([imported_run], tmp_path / "out", folds=40)
    with pytest.raises(ConfigError, match="expected rules among vote"):
        benchmark([imported_run], tmp_path / "out", rules=["best"])
    with pytest.raises(ConfigError, match="1 seed or more"):
        benchmark([imported_run], tmp_path / "out", seeds=0)
    named = shutil.copytree(imported_run, tmp_path / "cache")
    with pytest.raises(ConfigError, match="uses the name cache itself"):
        benchmark([named], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="found a file"):
        benchmark([imported_run], tmp_path / "file")
    (tmp_path / "out" / "imported").mkdir(parents=True)
    (tmp_path / "out" / "imported" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="folder of something else"):
        benchmark([imported_run], tmp_path / "out")
