"""Routers that come with the package, and routers under another grader."""

from dataclasses import replace

import pytest

from pyramid_moa.errors import CheckpointError
from pyramid_moa.grading import load_grader
from pyramid_moa.router_model import pretrained
from pyramid_moa.router_model.features import groups_for
from pyramid_moa.router_model.pretrained import PRETRAINED, checkpoint_folder, is_pretrained
from pyramid_moa.router_model.router import Router


def test_folders_and_names(tmp_path):
    assert checkpoint_folder(tmp_path) == tmp_path
    assert (
        checkpoint_folder("pretrained:numeric").parent
        == checkpoint_folder("pretrained:general").parent
    )
    assert is_pretrained("pretrained:numeric")
    assert not is_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"pretrained:numeric, pretrained:general, found"):
        Router.load("pretrained:gsm")


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_comes_with_the_package_is_of_this_version(name):
    """All that can be named is shipped and can be read."""
    card = Router.load(f"pretrained:{name}").card
    assert "Apache-2.0" in card.trained_on["dataset"]
    assert not card.needs_logprobs
    assert card.hidden_key is None


def test_a_name_reads_the_folder_beside_the_package(trained, monkeypatch):
    monkeypatch.setattr(pretrained, "files", lambda package: trained.parent)
    monkeypatch.setitem(PRETRAINED, trained.name, "made up")
    assert Router.load(f"pretrained:{trained.name}").card == Router.load(trained).card


def test_what_comes_with_the_package_is_not_written_to(trained):
    with pytest.raises(CheckpointError, match="export --router pretrained:numeric --out"):
        Router.load(trained).save("pretrained:numeric")


def test_strangers_may_be_compared_by_another_grader(trained):
    router = Router.load(trained)
    assert router.graded_by("gsm8k", ["large"]) is router
    # It reads the arithmetic of numbers: others have none.
    assert router.graded_by("text", ["somebody"]) is None
    groups = groups_for(router.card.feature_groups, load_grader("text"))
    other = Router(replace(router.card, grader="exact"), router.network)
    assert other.graded_by("gsm8k", ["somebody"]).grader.numeric
    assert len(groups) < len(router.card.feature_groups)
    # A member that it knows was graded otherwise in its run.
    assert other.graded_by("gsm8k", ["somebody", "large"]) is None
