"""Files of hidden states: whole or not there, private, and nothing but what was asked for."""

import os

import numpy as np
import pytest

from pyramid_moa.backends import hidden_states_file
from pyramid_moa.backends.hidden_states_file import (
    make_private_folder,
    new_name,
    opt_in,
    read_states,
    remove_forgotten,
    requested_name,
    states_path,
    write_states,
)
from pyramid_moa.errors import BackendError

VECTORS = {
    "layer-1/last_prompt": np.linspace(-3, 3, 7, dtype=np.float32),
    "layer-1/answer_mean": np.ones(7, np.float32),
}


def test_what_is_written_is_read_once(tmp_path):
    path = states_path(tmp_path, new_name())
    assert read_states(path, list(VECTORS)) is None
    write_states(path, VECTORS)
    assert list(tmp_path.iterdir()) == [path]
    (found,) = read_states(path, ["layer-1/last_prompt"]).values()
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, VECTORS["layer-1/last_prompt"].astype(np.float16))
    assert list(tmp_path.iterdir()) == []
    assert read_states(path, list(VECTORS)) is None


def test_a_write_that_fails_leaves_nothing(tmp_path):
    path = states_path(tmp_path, new_name())
    path.mkdir()  # can't be replaced by a file
    with pytest.raises(IsADirectoryError):
        write_states(path, VECTORS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ({"layer2/answer_mean": np.ones(7, np.float32)}, "no layer-1/last_prompt, layer-1/answer_"),
        (VECTORS | {"layer-1/answer_mean": np.ones(6, np.float32)}, "vectors of one size"),
        (VECTORS | {"layer-1/answer_mean": np.ones((7, 1), np.float32)}, "vectors of one size"),
        (VECTORS | {"layer-1/answer_mean": np.ones(7, np.float64)}, "float32 vectors"),
        (VECTORS | {"layer-1/answer_mean": np.full(7, np.nan, np.float32)}, "float16"),
        (VECTORS | {"layer-1/answer_mean": np.full(7, 1e6, np.float32)}, "float16"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, vectors, says):
    path = states_path(tmp_path, new_name())
    write_states(path, vectors)
    with pytest.raises(BackendError, match=says):
        read_states(path, list(VECTORS))
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"garbage " * 20, b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = states_path(tmp_path, new_name())
    path.write_bytes(content)
    with pytest.raises(BackendError, match="expected float32 vectors"):
        read_states(path, list(VECTORS))


def test_a_file_too_large_to_be_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hidden_states_file, "_LARGEST_BYTES", 100)
    path = states_path(tmp_path, new_name())
    write_states(path, VECTORS)
    with pytest.raises(BackendError, match="more than 0 MiB"):
        read_states(path, list(VECTORS))


def test_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    write_states(secret, VECTORS)
    path = states_path(tmp_path, new_name())
    path.symlink_to(secret)
    with pytest.raises(BackendError, match="can't be read"):
        read_states(path, list(VECTORS))
    assert secret.exists()


def test_names_are_ours_or_none():
    name = new_name()
    assert requested_name(opt_in(name)) == name
    assert name != new_name()
    for other in (None, [], "x", {}, {"hidden_states_path": name}, opt_in(name + "0")):
        assert requested_name(other) is None
    for wrong in ("../../etc/passwd", name.upper() + "/", "0" * 31 + "/", 3, None):
        assert requested_name({"pyramid_moa_hidden_states": wrong}) is None


def test_the_folder_is_made_for_this_user_alone(tmp_path):
    folder = tmp_path / "own" / "port-1"
    make_private_folder(folder)
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_elses_is_refused(tmp_path, monkeypatch):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(BackendError, match="found mode 777"):
        make_private_folder(open_to_all)
    with pytest.raises(BackendError, match="found mode 777"):
        make_private_folder(open_to_all / "inside")
    open_to_all.chmod(0o1777)  # as /tmp is
    make_private_folder(open_to_all / "inside")
    link = tmp_path / "link"
    link.symlink_to(open_to_all / "inside")
    with pytest.raises(BackendError, match="found a link"):
        make_private_folder(link)
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="can't be made"):
        make_private_folder(tmp_path / "file")
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(BackendError, match="somebody else's"):
        make_private_folder(own)


def test_what_nobody_fetches_is_removed_after_an_hour(tmp_path):
    old, new = (states_path(tmp_path, new_name()) for _ in range(2))
    for path in (old, new, tmp_path / "model.safetensors"):
        write_states(path, VECTORS)
    for path in (old, tmp_path / "model.safetensors"):
        os.utime(path, (1, 1))
    remove_forgotten(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "model.safetensors"}
