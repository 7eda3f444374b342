"""A verifier as it is served, and a router that reads one; its weights are random."""

import hashlib
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, question_hash
from pyramid_moa.router_model.features import FeatureSpec, gather_evidence
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.verifier import Verifier, half_of
from pyramid_moa.router_model.verifier_files import VerifierCard, write_verifier
from pyramid_moa.router_model.verifier_text import PairTokenizer, answer_text
from tiny_encoder import make_tiny_encoder

GROUPS = ("agreement", "lengths", "semantics", "verifier")
SEEN = "How many apples are there?"
UNSEEN = "How many pears are there?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A verifier with random heads that has seen one question."""
    root = tmp_path_factory.mktemp("verifier")
    encoder = make_tiny_encoder(root / "encoder")
    base = load_file(encoder / "model.safetensors")
    contents = {
        "config.json": (encoder / "config.json").read_bytes(),
        "tokenizer.json": (encoder / "tokenizer.json").read_bytes(),
        "base.safetensors": save({f"encoder.{name}": value for name, value in base.items()}),
    }
    for number, name in enumerate(("half-a", "half-b")):
        generator = torch.Generator().manual_seed(number)
        contents[f"{name}.safetensors"] = save(
            {
                "head.weight": torch.randn(1, 32, generator=generator),
                "head.bias": torch.randn(1, generator=generator),
            }
        )
    card = VerifierCard(
        base="tiny",
        tokens=48,
        question_tokens=16,
        seen_questions=[question_hash(SEEN)[:16]],
        trained_on={},
        validation=[{}, {}],
        files={},
    )
    write_verifier(root / "verifier", card, contents)
    return root / "verifier"


@pytest.fixture(scope="module")
def verifier(folder):
    return Verifier.load(folder)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def said(response, answer="7", **changes):
    return Generation(query_id="q", model="m", response=response, answer=answer, **changes)


ROWS = [said("So there are 7 apples.\n#### 7"), said("9 is what they make", "9"), None]


def test_an_answer_without_a_text_is_unknown(verifier):
    rows = [*ROWS, said(None), said(""), said("there", error="broken"), said("8", None)]
    signs = verifier.signs(SEEN, rows)
    assert signs.answers.dtype == signs.relations.dtype == np.float32
    assert np.isnan(signs.answers[:, 0]).tolist() == [False, False, True, True, True, True, False]
    known = np.isfinite(signs.answers[:, 0])
    expected = known[:, None] & known[None] & ~np.eye(7, dtype=bool)
    assert np.array_equal(np.isfinite(signs.relations[..., 0]), expected)
    found = signs.relations[expected]
    assert (np.abs(found) <= 1 + 1e-6).all()
    assert np.array_equal(signs.relations, signs.relations.transpose(1, 0, 2), equal_nan=True)


def test_nobody_was_asked(verifier):
    signs = verifier.signs(SEEN, [])
    assert signs.answers.shape == (0, 1)
    assert signs.relations.shape == (0, 0, 1)


def test_company_changes_no_bit(verifier):
    long = said("there are apples " * 200)
    alone = verifier.signs(UNSEEN, ROWS[:1])
    among = verifier.signs(UNSEEN, [long, ROWS[0], ROWS[1]])
    assert alone.answers[0] == among.answers[1]
    turned = verifier.signs(UNSEEN, [ROWS[1], ROWS[0], long])
    assert turned.relations[0, 1] == among.relations[2, 1]


def test_the_same_text_is_similar_to_itself(verifier):
    signs = verifier.signs(UNSEEN, [ROWS[0], ROWS[0], ROWS[1]])
    assert signs.relations[0, 1, 0] == pytest.approx(1.0)
    assert signs.relations[0, 2, 0] < 0.999


def test_a_seen_question_is_scored_by_the_encoder_that_has_not_seen_it(verifier):
    one, other = verifier._encoders
    blind = (other, one)[half_of(question_hash(SEEN))]
    logits = {}
    for encoder in (one, other):
        lone = Verifier(
            replace(verifier.card, seen_questions=[]),
            [encoder, encoder],
            verifier._tokenizer,
            folder=verifier.folder,
            sha256="",
        )
        logits[encoder] = {q: lone.signs(q, ROWS).answers[0, 0] for q in (SEEN, UNSEEN)}
    assert logits[one][SEEN] != logits[other][SEEN]
    assert verifier.signs(SEEN, ROWS).answers[0, 0] == logits[blind][SEEN]
    # Spacing makes no other question of it.
    spaced = verifier.signs(f"  {SEEN}\n", ROWS).answers[0, 0]
    assert spaced == pytest.approx(logits[blind][SEEN], abs=1e-4)
    mean = (logits[one][UNSEEN] + logits[other][UNSEEN]) / 2
    assert verifier.signs(UNSEEN, ROWS).answers[0, 0] == pytest.approx(mean, abs=1e-5)


@pytest.fixture(scope="module")
def tokenizer(folder):
    content = (folder / "tokenizer.json").read_text()
    return PairTokenizer(content, tokens=40, question_tokens=12, source="here")


@pytest.fixture(scope="module")
def plain(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


class TestText:
    def test_a_short_pair_is_whole(self, tokenizer, plain):
        pair = tokenizer.pair("how many", "7 apples")
        assert pair.ids.tolist() == plain.encode("how many", "7 apples").ids
        assert plain.decode(pair.ids[pair.answer].tolist()).startswith("7")

    def test_of_a_long_answer_the_end_stays(self, tokenizer, plain):
        text = answer_text(said("apples " * 500 + "so there are", "65"))
        pair = tokenizer.pair("how many", text)
        assert len(pair.ids) == 40
        kept = plain.decode(pair.ids[pair.answer].tolist()).replace(" ", "")
        assert kept.endswith("65")
        assert "sothereare" in kept

    def test_of_a_long_question_beginning_and_end_stay(self, tokenizer, plain):
        pair = tokenizer.pair("1 2 3 " + "apples " * 50 + "how many 4 5 6", "7")
        question = plain.decode(pair.ids[~pair.answer].tolist()).replace(" ", "")
        assert question.startswith("123")
        assert question.endswith("456")
        assert len(pair.ids) <= 12 + 12 + 3

    @pytest.mark.parametrize("text", ["", " ", "\ud800 broken", "\0", "語" * 10_000, "7" * 10_000])
    def test_texts_of_any_kind(self, tokenizer, text):
        for pair in (tokenizer.pair(text, answer_text(said(text or "x"))), tokenizer.pair("x", "")):
            assert len(pair.ids) <= 40
            assert pair.ids.dtype == torch.long

    def test_no_tokenizer(self):
        with pytest.raises(CheckpointError, match="here: expected a tokenizer"):
            PairTokenizer("{}", tokens=40, question_tokens=12, source="here")


def test_features_of_the_group(verifier):
    spec = FeatureSpec(groups=GROUPS)
    assert spec.answer_names[-1] == "verifier/logit"
    assert spec.relation_names == (
        "semantics/same_words",
        "semantics/same_numbers",
        "verifier/similarity",
    )
    equal = load_grader("gsm8k").equal
    plain = FeatureSpec(groups=GROUPS[:-1])
    evidence = gather_evidence(spec, SEEN, ROWS, equal, verifier=verifier)
    without = gather_evidence(plain, SEEN, ROWS, equal)
    signs = verifier.signs(SEEN, ROWS)
    assert np.array_equal(evidence.answers[:, :-1], without.answers, equal_nan=True)
    assert np.array_equal(evidence.answers[:, -1:], signs.answers, equal_nan=True)
    assert np.array_equal(evidence.relations[..., :-1], without.relations, equal_nan=True)
    assert np.array_equal(evidence.relations[..., -1:], signs.relations, equal_nan=True)
    with pytest.raises(ConfigError, match="wants a verifier, found none"):
        gather_evidence(spec, SEEN, ROWS, equal)


@pytest.fixture
def router(make_router, verifier):
    return make_router(groups=GROUPS, verifier_sha256=verifier.sha256, verifier=verifier)


class TestCheckpoint:
    def test_it_carries_the_verifier(self, router, folder, tmp_path):
        router.save(tmp_path / "checkpoint")
        names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
        assert names == {"router.json", "router.safetensors", "verifier"}
        shutil.move(tmp_path / "checkpoint", tmp_path / "moved")
        again = Router.load(tmp_path / "moved")
        rows = dict(zip("abc", ROWS, strict=True))
        assert again.score(UNSEEN, rows) == router.score(UNSEEN, rows)
        changed = rows | {"a": said("apples how many apples\n#### 7")}
        assert again.score(UNSEEN, changed) != router.score(UNSEEN, rows)
        again.card = replace(again.card, operating_points=again.card.operating_points[1:])
        again.save(tmp_path / "moved")
        again.save(tmp_path / "elsewhere")
        for place in ("moved", "elsewhere"):
            assert Router.load(tmp_path / place).card.operating_point().name == "second"

    def test_a_plain_one_is_as_it_was(self, make_router, router, tmp_path):
        make_router().save(tmp_path / "checkpoint")
        content = json.loads((tmp_path / "checkpoint" / "router.json").read_text())
        assert not [key for key in content if "verifier" in key]
        router.save(tmp_path / "other")
        make_router().save(tmp_path / "other")
        names = {path.name for path in (tmp_path / "other").iterdir()}
        assert names == {"router.json", "router.safetensors"}, "no verifier of an older router"

    def test_somebody_elses_verifier_stays(self, make_router, copied, tmp_path):
        """One that was trained into a plain checkpoint's folder is not the checkpoint's."""
        make_router().save(tmp_path / "checkpoint")
        shutil.copytree(copied, tmp_path / "checkpoint" / "verifier")
        again = make_router()
        with torch.no_grad():
            again.network.query_score.offset += 1.0
        again.save(tmp_path / "checkpoint")
        Verifier.load(tmp_path / "checkpoint" / "verifier")

    @pytest.mark.parametrize(
        "name",
        [
            "verifier.json",
            "config.json",
            "tokenizer.json",
            "base.safetensors",
            "half-b.safetensors",
        ],
    )
    def test_a_damaged_or_missing_file(self, router, tmp_path, name):
        router.save(tmp_path / "checkpoint")
        path = tmp_path / "checkpoint" / "verifier" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x01
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}: damaged"):
            Router.load(tmp_path / "checkpoint")
        path.unlink()
        with pytest.raises(CheckpointError, match=f"missing {name}"):
            Router.load(tmp_path / "checkpoint")

    def test_another_verifier_in_its_place(self, make_router, router, copied, tmp_path):
        router.save(tmp_path / "checkpoint")
        place = tmp_path / "checkpoint" / "verifier"
        reseal(copied, lambda card: card.update(base="another"))
        shutil.rmtree(place)
        shutil.copytree(copied, place)
        Verifier.load(place)
        with pytest.raises(CheckpointError, match="not this checkpoint's"):
            Router.load(tmp_path / "checkpoint")
        with pytest.raises(CheckpointError, match="not the one that the router was trained with"):
            make_router(groups=GROUPS, verifier_sha256="0" * 64, verifier=Verifier.load(place))
        with pytest.raises(CheckpointError, match="not the one that the router was trained with"):
            make_router(groups=GROUPS, verifier_sha256="0" * 64)


def reseal(folder, change, **contents):
    """Change a verifier and make its hashes fit again, as somebody with intent would."""
    card = json.loads((folder / "verifier.json").read_text())
    for name, content in contents.items():
        path = folder / name.replace("__", ".").replace("_", "-")
        path.write_bytes(content)
        card["files"][path.name] = hashlib.sha256(content).hexdigest()
    change(card)
    (folder / "verifier.json").write_text(json.dumps(card))


def nothing(card):
    """Change nothing but hashes."""


class TestSealedByIntent:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda card: card.update(format="router"), "found another file"),
            (lambda card: card.update(format_version=2), "format version 1, found 2"),
            (lambda card: card.update(colour=1), r"unknown keys \['colour'\]"),
            (lambda card: card.pop("tokens"), r"missing keys \['tokens'\]"),
            (lambda card: card.update(tokens=True), "whole numbers"),
            (lambda card: card.update(tokens=16), "at least those of its question"),
            (lambda card: card.update(seen_questions=[7]), "hashes of seen questions"),
            (lambda card: card.update(files=None), "hashes of files"),
        ],
    )
    def test_a_card(self, copied, change, match):
        reseal(copied, change)
        with pytest.raises(CheckpointError, match=match):
            Verifier.load(copied)

    def test_no_json(self, copied):
        (copied / "verifier.json").write_text("{")
        with pytest.raises(CheckpointError, match="not valid JSON"):
            Verifier.load(copied)

    def test_a_shape_that_the_weights_do_not_bear_out_takes_no_memory(self, copied):
        config = json.loads((copied / "config.json").read_text())
        for wrong, match in (
            ({"hidden_size": 2**40, "intermediate_size": 2**40}, "no encoder|do not fit"),
            ({"hidden_size": 64}, "do not fit config.json"),
            ({"model_type": "horoscope"}, "that transformers knows"),
            ({"num_hidden_layers": "three"}, "config"),
        ):
            content = json.dumps(config | wrong).encode()
            reseal(copied, nothing, config__json=content)
            with pytest.raises(CheckpointError, match=match):
                Verifier.load(copied)

    def test_code_that_a_configuration_names_is_not_run(self, copied):
        config = json.loads((copied / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "trap.Trap", "AutoConfig": "trap.Config"}
        (copied / "trap.py").write_text("raise SystemExit('run')\n")
        reseal(copied, nothing, config__json=json.dumps(config).encode())
        Verifier.load(copied)

    def test_weights(self, copied):
        head = load_file(copied / "half-a.safetensors")
        cases = {
            "expected safetensors": b"\x80\x04K\x01.",
            "do not fit": save({"head.weight": head["head.weight"]}),
            "finite": save(head | {"head.bias": torch.full((1,), math.nan)}),
        }
        for match, content in cases.items():
            reseal(copied, nothing, half_a__safetensors=content)
            with pytest.raises(CheckpointError, match=match):
                Verifier.load(copied)

    def test_a_file_too_large_is_not_read(self, copied):
        with (copied / "config.json").open("r+b") as file:
            file.truncate(2 << 20)
        with pytest.raises(CheckpointError, match="larger than any verifier's"):
            Verifier.load(copied)


def test_a_card_that_reads_a_verifier_names_one(make_router, verifier, tmp_path):
    router = make_router(groups=GROUPS, verifier_sha256=verifier.sha256, verifier=verifier)
    text = replace(router.card, verifier_sha256=None).to_json()
    with pytest.raises(CheckpointError, match="a verifier where its features are read"):
        type(router.card).from_json(text, source="here")
    text = replace(make_router().card, verifier_sha256="0" * 64).to_json()
    with pytest.raises(CheckpointError, match="a verifier where its features are read"):
        type(router.card).from_json(text, source="here")


def test_loading_leaves_random_numbers_alone(folder):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    Verifier.load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_but_its_files_is_copied(folder, router, tmp_path):
    save_file({"x": torch.zeros(1)}, folder / "mine.safetensors")
    try:
        router.save(tmp_path / "checkpoint")
    finally:
        (folder / "mine.safetensors").unlink()
    assert not (tmp_path / "checkpoint" / "verifier" / "mine.safetensors").exists()
