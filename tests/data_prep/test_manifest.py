import json
from dataclasses import replace

import pytest

from pyramid_moa.backends import ModelSpec, Price
from pyramid_moa.data_prep.manifest import (
    Manifest,
    ModelCost,
    model_costs,
    read_manifest,
    write_manifest,
)
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import RunFolderError

COST = ModelCost(name="a", price=Price(input=1, output=2), active_parameters=8e9, note="list")
MANIFEST = Manifest(
    dataset="Größe.jsonl",
    dataset_hash="00",
    reference="gold",
    members=["a"],
    oracle="o",
    costs=[COST],
    price_note="stand-in",
    grader="gsm8k",
    splits="hash",
    pyramid={"sampling": {"max_tokens": 3, "stop": ("x",)}, "members": [{"name": "a"}]},
    counts={"queries": 3},
)


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    found = read_manifest(tmp_path)
    assert found.costs == MANIFEST.costs
    assert found.models == ["a", "o"]
    assert found.dataset == "Größe.jsonl"
    assert found.differences(MANIFEST) == MANIFEST.differences(found) == []
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_mid_oracles_stand_between_members_and_oracle(tmp_path):
    manifest = replace(MANIFEST, mid_oracles=["m", "n"])
    write_manifest(tmp_path, manifest)
    found = read_manifest(tmp_path)
    assert found.mid_oracles == ["m", "n"]
    assert found.models_before_oracle == ["a", "m", "n"]
    assert found.models == ["a", "m", "n", "o"]
    assert found.tiers == [["a"], ["m"], ["n"], ["o"]]
    assert found.differences(manifest) == []


def test_a_manifest_of_two_tiers_is_written_and_read_as_it_always_was(tmp_path):
    """By name: a manifest from before there were mid oracles is one without any."""
    write_manifest(tmp_path, MANIFEST)
    content = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(content) == [
        "complete", "costs", "counts", "dataset", "dataset_hash", "format", "format_version",
        "grader", "members", "oracle", "price_note", "pyramid", "reference", "splits",
        "tokens_estimated",
    ]  # fmt: skip
    assert content["format_version"] == 2
    found = read_manifest(tmp_path)
    assert found.mid_oracles == []
    assert found.tiers == [["a"], ["o"]]
    assert found.differences(MANIFEST) == []


def test_a_mid_oracle_more_is_another_run():
    one, two = replace(MANIFEST, mid_oracles=["m"]), replace(MANIFEST, mid_oracles=["m", "n"])
    assert MANIFEST.differences(one) == [
        'mid_oracles: "list" is not null',
        'mid_oracles[0]: null is not "m"',
    ]
    assert one.differences(two) == ['mid_oracles[1]: null is not "n"']


def test_progress_and_prices_make_no_other_run():
    later = replace(
        MANIFEST, counts={}, complete=True, tokens_estimated=True, costs=[], price_note=""
    )
    assert MANIFEST.differences(later) == []


def test_differences_are_named():
    other = replace(
        MANIFEST,
        dataset_hash="01",
        members=["a", "b"],
        pyramid={
            "sampling": {"max_tokens": 4, "stop": ("x",)},
            "members": [{"name": "a"}],
            "e": {},
        },
    )
    assert MANIFEST.differences(other) == [
        'dataset_hash: "00" is not "01"',
        'members[1]: null is not "b"',
        'pyramid.e: null is not "dict"',
        "pyramid.sampling.max_tokens: 3 is not 4",
    ]


def test_long_differences_are_cut():
    (line,) = MANIFEST.differences(replace(MANIFEST, dataset="x" * 1000))
    assert len(line) < 200


@pytest.mark.parametrize(
    ("prompt", "completion", "parameters", "flops"),
    [(10, 5, 1e9, 3e10), (None, 5, 1e9, None), (10, None, 1e9, None), (10, 5, None, None)],
)
def test_flops(prompt, completion, parameters, flops):
    cost = ModelCost(name="a", price=Price(), active_parameters=parameters)
    assert cost.flops(prompt, completion) == flops


def test_costs_of_a_pyramid():
    members = [ModelSpec(name="a", model="x", price=Price(input=1), active_parameters=2e9)]
    pyramid = Pyramid(members=members, oracles=[ModelSpec(name="o", model="y")])
    assert model_costs(pyramid) == [
        ModelCost(name="a", price=Price(input=1), active_parameters=2e9),
        ModelCost(name="o", price=Price(), active_parameters=None),
    ]


def test_costs_of_a_pyramid_of_three_tiers():
    a, m, o = (ModelSpec(name=name, model="x") for name in "amo")
    assert [cost.name for cost in model_costs(Pyramid(members=[a], oracles=[m, o]))] == list("amo")


def test_no_run_folder(tmp_path):
    with pytest.raises(RunFolderError, match=r"with manifest\.json, found none; pyramid-moa label"):
        read_manifest(tmp_path)
    with pytest.raises(RunFolderError, match="found no such folder"):
        read_manifest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 1}, "version 2, found pyramid-moa run 1"),
        ({"format": "other"}, "found other 2"),
        ({"dataset": None, "colour": "red"}, "damaged.*colour"),
        ({"costs": [{"name": "a"}]}, "damaged"),
        ({"costs": 3}, "damaged"),
        ({"costs": [{"name": "a", "price": {"input": -1}, "active_parameters": None}]}, "price"),
    ],
)
def test_another_format(tmp_path, change, says):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunFolderError, match=says):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}']
)
def test_a_damaged_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        read_manifest(tmp_path)


def test_a_missing_key(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    del content["oracle"]
    path.write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"damaged.*oracle"):
        read_manifest(tmp_path)
