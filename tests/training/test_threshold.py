"""Operating points for a target."""

import json
import shutil

import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.router_model.policy import escalates
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.operating_points import NotAttainableError
from pyramid_moa.training.replay import score_run
from pyramid_moa.training.threshold import add_threshold


@pytest.fixture
def router(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "router")


def measured(run_folder, router, threshold, split):
    """Accuracy and share of escalated queries of a threshold, query by query."""
    run = read_labelled_run(run_folder)
    positions = run.of_split(split)
    scores = score_run(run, Router.load(router), positions)
    asked = [escalates(score, threshold) for score in scores]
    members = run.manifest.members
    right = [
        run.labels[i].oracle_correct
        if a
        else score.choice is not None and run.generations[members[score.choice]][i].correct
        for i, a, score in zip(positions, asked, scores, strict=True)
    ]
    return sum(right) / len(right), sum(asked) / len(asked)


def test_the_point_is_stored_and_is_what_it_says(imported_run, router):
    before = Router.load(router).card
    point = add_threshold(imported_run, router, target_accuracy=0.9)
    after = Router.load(router).card
    assert after.operating_point("target") == point
    assert after.operating_points[:-1] == before.operating_points
    assert point.accuracy >= 0.9
    assert (point.split, point.target) == ("calibration", "accuracy of at least 0.9")
    found = measured(imported_run, router, point.threshold, "calibration")
    assert found == pytest.approx((point.accuracy, point.escalation_rate))


def test_the_cheapest_of_those_that_meet_it(imported_run, router):
    points = [
        add_threshold(imported_run, router, target_accuracy=target, name=f"at-{target}")
        for target in (0.0, 0.8, 0.9)
    ]
    rates = [point.escalation_rate for point in points]
    assert rates == sorted(rates)
    assert rates[0] == 0.0
    names = [point.name for point in Router.load(router).card.operating_points]
    assert names[-3:] == ["at-0.0", "at-0.8", "at-0.9"]


def test_below_the_oracle(imported_run, router):
    point = add_threshold(imported_run, router, max_drop=0.02, split="test")
    run = read_labelled_run(imported_run)
    rows = [run.labels[i].oracle_correct for i in run.of_split("test")]
    assert point.accuracy >= sum(rows) / len(rows) - 0.02 - 1e-9
    assert point.split == "test"


def test_within_a_cost(imported_run, router):
    point = add_threshold(imported_run, router, target_cost_ratio=0.4)
    assert point.cost_ratio <= 0.4
    dearer = add_threshold(imported_run, router, target_cost_ratio=1.5)
    assert dearer.accuracy >= point.accuracy
    with pytest.raises(NotAttainableError, match="the members alone cost"):
        add_threshold(imported_run, router, target_cost_ratio=0.01)


def test_what_is_not_attainable_changes_nothing(imported_run, router):
    before = (router / "router.json").read_bytes()
    with pytest.raises(NotAttainableError, match="the most accurate threshold there is"):
        add_threshold(imported_run, router, target_accuracy=1.0, split="train")
    assert (router / "router.json").read_bytes() == before


def test_a_namesake_is_replaced_where_it_stands(imported_run, router):
    first = Router.load(router).card.operating_point().name
    point = add_threshold(imported_run, router, target_accuracy=0.85, name=first)
    card = Router.load(router).card
    assert card.operating_point() == point
    assert [p.name for p in card.operating_points].count(first) == 1


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ({}, "exactly one of --target-accuracy, .*found none"),
        ({"target_accuracy": 0.9, "max_drop": 0.1}, "found --target-accuracy, --max-drop"),
        ({"target_accuracy": 90}, "from 0 to 1, found 90"),
        ({"max_drop": -0.1}, "from 0 to 1"),
        ({"max_drop": float("nan")}, "from 0 to 1, found nan"),
        ({"target_cost_ratio": -1}, "--target-cost-ratio"),
    ],
)
def test_wrong_targets(imported_run, router, targets, match):
    with pytest.raises(ConfigError, match=match):
        add_threshold(imported_run, router, **targets)


def test_runs_that_do_not_fit(imported_run, labelled_run, router, trained_on_hidden):
    with pytest.raises(RunFolderError, match="split 'mine'"):
        add_threshold(imported_run, router, max_drop=0.1, split="mine")
    with pytest.raises(
        CheckpointError, match="hidden states layer-1/answer_mean: the run has none"
    ):
        add_threshold(imported_run, trained_on_hidden, max_drop=0.1)


def test_strangers_under_another_grader_leave_the_routers_own(labelled_run, tmp_path):
    """A point for them is stored; what compares the answers of its own members stays."""
    router = Router.load("pretrained:general")
    router.save(tmp_path / "router")
    run = shutil.copytree(labelled_run, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "grader": "exact"}))
    add_threshold(run, tmp_path / "router", max_drop=0.2, name="mine")
    again = Router.load(tmp_path / "router").card
    assert again.grader == router.card.grader != "exact"
    assert "mine" in [point.name for point in again.operating_points]
