"""Checkpoint folders: whole, checked, and never unpickled."""

import hashlib
import json
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.card import RouterCard
from pyramid_moa.router_model.checkpoint import read_checkpoint, write_checkpoint
from pyramid_moa.router_model.router import Router


def reseal(folder, change=None, *, weights=None):
    """Change a checkpoint and make all its hashes fit again, as somebody with intent would."""
    card = folder / "router.json"
    content = json.loads(card.read_text())
    if weights is not None:
        (folder / "router.safetensors").write_bytes(weights)
        content["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    if change is not None:
        change(content)
    del content["self_sha256"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["self_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    card.write_text(json.dumps(content))


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_round_trip_is_bit_equal(make_router, tmp_path):
    router = make_router(hidden_key="layer-1/answer_mean")
    router.save(tmp_path / "one")
    again = Router.load(tmp_path / "one")
    assert again.card == router.card
    for name, value in router.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    shape = router.network.shape
    inputs = (
        torch.randn(5, 3, shape.answer_features),
        torch.randn(5, 3, 3, shape.relation_features),
        torch.tensor([[0, 0, 2]] * 5),
        torch.randn(5, shape.question_features),
        *[torch.randn(5, 6) for _ in range(3)],
    )
    inputs[0][0, :2] = torch.nan
    for one, other in zip(router.network(*inputs), again.network(*inputs), strict=True):
        assert torch.equal(one, other)
    again.save(tmp_path / "two")
    for name in ("router.json", "router.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_resealing_by_itself_changes_nothing(checkpoint):
    reseal(checkpoint)
    read_checkpoint(checkpoint)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_byte_in_the_weights(checkpoint, share):
    path = checkpoint / "router.safetensors"
    flip(path, int(share * path.stat().st_size))
    refused(checkpoint, r"router\.safetensors: damaged or not this checkpoint's: its SHA-256")


def test_a_flipped_byte_in_any_place_of_the_card(checkpoint):
    path = checkpoint / "router.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        content = bytearray(whole)
        content[position] ^= 0x01
        path.write_bytes(content)
        if json_or_none(bytes(content)) == json.loads(whole):
            continue  # a space that became another: not one value has changed
        refused(checkpoint, r"router\.json: (damaged|expected)")


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_missing_tensor(checkpoint):
    tensors = load_file(checkpoint / "router.safetensors")
    del tensors["query.weight"]
    reseal(checkpoint, weights=save(tensors))
    refused(checkpoint, r"query\.weight: expected float32 \[2, \d+, 5\], found none")


def test_an_extra_tensor(checkpoint):
    tensors = load_file(checkpoint / "router.safetensors")
    reseal(checkpoint, weights=save(tensors | {"surplus": torch.zeros(2)}))
    refused(checkpoint, r"surplus: expected none, found float32 \[2\]")


def test_a_tensor_of_another_shape_or_type(checkpoint):
    tensors = load_file(checkpoint / "router.safetensors")
    tensors["read.weight"] = tensors["read.weight"].double()
    tensors["query.offset"] = torch.zeros(3, 1, 2)
    reseal(checkpoint, weights=save(tensors))
    refused(
        checkpoint, r"query\.offset: .* found float32 \[3, 1, 2\]; read\.weight: .* found float64"
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(checkpoint, value):
    tensors = load_file(checkpoint / "router.safetensors")
    tensors["query.offset"][0] = value
    reseal(checkpoint, weights=save(tensors))
    refused(checkpoint, "expected finite weights")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version(checkpoint, version):
    reseal(checkpoint, lambda card: card.update(format_version=version))
    refused(checkpoint, f"expected format version 2, found {version}; train again")


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["router.safetensors", "router.json"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_pickle_in_its_place_is_never_unpickled(checkpoint, tmp_path, name, sealed):
    content = pickle.dumps(Trap(tmp_path / "trace"))
    if sealed and name == "router.safetensors":
        reseal(checkpoint, weights=content)
        refused(checkpoint, "expected safetensors, found something else")
    else:
        (checkpoint / name).write_bytes(content)
        refused(checkpoint, "damaged")
    assert not (tmp_path / "trace").exists()
    pickle.loads(content)  # it would have left its trace
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("name", ["router.safetensors", "router.json"])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    refused(checkpoint, f"missing {name}")


def test_all_missing_files_are_named(tmp_path):
    refused(tmp_path / "nowhere", r"missing router\.json, router\.safetensors")


def test_no_utf8(checkpoint):
    (checkpoint / "router.json").write_bytes(b'{"format": "\xff"}')
    refused(checkpoint, "not UTF-8")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "found another file"),
        ('{"format": "something else"}', "found another file"),
        ('{"format": "pyramid-moa router", "format_version": NaN}', "not valid JSON"),
    ],
)
def test_what_is_no_card(checkpoint, content, match):
    (checkpoint / "router.json").write_text(content)
    refused(checkpoint, match)


def test_unknown_and_missing_keys_are_all_named(checkpoint):
    def change(card):
        del card["oracle"], card["grader"]
        card["colour"] = "blue"

    reseal(checkpoint, change)
    refused(checkpoint, r"missing keys \['grader', 'oracle'\], unknown keys \['colour'\]")


def promise_of(**changes):
    promise = {"kind": "max_drop", "value": 0.1, "confidence": 0.9, "questions": 5, "method": "m"}
    return lambda card: card["operating_points"][0].update(promise=promise | changes)


def test_a_promise_of_several_targets_is_read(checkpoint):
    reseal(checkpoint, promise_of(others=[["max_usd_per_1000", 5.0]]))
    promise = Router.load(checkpoint).card.operating_points[0].promise
    assert promise.targets == (("max_drop", 0.1), ("max_usd_per_1000", 5.0))


@pytest.mark.parametrize(
    "change",
    [
        promise_of(value="low"),
        promise_of(others=7),
        promise_of(others=[1]),
        promise_of(others=[["max_drop"]]),
        promise_of(others=[["max_drop", "low"]]),
        promise_of(others=[[3, 0.5]]),
        lambda card: card["network"].update(colour=1),
        lambda card: card["network"].pop("units"),
        lambda card: card["network"].update(units="four"),
        lambda card: card["network"].update(seeds=0),
        lambda card: card["network"].update(hidden_sizes=[6, 6]),
        lambda card: card["network"].update(hidden_sizes=7),
        lambda card: card["network"].update(question_features=1),
        lambda card: card["network"].update(answer_features=-1),
        lambda card: card["network"].update(members=2),
        lambda card: card["network"].update(code=0),
        lambda card: card.update(network=None),
        lambda card: card.update(members=[]),
        lambda card: card.update(members=["a"]),
        lambda card: card["members"][0].update(hidden_size=None),
        lambda card: card["members"][0].update(name=7),
        lambda card: card.update(operating_points=[]),
        lambda card: card["operating_points"][0].update(threshold="low"),
        lambda card: card.update(hidden_key=None),
        lambda card: card.update(feature_names=None),
        lambda card: card.update(grader=None),
    ],
)
def test_a_sealed_card_that_does_not_fit_together(checkpoint, change):
    reseal(checkpoint, change)
    refused(checkpoint, r"router\.json: ")


def test_a_card_that_asks_for_a_huge_network_takes_no_memory(checkpoint):
    for units in (10**10, 10**18, 10**30):
        reseal(checkpoint, lambda card, units=units: card["network"].update(units=units))
        refused(checkpoint, "tensors do not fit|no network has the shape")


def test_features_that_this_version_does_not_compute(checkpoint):
    def change(card):
        card["feature_names"][4] = "confidence/horoscope"

    reseal(checkpoint, change)
    with pytest.raises(CheckpointError, match=r"missing \['confidence/horoscope'\].*train again"):
        Router.load(checkpoint)


def test_files_too_large_to_be_a_router_are_not_read(checkpoint):
    with (checkpoint / "router.json").open("r+b") as file:
        file.truncate(300 << 20)  # sparse: it takes no space
    refused(checkpoint, "larger than any router")


def test_another_checkpoint_is_replaced_and_other_files_stay(make_router, checkpoint, tmp_path):
    (checkpoint / "README.md").write_text("mine")
    (checkpoint / ".git").mkdir()
    router = make_router()
    router.save(checkpoint)
    assert Router.load(checkpoint).card == router.card
    assert (checkpoint / "README.md").read_text() == "mine"
    assert (checkpoint / ".git").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_another_operating_point_replaces_the_card_alone(checkpoint):
    before = (checkpoint / "router.safetensors").stat()
    router = Router.load(checkpoint)
    router.card = replace(router.card, operating_points=router.card.operating_points[1:])
    router.save(checkpoint)
    after = (checkpoint / "router.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert Router.load(checkpoint).card.operating_point().name == "second"


def test_a_reader_never_sees_half_of_a_new_card(checkpoint):
    router = Router.load(checkpoint)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            seen = [f"{number:016d}"] * 200
            router.card = replace(router.card, seen_questions=seen)
            router.save(checkpoint)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            card, _, _, _ = read_checkpoint(checkpoint)
            assert len(set(card.seen_questions)) == 1
    finally:
        stop.set()
        writer.join()


def test_a_replacement_that_fails_leaves_the_old_checkpoint(make_router, checkpoint, monkeypatch):
    before = (checkpoint / "router.json").read_bytes()
    rename = Path.rename

    def refuse(path, target):
        if path.name.startswith(".partial-"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        make_router().save(checkpoint)
    assert (checkpoint / "router.json").read_bytes() == before
    read_checkpoint(checkpoint)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_link_to_a_checkpoint_stays_a_link(make_router, checkpoint, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(checkpoint)
    router = make_router()
    router.save(link)
    assert link.is_symlink()
    assert Router.load(checkpoint).card == router.card


def test_a_folder_with_other_files_is_refused(make_router, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    router = make_router()
    with pytest.raises(CheckpointError, match="found other files"):
        router.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CheckpointError, match="found a file"):
        router.save(tmp_path / "thesis.txt")
    (tmp_path / "empty").mkdir()
    router.save(tmp_path / "empty")
    read_checkpoint(tmp_path / "empty")


def test_operating_points_by_name(make_router):
    card = make_router().card
    assert card.operating_point().name == "first"
    assert card.operating_point("second").threshold == 0.25
    with pytest.raises(CheckpointError, match=r"no operating point 'third'.*it has first, second"):
        card.operating_point("third")


def test_the_text_of_a_card_comes_back_as_it_was(make_router):
    card = make_router().card
    assert RouterCard.from_json(card.to_json(), source="here") == card


def test_what_was_written_is_what_is_said(make_router, tmp_path):
    router = make_router()
    written = write_checkpoint(tmp_path / "new", router.card, router.network)
    weights = (tmp_path / "new" / "router.safetensors").read_bytes()
    assert written.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_a_number_that_no_card_has(checkpoint):
    path = checkpoint / "router.json"
    text = path.read_text(encoding="utf-8")
    assert '"threshold": 0' in text
    path.write_text(text.replace('"threshold": 0', '"threshold": 1e999, "x": 0', 1), "utf-8")
    with pytest.raises(CheckpointError, match="does not match its own hash"):
        read_checkpoint(checkpoint)
