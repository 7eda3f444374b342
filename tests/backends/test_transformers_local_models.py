"""Models, devices and layers that the transformers backend takes, and those it refuses."""

import json

import numpy as np
import pytest
import torch
from tiny_backend import GREEDY, PROMPTS, chat, open_folder

from pyramid_moa.backends import Completion, HiddenStates, ModelSpec, Prompt
from pyramid_moa.backends.transformers_local import TransformersBackend
from pyramid_moa.errors import BackendError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder"])
def test_an_unknown_model(name):
    with pytest.raises(BackendError, match=r"can't load|no such folder") as caught:
        TransformersBackend(ModelSpec(name="small", model=name))
    assert name in str(caught.value)
    assert "model 'small'" in str(caught.value)
    assert "a Hugging Face id" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_model(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackendError, match="can't load"):
        open_folder(copy)


def test_a_model_that_lacks_weights(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match=r"weights are missing: model\.norm\.weight"):
        open_folder(copy)


def test_pickled_weights_are_not_read(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BackendError, match="can't load"):
        open_folder(copy)


def test_code_that_a_model_brings_is_not_run(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.OwnConfig"}
    config["model_type"] = "own"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(BackendError, match="can't load"):
        open_folder(copy)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_device(tiny_models):
    spec = ModelSpec(name="tiny", model=str(tiny_models.member_a), device="abacus")
    with pytest.raises(BackendError, match="abacus"):
        TransformersBackend(spec)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_is_not_there(tiny_models, layer):
    with pytest.raises(BackendError, match=r"3 layers.*between -4 and 3") as caught:
        open_folder(tiny_models.member_a, hidden_states=HiddenStates(layers=(1, layer)))
    assert str([layer]) in str(caught.value)


@pytest.mark.parametrize("layer", [3, -4])
def test_the_outermost_layers(tiny_models, layer):
    hidden = HiddenStates(layers=(layer,))
    (found,) = open_folder(tiny_models.member_a, hidden_states=hidden).generate(PROMPTS[:1], GREEDY)
    assert list(found.hidden_states) == [f"layer{layer}/answer_mean"]


def test_no_chat_template(copy):
    (copy / "chat_template.jinja").unlink()
    backend = open_folder(copy)
    with pytest.raises(BackendError, match=r"no chat template.*prompt\.chat: false"):
        backend.generate([chat("apples")], GREEDY)
    assert isinstance(backend.generate([Prompt(text="apples")], GREEDY)[0], Completion)


def test_a_chat_template_that_refuses(copy):
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no system messages here') }}")
    with pytest.raises(BackendError, match=r"refuses the prompt.*no system messages here"):
        open_folder(copy).generate([chat("apples")], GREEDY)


def test_a_hidden_state_beyond_float16(tiny_models):
    backend = open_folder(tiny_models.member_a, hidden_states=HiddenStates(layers=(1,)))
    with torch.no_grad():
        backend._model.model.embed_tokens.weight.mul_(1e7)
    with pytest.raises(BackendError, match=r"float16.*65504.*another layer"):
        backend.generate(PROMPTS[:2], GREEDY)


def test_out_of_memory_says_what_to_do(tiny_models, monkeypatch):
    backend = open_folder(tiny_models.member_a)

    def no_memory(**kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backend._model, "generate", no_memory)
    with pytest.raises(BackendError, match=r"out of memory.*batch_size below 64"):
        backend.generate(PROMPTS[:2], GREEDY)


def test_a_model_without_end_token(copy):
    for name, key in (
        ("generation_config.json", "eos_token_id"),
        ("config.json", "eos_token_id"),
        ("tokenizer_config.json", "eos_token"),
    ):
        content = json.loads((copy / name).read_text())
        content.pop(key, None)
        (copy / name).write_text(json.dumps(content))
    with pytest.raises(BackendError, match="no end-of-text token"):
        open_folder(copy)


def test_bfloat16_and_one_end_token(copy):
    config = json.loads((copy / "generation_config.json").read_text())
    config["eos_token_id"] = 1
    (copy / "generation_config.json").write_text(json.dumps(config))
    spec = ModelSpec(name="tiny", model=str(copy), dtype="bfloat16", device="cpu")
    backend = TransformersBackend(spec, hidden_states=HiddenStates())
    assert backend._model.dtype == torch.bfloat16
    assert backend._eos == (1,)
    (found,) = backend.generate(PROMPTS[:1], GREEDY)
    assert found.hidden_states["layer-1/answer_mean"].dtype == np.float16


def test_closing_gives_the_model_back(tiny_models):
    backend = open_folder(tiny_models.member_a)
    backend.close()
    assert backend._model is None
