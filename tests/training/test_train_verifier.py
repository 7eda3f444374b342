"""Training a verifier: real transformers, real peft, a tiny encoder, recorded sums."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.progress import Progress
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.verifier import Verifier, half_of
from pyramid_moa.router_model.verifier_encoder import VerifierEncoder, encoder_layers
from pyramid_moa.router_model.verifier_text import TokenPair, padded
from pyramid_moa.training.train_verifier import train_verifier
from pyramid_moa.training.verifier_config import VerifierConfig
from pyramid_moa.training.verifier_fit import Labelled, _Lower, fit_encoder, fitting_pairs
from pyramid_moa.training.verifier_pairs import draw_pairs, is_held_out
from tiny_encoder import make_tiny_encoder


def quick(**changes):
    values = {
        "pairs": 120,
        "tokens": 48,
        "question_tokens": 16,
        "tuned_layers": 1,
        "rank": 2,
        "max_epochs": 2,
    }
    return VerifierConfig(**(values | changes))


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def run(imported_run):
    return read_labelled_run(imported_run)


def random_pairs(count, *, tell=True, seed=0):
    """Pairs of random tokens; where they tell, a right answer holds one certain token."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number in range(count):
        length = int(torch.randint(8, 20, (), generator=generator))
        ids = torch.randint(10, 60, (length,), generator=generator)
        if tell and number % 2:
            ids[5:] = 7
        answer = torch.arange(length) >= 4
        tokens = TokenPair(ids=ids, types=answer.long(), answer=answer)
        pairs.append(Labelled(tokens=tokens, right=bool(number % 2)))
    return pairs


def load_encoder(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_verifier_is_written_and_read_back(tiny_encoder, imported_run, run, tmp_path):
    lines = []
    verifier = train_verifier(
        imported_run, tiny_encoder, tmp_path / "verifier", quick(), say=lines.append
    )
    card = verifier.card
    assert card.base == tiny_encoder.name
    assert card.trained_on["models"] == list(run.manifest.models)
    assert [set(figures) for figures in card.validation] == [
        {"pairs", "log_loss", "auroc", "epoch"}
    ] * 2
    assert lines[-1] == f"verifier: {tmp_path / 'verifier'}"
    # Only what was tuned is written of each half, merged: no tensor of LoRA is left.
    base = load_file(tmp_path / "verifier" / "base.safetensors")
    for name in ("half-a.safetensors", "half-b.safetensors"):
        tuned = load_file(tmp_path / "verifier" / name)
        assert {"head.weight", "head.bias"} < set(tuned)
        assert all(n in base or n.startswith("head.") for n in tuned)
        layers = {n.split(".")[3] for n in tuned if not n.startswith("head.")}
        assert layers == {"2"}, "layers 0 and 1 are frozen"
    again = Verifier.load(tmp_path / "verifier", sha256=verifier.sha256)
    question = run.queries[0].question
    rows = [run.generations[name][0] for name in run.manifest.members]
    one, other = verifier.signs(question, rows), again.signs(question, rows)
    assert np.array_equal(one.answers, other.answers)
    assert np.array_equal(one.relations, other.relations, equal_nan=True)


def test_only_seen_questions_of_the_asked_splits(tiny_encoder, imported_run, run, tmp_path):
    verifier = train_verifier(imported_run, tiny_encoder, tmp_path / "verifier", quick())
    own = {
        question_hash(query.question)[:16]
        for query in run.queries
        if query.split in ("train", "validation")
    }
    # Those that gave no pair as well: how a question is scored tells nothing of its answers.
    assert set(verifier.card.seen_questions) == own


def test_the_same_seed_gives_the_same_verifier(tiny_encoder, imported_run, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = train_verifier(imported_run, tiny_encoder, tmp_path / "one", quick())
    assert torch.equal(torch.random.get_rng_state(), before)
    other = train_verifier(imported_run, tiny_encoder, tmp_path / "other", quick())
    assert one.sha256 == other.sha256


def test_pairs_are_balanced_within_questions(run):
    positions = range(len(run.queries))
    pairs = draw_pairs(run, positions, run.manifest.models, count=101, seed=0)
    assert len(pairs) == 100
    by_question = {}
    for pair in pairs:
        by_question.setdefault(pair.hashed, []).append(pair.right)
    assert all(sum(rights) * 2 == len(rights) for rights in by_question.values())
    again = draw_pairs(run, positions, run.manifest.models, count=101, seed=0)
    assert again == pairs
    other = draw_pairs(run, positions, run.manifest.models, count=101, seed=1)
    assert other != pairs


def test_shares_of_halves_and_parts():
    hashes = [question_hash(f"What is {number}?") for number in range(2000)]
    halves = [half_of(text) for text in hashes]
    held_out = [is_held_out(text, seed=0) for text in hashes]
    assert 900 < sum(halves) < 1100
    assert 330 < sum(held_out) < 470
    assert held_out != [is_held_out(text, seed=1) for text in hashes]


# What transformers makes DeBERTa of.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "llama", "modernbert", "mpnet"])
def test_over_the_cache_the_upper_layers_say_what_the_whole_says(tmp_path, architecture):
    base = load_encoder(make_tiny_encoder(tmp_path, architecture=architecture))
    model = VerifierEncoder(base).eval()
    torch.nn.init.normal_(model.head.weight)
    lower = _Lower(model, encoder_layers(base, 3), 2)
    pairs = random_pairs(5)
    with Progress("lower", total=5) as progress:
        cached = [lower.cached(pair, progress) for pair in pairs]
    batch = padded([pair.tokens for pair in pairs])
    with torch.no_grad():
        whole, _ = model(batch)
        with lower.replaced(cached):
            over_the_cache, _ = model(batch)
        after, _ = model(batch)
    # Kept in half precision.
    assert torch.allclose(over_the_cache, whole, atol=2e-2)
    assert torch.equal(after, whole), "the layers are as they were"
    other = [copy.copy(one) for one in cached]
    object.__setattr__(other[0], "states", other[0].states.roll(1, -1))
    with torch.no_grad(), lower.replaced(other):
        changed, _ = model(batch)
    assert not torch.allclose(changed[0], over_the_cache[0], atol=1e-3), "the cache is what is read"


@pytest.mark.parametrize("tuned_layers", [1, 3])
def test_it_learns_what_there_is_to_learn(tmp_path, tuned_layers):
    base = load_encoder(make_tiny_encoder(tmp_path))
    frozen = [value.detach().clone() for value in base.embeddings.parameters()]
    config = quick(tuned_layers=tuned_layers, max_epochs=8, patience=8, learning_rate=1e-2)
    encoder, figures = fit_encoder(
        base, random_pairs(120), random_pairs(40, seed=1), config, what="test"
    )
    assert figures["auroc"] > 0.95
    assert figures["log_loss"] < 0.5
    assert not encoder.training
    assert all(map(torch.equal, frozen, encoder.encoder.embeddings.parameters()))
    batch = padded([pair.tokens for pair in random_pairs(40, seed=2)])
    with torch.no_grad():
        logits, _ = encoder(batch)
    assert logits[1::2].mean() > logits[::2].mean() + 1, "what is merged has learned it"


def test_what_is_noise_is_not_learned(tmp_path):
    base = load_encoder(make_tiny_encoder(tmp_path))
    config = quick(max_epochs=20, learning_rate=1e-2)
    _, figures = fit_encoder(
        base,
        random_pairs(40, tell=False),
        random_pairs(200, tell=False, seed=1),
        config,
        what="test",
    )
    assert figures["epoch"] < 20, "stopped early"
    assert figures["log_loss"] < 0.75


def test_the_cache_caps_the_pairs():
    assert fitting_pairs(VerifierConfig(pairs=2000), 384) == 1000
    config = VerifierConfig(pairs=1_000_000, cache_mb=100, tokens=128)
    room = fitting_pairs(config, 384)
    assert room * 128 * 384 * 2 <= 100 << 20 < (room + 1) * 128 * 384 * 2


class TestBadInput:
    def test_a_place_that_is_taken(self, tiny_encoder, imported_run, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(CheckpointError, match="exists already"):
            train_verifier(imported_run, tiny_encoder, tmp_path, quick())

    def test_no_encoder(self, imported_run, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match="transformers can't load"):
            train_verifier(imported_run, tmp_path / "empty", tmp_path / "out", quick())

    def test_code_of_a_model_is_not_run(self, tiny_encoder, imported_run, tmp_path):
        folder = tmp_path / "encoder"
        make_tiny_encoder(folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "trap", "auto_map": {"AutoModel": "trap.Trap"}}
        config["auto_map"]["AutoConfig"] = "trap.TrapConfig"
        (folder / "config.json").write_text(json.dumps(config))
        trace = tmp_path / "trace"
        (folder / "trap.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
        with pytest.raises(ConfigError, match="transformers can't load"):
            train_verifier(imported_run, folder, tmp_path / "out", quick())
        assert not trace.exists()

    def test_too_many_tokens_or_layers(self, tiny_encoder, imported_run, tmp_path):
        with pytest.raises(ConfigError, match="reads 94 at most, found 95"):
            train_verifier(imported_run, tiny_encoder, tmp_path / "out", quick(tokens=95))
        with pytest.raises(ConfigError, match="expected 3 at most, found 4"):
            train_verifier(imported_run, tiny_encoder, tmp_path / "out", quick(tuned_layers=4))
        assert not (tmp_path / "out").exists()

    def test_unknown_models_and_splits(self, tiny_encoder, imported_run, tmp_path):
        with pytest.raises(ConfigError, match=r"no model huge; it has large, middle"):
            train_verifier(imported_run, tiny_encoder, tmp_path / "out", quick(without=["huge"]))
        with pytest.raises(RunFolderError, match="splits holdout, found only"):
            train_verifier(imported_run, tiny_encoder, tmp_path / "out", quick(splits=["holdout"]))

    def test_too_little_to_learn_from(self, tiny_encoder, imported_run, tmp_path):
        config = quick(without=["large", "middle", "oracle"])
        with pytest.raises(RunFolderError, match=r"expected 20 answers .* found 0"):
            train_verifier(imported_run, tiny_encoder, tmp_path / "out", config)

    def test_a_divergent_training(self, tmp_path):
        base = load_encoder(make_tiny_encoder(tmp_path))
        with pytest.raises(ConfigError, match="diverged"):
            fit_encoder(
                base, random_pairs(40), random_pairs(20), quick(learning_rate=1e30), what="test"
            )

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"pairs": 0}, "pairs"),
            ({"tokens": 31}, "tokens: 32 or more"),
            ({"question_tokens": 30}, "at most half"),
            ({"learning_rate": float("nan")}, "learning_rate"),
            ({"splits": []}, "splits"),
        ],
    )
    def test_a_configuration_out_of_range(self, change, word):
        with pytest.raises(ConfigError, match=word):
            quick(**change)


def test_answers_without_a_text_are_no_pairs(run):
    models = run.manifest.models
    silent = {
        name: [replace(row, response=None) for row in run.generations[name]] for name in models
    }
    mute = replace(run, generations=silent)
    assert draw_pairs(mute, range(len(run.queries)), models, count=10, seed=0) == []
