"""The router against the vote rule on whole runs."""

import csv
import shutil

import pytest

from pyramid_moa.errors import ConfigError, DataError, RunFolderError
from pyramid_moa.training.benchmark import benchmark
from synthetic import quick_config


@pytest.fixture(scope="module")
def done(imported_run, labelled_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    said = []
    rows = benchmark(
        [imported_run, labelled_run], out, config=quick_config(), folds=3, say=said.append
    )
    return out, rows, said


def test_the_table(done):
    out, rows, said = done
    with (out / "benchmark.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["imported", "labelled"]
    assert [int(row["n"]) for row in table] == [300, 240]
    for row, found in zip(rows, table, strict=True):
        assert set(row) == set(found)
        assert float(found["failure_auroc"]) == pytest.approx(row["failure_auroc"])
        difference = row["failure_auroc"] - row["agreement_auroc"]
        assert row["failure_auroc_minus_agreement"] == pytest.approx(difference)
        assert row["interval_low"] <= difference <= row["interval_high"]
        assert row["failure_auroc"] > row["agreement_auroc"]
        assert row["interval_low"] > 0
    assert said[0].startswith("imported: 300 queries, failure AUROC 0.")


def test_a_report_a_run(done):
    out, _, _ = done
    for name in ("imported", "labelled"):
        page = (out / name / "report.html").read_text(encoding="utf-8")
        assert "3-fold cross-validation by question, seed 0" in page


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
    (tmp_path / "out" / "imported").mkdir(parents=True)
    (tmp_path / "out" / "imported" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="folder of something else"):
        benchmark([imported_run], tmp_path / "out")
