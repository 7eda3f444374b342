import csv
import json
import time

import pytest

from pyramid_moa.errors import ConfigError
from pyramid_moa.training.config import TrackingConfig, TrainConfig
from pyramid_moa.training.tracking import tracking

FIGURES = {"split": "train", "log_loss": 0.25, "brier": None}
CURVE = [{"threshold": 0.5, "accuracy": 0.9}, {"threshold": 0.1, "accuracy": None}]


def followed(tmp_path, *loggers):
    config = TrainConfig(tracking=TrackingConfig(loggers=list(loggers)))
    checkpoint = tmp_path / "mine router"
    checkpoint.mkdir()
    (checkpoint / "router.json").write_text("{}")
    with tracking(config, tmp_path / "work") as opened:
        opened.result(FIGURES, CURVE, checkpoint)
    return opened.loggers


@pytest.mark.parametrize("named", [[], ["csv"]])
def test_csv_is_always_written(tmp_path, named):
    (logger,) = followed(tmp_path, *named)
    with (tmp_path / "work/csv/version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["result/log_loss"]) == 0.25
    assert "result/split" not in row
    assert "result/brier" not in row
    assert type(logger).__name__ == "CSVLogger"


def test_any_lightning_logger_can_be_named(tmp_path):
    loggers = followed(tmp_path, "lightning.pytorch.loggers.csv_logs.CSVLogger")
    assert len(loggers) == 2
    # The named one writes where Lightning's own default says, below the same folder.
    assert (tmp_path / "work/lightning_logs/version_0/metrics.csv").is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no.such.module.Logger", "the class of a Lightning logger"),
        ("lightning.pytorch.loggers.NoSuch", "the class of a Lightning logger"),
        ("pathlib.Path", "is no Lightning logger"),
        ("lightning.pytorch.loggers.Logger", "can't be made"),
    ],
)
def test_what_is_no_logger_is_one_clear_error(tmp_path, name, problem):
    with pytest.raises(ConfigError, match=problem):
        followed(tmp_path, name)


def test_a_name_without_a_dot_is_csv_or_wandb():
    with pytest.raises(ConfigError, match="tensorboard"):
        TrainConfig(tracking=TrackingConfig(loggers=["tensorboard"]))


def _holds(run, words):
    return any(words in path.read_bytes() for path in run.glob("*.wandb"))


def test_wandb_gets_the_curve_and_the_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="extra train absent")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    followed(tmp_path, "wandb")
    (run,) = (tmp_path / "work/wandb").glob("offline-run-*")
    (table,) = run.rglob("validation_curve*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["threshold", "accuracy"]
    assert content["data"] == [[0.5, 0.9], [0.1, None]]
    # The artifact goes by the checkpoint's name, in characters that W&B allows.
    # A process of W&B's own writes it, when it comes to it.
    until = time.monotonic() + 60
    while not (found := _holds(run, b"router-mine-router")) and time.monotonic() < until:
        time.sleep(0.1)
    assert found
