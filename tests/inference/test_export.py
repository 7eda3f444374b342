"""Checkpoints to hand on: folder, ONNX, Hugging Face Hub."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hub_server import hub_server

from pyramid_moa.errors import CheckpointError, MissingExtraError
from pyramid_moa.inference.export_folder import export_folder
from pyramid_moa.router_model.network import HEADS
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.vote_figures import same_answers

FILES = ["README.md", "router.json", "router.safetensors"]


def test_a_folder_with_a_model_card(trained_on_hidden, tmp_path):
    out = tmp_path / "new" / "router"
    export_folder(trained_on_hidden, out)
    assert sorted(path.name for path in out.iterdir()) == FILES
    for name in FILES[1:]:
        assert (out / name).read_bytes() == (trained_on_hidden / name).read_bytes()
    card = Router.load(out).card
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: pyramid-moa\n")
    assert "large, middle, small" in text
    assert "layer-1/answer_mean" in text
    assert card.weights_sha256 in text
    assert "needs token log-probabilities: yes" in text
    assert "made-up prices" in text
    for point in card.operating_points:
        assert f"| {point.name} | {point.threshold:.4f} |" in text
    with pytest.raises(CheckpointError, match="exists already"):
        export_folder(trained_on_hidden, out)


def test_a_damaged_checkpoint_is_not_handed_on(trained, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in FILES[1:]:
        (broken / name).write_bytes((trained / name).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        export_folder(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def onnx_models(trained, trained_on_hidden, tmp_path_factory):
    """Exported networks: without hidden states and with them."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="extra onnx absent")
    from pyramid_moa.inference.export_onnx import export_onnx

    folder = tmp_path_factory.mktemp("onnx")
    for name, checkpoint in (("plain", trained), ("hidden", trained_on_hidden)):
        export_onnx(checkpoint, folder / "models" / f"{name}.onnx")
    return folder / "models"


@pytest.mark.parametrize("name", ["plain", "hidden"])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_onnxruntime_gives_the_same_scores(onnx_models, trained, trained_on_hidden, name, rows):
    import onnxruntime

    router = Router.load(trained if name == "plain" else trained_on_hidden)
    rng = np.random.default_rng(rows)
    shape = router.network.shape
    members = shape.members

    def scattered(kind, *size):
        mean, scale = (
            router.network.get_buffer(f"{kind}_{name}").numpy() for name in ("mean", "scale")
        )
        return (mean + 4 * scale * rng.normal(size=(rows, *size, len(mean)))).astype(np.float32)

    clusters = torch.from_numpy(rng.integers(-2, members, (rows, members)))
    feed = {
        "answers": scattered("answer", members),
        "relations": scattered("relation", members, members),
        "clusters": same_answers(clusters).numpy(),
        "question": scattered("question"),
    }
    for name_of in ("answers", "relations"):
        feed[name_of][rng.random(feed[name_of].shape) < 0.2] = np.nan
    for index, size in enumerate(shape.hidden_sizes):
        feed[f"hidden_{index}"] = rng.normal(size=(rows, size)).astype(np.float32) * 3
        feed[f"hidden_{index}"][::3] = 0.0
    session = onnxruntime.InferenceSession(onnx_models / f"{name}.onnx")
    assert [item.name for item in session.get_inputs()] == list(feed)
    found, found_right = session.run(["probabilities", "answers_right"], feed)
    with torch.inference_mode():
        tensors = [torch.from_numpy(value) for value in feed.values()]
        expected, right = (values.numpy() for values in router.network(*tensors))
    assert found.shape == (rows, len(HEADS))
    assert found_right.shape == (rows, members)
    assert np.abs(found - expected).max() <= 1e-5
    assert np.abs(found_right - right).max() <= 1e-5
    assert (expected.std(axis=0) > 1e-3).all() or rows == 1
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["feature_names"]) == router.card.feature_names
    assert json.loads(known["members"]) == router.card.member_names
    assert known["hidden_key"] == (router.card.hidden_key or "")
    assert known["weights_sha256"] == router.card.weights_sha256


def test_scores_that_differ_are_not_exported(trained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="extra onnx absent")
    from pyramid_moa.inference import export_onnx

    monkeypatch.setattr(export_onnx, "_TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="was not written"):
        export_onnx.export_onnx(trained, tmp_path / "router.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_pip_command_is_named(trained, tmp_path, monkeypatch):
    from pyramid_moa.inference.export_onnx import export_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx")
    finder = sys.meta_path

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "onnx":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *finder])
    with pytest.raises(MissingExtraError, match=r"pip install 'pyramid-moa\[onnx\]'"):
        export_onnx(trained, tmp_path / "router.onnx")


SETTINGS = {
    "HF_TOKEN": "hf_secret_token",
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",  # its own protocol: too much for a test
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


def test_what_arrives_on_the_hub_is_the_checkpoint(trained):
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    with hub_server() as hub:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pyramid_moa", "export"),
                *("--router", trained, "--hub", "someone/router"),
            ],
            env={**os.environ, **SETTINGS, "HF_ENDPOINT": hub.address},
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"someone/router": True}  # made, and private
    assert sorted(hub.files) == FILES
    for name in FILES[1:]:
        assert hub.files[name] == (trained / name).read_bytes()
    assert b"library_name: pyramid-moa" in hub.files["README.md"]
    assert "/someone/router/commit/" in done.stdout
    assert hub.tokens == {"Bearer hf_secret_token"}


@pytest.fixture
def refused(trained, monkeypatch, capsys):
    """Pushes through the command line to an address, and looks at the error."""
    from huggingface_hub import constants

    from pyramid_moa.cli import main

    def check(address, *, repository="someone/router"):
        for name, value in SETTINGS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert main(["export", "--router", str(trained), "--hub", repository]) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("pyramid-moa export: could not push to ")
        assert "HF_TOKEN" in shown.err
        assert "hf_secret_token" not in shown.err + shown.out
        assert shown.out == ""
        return shown.err

    return check


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_refuses(refused, status):
    with hub_server(refuse=status) as hub:
        assert str(status) in refused(hub.address)
    assert hub.tokens == {"Bearer hf_secret_token"}


def test_a_hub_that_is_not_there(refused):
    assert "refused" in refused("http://127.0.0.1:9")


def test_no_name_of_a_repository(refused):
    refused("http://127.0.0.1:9", repository="not / a name")
