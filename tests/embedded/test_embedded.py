"""The shipped models: unchanged, loadable, small, and as accurate as their cards say."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from pyramid_moa.data_prep.word_problems import make_problems
from pyramid_moa.embedded import EMBEDDED_MEMBERS, EMBEDDED_ORACLE, embedded_path
from pyramid_moa.errors import ConfigError

NAMES = (*EMBEDDED_MEMBERS, EMBEDDED_ORACLE)
MODELS = json.loads((embedded_path("oracle").parent / "models.json").read_text("utf-8"))


def accuracy(name, problems):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_path(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p.question}], add_generation_prompt=True, tokenize=False
        )
        for p in problems
    ]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        output = model.eval().generate(**inputs)
    texts = tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = [t.rpartition("#### ")[2] == p.answer for t, p in zip(texts, problems, strict=True)]
    return sum(right) / len(right)


def test_models_json_names_the_folders():
    assert sorted(MODELS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_were_measured(name):
    weights = (embedded_path(name) / "model.safetensors").read_bytes()
    digest = sha256(weights).hexdigest()
    assert digest == MODELS[name]["sha256"]
    card = (embedded_path(name) / "README.md").read_text("utf-8")
    assert digest in card
    assert f"**{MODELS[name]['accuracy']:.3f}** in all" in card
    assert f"--model {name} " in card


def test_together_they_are_small():
    folder = embedded_path("oracle").parent
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 20e6


def test_members_leave_room_and_the_oracle_is_better():
    for name in EMBEDDED_MEMBERS:
        assert 0.60 <= MODELS[name]["accuracy"] <= 0.85
    assert MODELS[EMBEDDED_ORACLE]["accuracy"] >= 0.97


def test_members_differ_in_strength():
    best = {
        scenario: max(EMBEDDED_MEMBERS, key=lambda m: MODELS[m]["accuracy_by_scenario"][scenario])
        for scenario in MODELS["oracle"]["accuracy_by_scenario"]
    }
    assert len(set(best.values())) > 1


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_bfloat16_and_counted(name):
    from safetensors import safe_open

    with safe_open(embedded_path(name) / "model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
        kinds = {tensors.get_slice(n).get_dtype() for n in names}
        sizes = [tensors.get_tensor(n).numel() for n in names]
    assert kinds == {"BF16"}
    assert sum(sizes) == MODELS[name]["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_about_that_of_the_card(name):
    problems = make_problems(split="test", count=100, seed=77)
    # Three standard deviations of a hundred questions, at the card's accuracy or near one half.
    assert accuracy(name, problems) == pytest.approx(MODELS[name]["accuracy"], abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_that_of_the_card(name):
    problems = make_problems(split="test", count=1000, seed=77_001)
    assert accuracy(name, problems) == pytest.approx(MODELS[name]["accuracy"], abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_chat_template_is_what_the_model_was_trained_on(name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_path(name))
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "#### 12"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|user|>How many?<|assistant|>#### 12<|end|>"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["12", "a 345 b", "7 * 80 = 560", "1,000.5"])
def test_every_digit_is_a_token(text):
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(embedded_path("oracle")).tokenize(text)
    digits = [t for t in tokens if any(c.isdigit() for c in t)]
    assert [t.lstrip("Ġ") for t in digits] == [c for c in text if c.isdigit()]


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="member-a, member-b, member-c, oracle"):
        embedded_path("member-d")
