"""The whole way through the command line."""

import json

from pyramid_moa.cli import main
from synthetic import import_flags, write_recorded_table

QUICK = "network: {units: 8, seeds: 4}\noptimiser: {max_epochs: 15, learning_rate: 0.005}\n"


def test_the_whole_way(tmp_path, capsys):
    """import -> train -> evaluate -> threshold -> benchmark -> export, as a user types them."""
    table = write_recorded_table(tmp_path / "table.parquet")
    config = tmp_path / "train.yaml"
    config.write_text(QUICK)
    run, router = tmp_path / "run", tmp_path / "router"

    def said(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr()

    shown = said(*import_flags(table, out=run))
    assert shown.out == f"run: {run}\n"
    assert "300 of 300 questions" in shown.err
    shown = said("train", "--run", run, "--out", router, "--config", config)
    assert f"checkpoint: {router}" in shown.out
    shown = said("evaluate", "--run", run, "--router", router, "--out", tmp_path / "report")
    assert "hindsight" in shown.out
    assert (tmp_path / "report" / "report.html").is_file()
    shown = said("evaluate", "--run", run, "--out", tmp_path / "vote", "--split", "all")
    assert "vote rule (all agree)" in shown.out
    promise = ["threshold", "--run", run, "--router", router, "--max-drop"]
    shown = said(*promise, "0.2")
    assert shown.out.startswith("operating point target: threshold ")
    assert "promised at confidence 0.95 (learn then test" in shown.out
    assert main([str(argument) for argument in (*promise, "0.005")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not attainable at confidence 0.95 with the 50 questions of calibration" in line
    shown = said(*promise, "0.005", "--no-promise", "--name", "measured")
    assert "measured, not guaranteed" in shown.out
    flags = ["--router", router, "--operating-point", "target", "--out", tmp_path / "report"]
    said("evaluate", "--run", run, *flags)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["operating_point"]["name"] == "target"
    flags = ["--config", config, "--folds", "2", "--seeds", "1", "--out", tmp_path / "bench"]
    shown = said("benchmark", "--run", run, *flags)
    assert "run: 300 queries, failure AUROC" in shown.out
    assert (tmp_path / "bench" / "benchmark.csv").is_file()
    assert (tmp_path / "bench" / "rules.csv").is_file()
    assert f"page: {tmp_path / 'bench' / 'report.html'}" in shown.out
    assert (tmp_path / "bench" / "report.html").is_file()
    said("export", "--router", router, "--out", tmp_path / "exported")
    assert (tmp_path / "exported" / "README.md").is_file()
