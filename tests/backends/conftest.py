"""A tiny model behind the transformers backend, and one to change."""

import shutil

import pytest

from pyramid_moa.backends import ModelSpec


@pytest.fixture(scope="module")
def one_thread():
    """Torch does with one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backend(tiny_models):
    """The transformers backend with a tiny model, which keeps hidden states."""
    from tiny_backend import HIDDEN

    from pyramid_moa.backends.transformers_local import TransformersBackend

    spec = ModelSpec(name="tiny", model=str(tiny_models.member_a), batch_size=5)
    backend = TransformersBackend(spec, hidden_states=HIDDEN)
    yield backend
    backend.close()


@pytest.fixture
def copy(tiny_models, tmp_path):
    """A model's folder to change."""
    return shutil.copytree(tiny_models.member_a, tmp_path / "model")
