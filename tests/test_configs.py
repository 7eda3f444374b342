"""Every file in configs/ is loaded by what it is for."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pyramid_moa.config_file import load_config, read_yaml
from pyramid_moa.data_prep.prices import read_prices
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.inference.gateway.settings import GatewaySettings
from pyramid_moa.inference.served_models import served_models
from pyramid_moa.training.config import TrainConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
CONFIGS_OF_PYRAMIDS = [path for path in CONFIGS if path.stem.startswith("pyramid-")]


def test_there_are_configs_of_every_kind() -> None:
    kinds = {path.stem.split("-")[0] for path in CONFIGS}
    assert kinds == {"pyramid", "train", "prices", "serve"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads(path: Path) -> None:
    if path.stem.startswith("pyramid-"):
        pyramid = load_pyramid(path)
        assert pyramid.members
        assert pyramid.price_note
        assert all(spec.price.input > 0 for spec in pyramid.models)
    elif path.stem.startswith("train-"):
        assert load_config(TrainConfig, path).groups
    elif path.stem == "serve":
        # All of them, and what holds without a file.
        assert load_config(GatewaySettings, path) == GatewaySettings()
        written = read_yaml(path)
        assert written.keys() == asdict(GatewaySettings()).keys()
        for part, fields in asdict(GatewaySettings()).items():
            if isinstance(fields, dict):
                assert written[part].keys() == fields.keys()
    else:
        assert all(cost.price.output > 0 for cost in read_prices(path).values())


def test_the_pyramids_with_ports_can_be_served() -> None:
    served = [
        pyramid
        for pyramid in map(load_pyramid, CONFIGS_OF_PYRAMIDS)
        if any(spec.port is not None for spec in pyramid.models)
    ]
    assert {pyramid.name for pyramid in served} == {"llama-qwen-70b", "three-tiers", "vllm-served"}
    for pyramid in served:
        with_ports = [spec for spec in pyramid.models if spec.port is not None]
        assert served_models(pyramid) == with_ports


def test_the_pyramid_of_three_tiers() -> None:
    pyramid = load_pyramid(CONFIGS[0].parent / "pyramid-three-tiers.yaml")
    assert pyramid.tiers == [
        ["qwen2.5-7b", "llama-3.1-8b", "gemma-2-9b"],
        ["llama-3.1-70b"],
        ["llama-3.1-405b"],
    ]
    prices = [spec.price.output for spec in pyramid.models]
    assert max(prices[:3]) < prices[3] < prices[4]


def test_the_copy_of_the_embedded_pyramid_is_the_embedded_pyramid() -> None:
    copy = load_pyramid(Path(__file__).parents[1] / "configs" / "pyramid-embedded.yaml")
    packaged = load_pyramid("embedded")
    assert copy.identity() == packaged.identity()
    assert copy.price_note == packaged.price_note
    assert [spec.price for spec in copy.models] == [spec.price for spec in packaged.models]
    assert all(Path(spec.model).is_dir() for spec in copy.models)
