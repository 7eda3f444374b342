"""The scripts that train, export and measure the embedded models, on a tiny recipe."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "embedded"
MODULES = [
    "answering",
    "card",
    "data",
    "export",
    "learning",
    "measure",
    "recipes",
    "tokenizer",
    "train",
]


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def tokenizer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        from tokenizer import train_tokenizer

        return train_tokenizer()


@pytest.fixture
def trained_once(tokenizer, monkeypatch):
    """Training the tokenizer takes seconds; every script gets the same one."""
    import export
    import train

    for module in (export, train):
        monkeypatch.setattr(module, "train_tokenizer", lambda: tokenizer)


@pytest.fixture
def recipe():
    from recipes import RECIPES

    return dataclasses.replace(
        RECIPES["member-a"],
        width=64,
        heads=1,
        layers=1,
        feed_forward=64,
        shards=2,
        problems_per_shard=60,
        warmup_steps=2,
    )


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def test_the_tokenizer_is_the_shipped_one(tokenizer, tmp_path):
    from pyramid_moa.embedded import embedded_path

    tokenizer.save_pretrained(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    shipped = json.loads((embedded_path("oracle") / "tokenizer.json").read_text("utf-8"))
    # Padding and truncation belong to the last call, not to the vocabulary.
    assert made["model"] == shipped["model"]
    assert made["pre_tokenizer"] == shipped["pre_tokenizer"]
    assert len(made["model"]["vocab"]) == 1024


def test_rates_rise_stay_and_fall(recipe):
    from learning import rate

    recipe = dataclasses.replace(recipe, warmup_steps=10, shards=4, decay=0.5)
    assert rate(0, 0.0, recipe) == pytest.approx(0.1)
    assert rate(9, 0.1, recipe) == 1.0
    assert rate(500, 2.0, recipe) == 1.0
    assert rate(700, 3.0, recipe) == pytest.approx(0.5)
    assert rate(1000, 4.0, recipe) == 0.0


def test_a_last_leg_starts_again_on_other_proportions(recipe):
    from learning import rate
    from recipes import Polish

    polish = Polish(shards=2, rate=0.4, weights={"shop": 0.5})
    recipe = dataclasses.replace(recipe, shards=4, polish=polish, weights={"wage": 0.1})
    assert recipe.all_shards == 6
    assert recipe.weights_of(3) == {"wage": 0.1}
    assert recipe.weights_of(4) == {"shop": 0.5}
    assert rate(1000, 3.999, recipe) < 0.01
    assert rate(1001, 4.0, recipe) == pytest.approx(0.4)
    assert rate(1200, 5.0, recipe) == pytest.approx(0.2)
    assert rate(1400, 6.0, recipe) == 0.0


def test_labels_are_the_solution_and_nothing_else(recipe, tokenizer):
    from data import IGNORED, Problems

    for tokens, labels in Problems(recipe, tokenizer).shard(0):
        assert tokens.numel() <= recipe.tokens_per_batch
        for row, targets in zip(tokens, labels, strict=True):
            known = targets != IGNORED
            solution = tokenizer.decode(targets[known])
            assert solution.endswith("<|end|>")
            assert "####" in solution
            assert "?" not in solution
            # Each label is the token that follows.
            assert row[1:][known[:-1]].tolist() == targets[known].tolist()


def test_scenarios_are_thinned_out_by_their_weight(recipe, tokenizer):
    from data import Problems

    def rows(weights):
        thin = dataclasses.replace(recipe, problems_per_shard=400, weights=weights)
        return sum(len(tokens) for tokens, _ in Problems(thin, tokenizer).shard(0))

    assert rows({}) == 400
    assert 0.80 < rows({"shop": 0.0, "wage": 0.0}) / 400 < 0.92


@pytest.mark.usefixtures("trained_once")
def test_interrupted_training_goes_on_as_if_unbroken(recipe, tmp_path, monkeypatch):
    import torch
    from data import Problems
    from train import train

    train(recipe, tmp_path / "unbroken", resume=False, compiled=False)
    shard = Problems.shard

    def break_off(self, number):
        if number == 1:
            raise RuntimeError("interrupted")
        return shard(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Problems, "shard", break_off)
        with pytest.raises(RuntimeError, match="interrupted"):
            train(recipe, tmp_path / "broken", resume=False, compiled=False)
    assert not (tmp_path / "broken" / "weights.safetensors").exists()
    train(recipe, tmp_path / "broken", resume=True, compiled=False)
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    facts = [
        json.loads((tmp_path / run / "training.json").read_text("utf-8"))
        for run in ("unbroken", "broken")
    ]
    assert facts[0]["tokens"] == facts[1]["tokens"] > 0


def test_nothing_to_resume_is_said(recipe, tmp_path):
    from train import train

    with pytest.raises(FileNotFoundError, match="leave out --resume"):
        train(recipe, tmp_path, resume=True, compiled=False)


@pytest.mark.usefixtures("trained_once")
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_export_gives_a_model_that_answers_and_is_measured(
    recipe, tokenizer, tmp_path, architecture
):
    import torch
    from card import card
    from export import export
    from measure import agreement, measure
    from safetensors.torch import save_model

    from pyramid_moa.data_prep.word_problems import make_problems

    recipe = dataclasses.replace(recipe, architecture=architecture)
    torch.manual_seed(0)
    save_model(recipe.build(tokenizer), str(tmp_path / "weights.safetensors"))
    export(recipe, tmp_path / "weights.safetensors", tmp_path / "model")
    problems = make_problems(split="test", count=8, seed=0)
    entry, given = measure(tmp_path / "model", problems)
    assert entry["accuracy"] == 0.0
    assert len(given) == 8
    facts = {"tokens": 1, "steps": 1, "cpu_seconds": 1}
    text = card(recipe, entry, facts, questions=8, seed=0)
    assert entry["sha256"] in text
    assert "license: apache-2.0" in text
    assert "{" not in text
    assert "majority 0.000" in agreement({"member-x": given, "member-y": given}, problems)


def test_agreement_counts_votes():
    from measure import agreement

    from pyramid_moa.data_prep.word_problems import make_problems

    problems = make_problems(split="test", count=2, seed=0)
    gold = [p.answer for p in problems]
    given = {
        "member-a": [gold[0], "x"],
        "member-b": [gold[0], gold[1]],
        "member-c": ["y", "x"],
        "oracle": gold,
    }
    assert agreement(given, problems).splitlines() == [
        "majority 0.500",
        "2 of 3 agree on 1.000, right 0.500",
    ]


def test_export_without_weights_says_how_to_get_them(recipe, tmp_path):
    from export import export

    with pytest.raises(FileNotFoundError, match=r"run train\.py --model member-a"):
        export(recipe, tmp_path / "weights.safetensors", tmp_path / "model")
