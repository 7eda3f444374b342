"""A router trained on what a verifier says, from the command line to the gate."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.cli import main
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.inference.export_folder import export_folder
from pyramid_moa.inference.gate import Gate
from pyramid_moa.records import Query
from pyramid_moa.router_model.features import DEFAULT_GROUPS, FeatureSpec
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_trained import examples_of
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.config import TrainConfig
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.replay import score_run
from pyramid_moa.training.train import train
from synthetic import quick_config
from tiny_encoder import make_tiny_encoder

QUICK = """
pairs: 60
tokens: 48
question_tokens: 16
tuned_layers: 1
rank: 2
max_epochs: 1
"""
GROUPS = ["agreement", "lengths", "verifier"]


@pytest.fixture(scope="module")
def verifier(imported_run, tmp_path_factory):
    """As the command line makes it."""
    root = tmp_path_factory.mktemp("verifier")
    encoder = make_tiny_encoder(root / "encoder")
    (root / "quick.yaml").write_text(QUICK)
    flags = ["--run", imported_run, "--model", encoder, "--out", root / "verifier"]
    flags += ["--config", root / "quick.yaml"]
    assert main(["train-verifier", *map(str, flags)]) == 0
    return root / "verifier"


@pytest.fixture(scope="module")
def config(verifier):
    return quick_config(groups=GROUPS, verifier=str(verifier))


@pytest.fixture(scope="module")
def checkpoint(imported_run, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("checkpoints") / "router"
    train(imported_run, out, config)
    return out


def test_training_reads_what_serving_reads(imported_run, verifier, checkpoint):
    run = read_labelled_run(imported_run)
    router = Router.load(checkpoint)
    spec = FeatureSpec(groups=tuple(GROUPS))
    examples = gather_examples(run, spec, hidden_key=None, verifier=Verifier.load(verifier))
    column = spec.answer_names.index("verifier/logit")
    assert np.isfinite(examples.answers[..., column].numpy()).any()
    for index in range(0, len(run.queries), 29):
        evidence = router.evidence(run.queries[index].question, run.member_answers(index))
        one, other = examples.answers[index].numpy(), examples.relations[index].numpy()
        assert np.array_equal(evidence.answers, one, equal_nan=True)
        assert np.array_equal(evidence.relations, other, equal_nan=True)


def test_the_gate_decides_as_evaluation_does(imported_run, checkpoint):
    run = read_labelled_run(imported_run)
    positions = list(range(0, len(run.queries), 13))
    scores = score_run(run, Router.load(checkpoint), positions)
    queries = [Query(query_id=str(i), question=run.queries[i].question) for i in positions]
    with Gate.from_run(imported_run, router=checkpoint) as gate:
        decisions = gate.answer_many(queries)
        assert Router.load(checkpoint).card.verifier_sha256 in gate.identity
    found = [decision.p_ensemble_fails for decision in decisions]
    assert found == [score.p_ensemble_fails for score in scores]


def test_the_card_tells_no_folder_of_this_machine(checkpoint, trained, verifier):
    card = Router.load(checkpoint).card
    assert card.trained_on["config"]["verifier"] == verifier.name
    assert str(verifier) not in card.to_json()
    for path in (checkpoint / "verifier").iterdir():
        assert str(verifier.parent).encode() not in path.read_bytes(), path.name
        assert b"_name_or_path" not in path.read_bytes(), path.name
    assert "verifier" not in Router.load(trained).card.to_json(), "a plain one is as it was"


def test_an_exported_folder_serves(imported_run, checkpoint, tmp_path):
    export_folder(checkpoint, tmp_path / "exported")
    run = read_labelled_run(imported_run)
    one, other = (
        score_run(run, Router.load(place), [0, 1]) for place in (checkpoint, tmp_path / "exported")
    )
    assert one == other


def test_another_verifier_is_not_started_from(imported_run, config, checkpoint, trained, tmp_path):
    train(imported_run, tmp_path / "again", config, init=checkpoint)
    plain = quick_config(groups=["agreement", "lengths"])
    with pytest.raises(CheckpointError, match=r"can't be started from: .*verifier: it has"):
        train(imported_run, tmp_path / "plain", plain, init=checkpoint)


def test_the_benchmark_reads_it(imported_run, config):
    data = rule_run(read_labelled_run(imported_run))
    config = replace(config, hidden_states="none")
    examples = examples_of(data, config)
    assert examples.relations.shape[-1] == 1
    plain = examples_of(data, replace(config, groups=["agreement", "lengths"], verifier=None))
    assert plain.relations.shape[-1] == 0
    settings = OurRule(config=config).settings()
    assert len(settings["verifier"]) == 64


@pytest.mark.parametrize(
    "change",
    [{"verifier": "somewhere"}, {"groups": [*DEFAULT_GROUPS, "verifier"]}],
)
def test_group_and_folder_go_together(change):
    with pytest.raises(ConfigError, match="verifier: a folder where groups name verifier"):
        TrainConfig(**change)


def test_a_folder_that_is_no_verifier(imported_run, config, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a verifier, missing verifier\.json"):
        train(imported_run, tmp_path / "out", replace(config, verifier=str(tmp_path)))


def test_a_router_without_one_loads_no_transformers(trained):
    code = (
        "import sys; from pyramid_moa import Router; "
        f"Router.load({str(trained)!r}); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
