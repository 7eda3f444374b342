"""The YAML of a training."""

import pytest

from pyramid_moa.config_file import load_config
from pyramid_moa.errors import ConfigError
from pyramid_moa.training.config import NetworkConfig, OptimiserConfig, TrainConfig


def test_what_is_left_out_is_the_default(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "seed: 7\nnetwork:\n  units: 3\ntracking:\n  loggers: [csv, wandb]\n"
        "groups: [agreement, lengths]\n"
    )
    config = load_config(TrainConfig, path)
    assert config.seed == 7
    assert config.network == NetworkConfig(units=3)
    assert config.optimiser == OptimiserConfig()
    assert config.tracking.loggers == ["csv", "wandb"]
    assert config.tracking.wandb_offline
    assert config.groups == ["agreement", "lengths"]


def test_every_problem_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(
            network=NetworkConfig(code=0, units=0, seeds=0, components=0, dropout=1.0),
            optimiser=OptimiserConfig(
                learning_rate=0.0,
                weight_decay=-1.0,
                init_learning_rate=0.0,
                averaging=1.0,
                epoch_batches=0,
                batch_size=0,
                max_epochs=0,
                patience=0,
                oracle_weight=-0.1,
            ),
            groups=["lengths"],
        )
    message = str(caught.value)
    for name in ("units", "seeds", "components", "dropout", "learning_rate", "weight_decay"):
        assert name in message
    for name in ("network.code", "init_learning_rate", "averaging", "epoch_batches"):
        assert name in message
    for name in ("batch_size", "max_epochs", "patience", "oracle_weight", "agreement among"):
        assert name in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour: blue", "colour"),
        ("tracking: {loggers: [tensorboard]}", "tensorboard"),
        ("optimiser: {batch_size: many}", "batch_size"),
    ],
)
def test_what_does_not_belong_there_is_named(tmp_path, text, word):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word) as caught:
        load_config(TrainConfig, path)
    assert str(path) in str(caught.value)
