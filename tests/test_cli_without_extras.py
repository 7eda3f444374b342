"""The command line where the libraries of the extras are not installed."""

import json
import os
import subprocess
import sys

import pytest

from pyramid_moa.cli import main

BLOCKED = """
import importlib.machinery
import sys

ABSENT = {"lightning", "wandb", "datasets", "peft", "sklearn", "matplotlib", "onnx", "pandas"}


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""


def test_answer_needs_nothing_of_the_training(
    repository, tmp_path, trained_on_hidden, imported_run
):
    """With a checkpoint, in a process where the libraries of the extras are not to be had."""
    models = repository / "src" / "pyramid_moa" / "embedded"
    if not (models / "pyramid.yaml").is_file():
        pytest.skip("the embedded pyramid is not there yet")
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    router = tmp_path / "router"
    make_router_for_embedded(trained_on_hidden, router, models)
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "Tom has 3 apples and buys 4 more. How many has he?"}\n')
    paths = [str(tmp_path), str(repository / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyramid_moa", "answer", "--pyramid", "embedded"),
            *("--router", router, "--input", questions, "--output", tmp_path / "a.jsonl"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert row["rule"] == "router"
    assert "1 questions, " in done.stdout
    train = subprocess.run(
        [
            *(sys.executable, "-m", "pyramid_moa", "train"),
            *("--run", imported_run, "--out", tmp_path / "no"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert train.returncode == 2
    assert "pip install 'pyramid-moa[train]'" in train.stderr


def make_router_for_embedded(checkpoint, out, models):
    """A router's weights as they come; its members are those of the embedded pyramid."""
    from dataclasses import replace

    import torch

    from pyramid_moa.data_prep.pyramid import load_pyramid
    from pyramid_moa.router_model.card import RouterMember
    from pyramid_moa.router_model.features import FeatureSpec
    from pyramid_moa.router_model.network import NetworkShape, RouterNetwork
    from pyramid_moa.router_model.router import Router

    pyramid = load_pyramid("embedded")
    spec = FeatureSpec(groups=("agreement", "confidence"))
    sizes = [
        json.loads((models / name / "config.json").read_text())["hidden_size"]
        for name in pyramid.member_names
    ]
    shape = NetworkShape(
        answer_features=len(spec.answer_names),
        relation_features=len(spec.relation_names),
        question_features=len(spec.question_names),
        members=len(sizes),
        hidden_sizes=tuple(sizes),
        components=2,
        code=2,
        units=2,
        seeds=1,
    )
    network = RouterNetwork(shape)
    network.reset(torch.Generator().manual_seed(0))
    members = [
        RouterMember(name=name, hidden_size=size, logprobs=True)
        for name, size in zip(pyramid.member_names, sizes, strict=True)
    ]
    card = replace(
        Router.load(checkpoint).card,
        members=members,
        grader=pyramid.grader,
        feature_groups=list(spec.groups),
        feature_names=list(spec.names),
        network=shape,
    )
    Router(card, network).save(out)


def test_a_missing_extra_names_the_command(monkeypatch, capsys, tmp_path):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "sklearn":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert main(["train", "--run", str(tmp_path), "--out", "out"]) == 2
    assert "pip install 'pyramid-moa[train]'" in capsys.readouterr().err
