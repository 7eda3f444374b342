"""Operating points for a target."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.backends import Price
from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError, ConfigError, RunFolderError
from pyramid_moa.inference.model_card import model_card
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.policy import escalates
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.operating_points import NotAttainableError
from pyramid_moa.training.promises import check_prices
from pyramid_moa.training.replay import score_run
from pyramid_moa.training.threshold import add_threshold
from synthetic import COSTS, MEMBERS, ORACLE, write_recorded_table


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
    point = add_threshold(imported_run, router, target_accuracy=0.9, confidence=None)
    assert point.promise is None
    after = Router.load(router).card
    assert after.operating_point("target") == point
    assert after.operating_points[:-1] == before.operating_points
    assert point.accuracy >= 0.9
    assert (point.split, point.target) == ("calibration", "accuracy of at least 0.9")
    found = measured(imported_run, router, point.threshold, "calibration")
    assert found == pytest.approx((point.accuracy, point.escalation_rate))


def test_the_cheapest_of_those_that_meet_it(imported_run, router):
    points = [
        add_threshold(
            imported_run, router, target_accuracy=target, name=f"at-{target}", confidence=None
        )
        for target in (0.0, 0.8, 0.9)
    ]
    rates = [point.escalation_rate for point in points]
    assert rates == sorted(rates)
    assert rates[0] == 0.0
    names = [point.name for point in Router.load(router).card.operating_points]
    assert names[-3:] == ["at-0.0", "at-0.8", "at-0.9"]


def test_below_the_oracle(imported_run, router):
    point = add_threshold(imported_run, router, max_drop=0.02, split="test", confidence=None)
    run = read_labelled_run(imported_run)
    rows = [run.labels[i].oracle_correct for i in run.of_split("test")]
    assert point.accuracy >= sum(rows) / len(rows) - 0.02 - 1e-9
    assert point.split == "test"


def test_within_a_cost(imported_run, router):
    point = add_threshold(imported_run, router, target_cost_ratio=0.4, confidence=None)
    assert point.cost_ratio <= 0.4
    dearer = add_threshold(imported_run, router, target_cost_ratio=1.5, confidence=None)
    assert dearer.accuracy >= point.accuracy
    with pytest.raises(NotAttainableError, match="the members alone cost"):
        add_threshold(imported_run, router, target_cost_ratio=0.01, confidence=None)
    run = read_labelled_run(imported_run)
    rows = run.generations[run.manifest.oracle]
    usd = 1000 * sum(rows[i].cost_usd for i in run.of_split("calibration")) / point.questions
    same = add_threshold(imported_run, router, max_usd_per_1000=0.4 * usd, confidence=None)
    assert (same.threshold, same.cost_ratio) == (point.threshold, point.cost_ratio)


def test_what_is_not_attainable_changes_nothing(imported_run, router):
    before = (router / "router.json").read_bytes()
    with pytest.raises(NotAttainableError, match="the most accurate threshold there is"):
        add_threshold(imported_run, router, target_accuracy=1.0, split="train", confidence=None)
    with pytest.raises(NotAttainableError, match=r"at confidence 0.95 with the 50 questions"):
        add_threshold(imported_run, router, target_accuracy=1.0)
    assert (router / "router.json").read_bytes() == before


def test_a_namesake_is_replaced_where_it_stands(imported_run, router):
    first = Router.load(router).card.operating_point().name
    point = add_threshold(imported_run, router, target_accuracy=0.8, name=first)
    card = Router.load(router).card
    assert card.operating_point() == point
    assert [p.name for p in card.operating_points].count(first) == 1


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ({}, "one or more of --target-accuracy, .*found none"),
        ({"target_accuracy": 0.9, "max_drop": 1.1}, "--max-drop: expected .* found 1.1"),
        ({"target_accuracy": 90}, "from 0 to 1, found 90"),
        ({"max_drop": -0.1}, "from 0 to 1"),
        ({"max_drop": float("nan")}, "from 0 to 1, found nan"),
        ({"target_cost_ratio": -1}, "--target-cost-ratio"),
        ({"max_usd_per_1000": float("inf")}, "--max-usd-per-1000: expected a number from 0"),
        ({"max_drop": 0.1, "max_usd_per_1000": -5}, "--max-usd-per-1000: .* found -5"),
        ({"max_drop": 0.1, "confidence": 0.0}, "--confidence: .* found 0.0; --no-promise"),
        ({"max_drop": 0.1, "confidence": 1.0}, "--confidence: .* found 1.0"),
        ({"max_drop": 0.1, "confidence": float("nan")}, "--confidence"),
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


PROMISES = [
    {"max_drop": 0.15},
    {"target_accuracy": 0.75},
    {"target_cost_ratio": 0.9},
    {"max_usd_per_1000": 1.5},
]


@pytest.mark.parametrize("target", PROMISES, ids=lambda target: next(iter(target)))
def test_a_promise_is_stored_with_what_it_rests_on(imported_run, router, target):
    ((kind, value),) = target.items()
    point = add_threshold(imported_run, router, **target, name="mine")
    assert Router.load(router).card.operating_point("mine") == point
    promise = point.promise
    assert (promise.kind, promise.value, promise.confidence) == (kind, value, 0.95)
    assert promise.questions == point.questions == 50
    assert promise.method.startswith("learn then test")
    # What may be lost, and what differs without a loss.
    least = {"max_drop": value, "target_accuracy": 0.0}.get(kind)
    if least is None:
        assert promise.most_differ is None
    else:
        assert least < promise.most_differ <= 1
    assert ("no dearer than" in promise.method) == (
        kind in ("target_cost_ratio", "max_usd_per_1000")
    )
    found = measured(imported_run, router, point.threshold, "calibration")
    assert found == pytest.approx((point.accuracy, point.escalation_rate))
    assert "| at 0.95, by 50 questions |" in model_card(Router.load(router).card)
    # The same again, bit by bit.
    before = (router / "router.json").read_bytes()
    assert add_threshold(imported_run, router, **target, name="mine") == point
    assert (router / "router.json").read_bytes() == before


JOINT = [
    {"max_drop": 0.2, "max_usd_per_1000": 1.5},
    {"target_accuracy": 0.7, "max_drop": 0.2},
    {"target_accuracy": 0.7, "target_cost_ratio": 0.9, "max_usd_per_1000": 1.5},
    {"target_cost_ratio": 0.9, "max_usd_per_1000": 1.5},
]


@pytest.mark.parametrize("targets", JOINT, ids="+".join)
def test_several_targets_are_kept_to_by_one_point(imported_run, router, targets):
    point = add_threshold(imported_run, router, **targets, name="mine")
    card = Router.load(router).card
    assert card.operating_point("mine") == point
    promise = point.promise
    assert promise.targets == tuple(targets.items())
    assert (promise.kind, promise.value) == next(iter(targets.items()))
    assert (promise.confidence, promise.questions) == (0.95, 50)
    each = {2: "0.975", 3: "0.983333"}[len(targets)]
    assert f"{len(targets)} targets together, each at {each} (union bound)" in promise.method
    assert point.target.count(" and ") == len(targets) - 1
    # It is a setting that each of them proves at its share of the level.
    accuracies = [kind for kind in targets if kind in ("target_accuracy", "max_drop")]
    assert (promise.most_differ is not None) == bool(accuracies)
    for kind, value in targets.items():
        level = 0.05 / len(targets)
        alone = add_threshold(imported_run, router, **{kind: value}, confidence=1 - level)
        if kind in accuracies:
            assert alone.threshold >= point.threshold  # asks the oracle no more often
    assert "at 0.95, by 50 questions" in model_card(card)


def test_several_targets_that_are_not_attainable_say_why(imported_run, router):
    before = (router / "router.json").read_bytes()

    def refused(confidence=0.95, **targets):
        with pytest.raises(NotAttainableError) as error:
            add_threshold(imported_run, router, confidence=confidence, **targets)
        return str(error.value)

    text = refused(max_drop=0.2, target_cost_ratio=0.01)
    assert "at most 0.2 below the oracle's accuracy and cost ratio of at most 0.01" in text
    assert "--target-cost-ratio fails alone: the cheapest setting costs" in text
    assert "--max-drop fails alone" not in text
    text = refused(max_drop=0.005, target_cost_ratio=0.01)
    assert "--max-drop fails alone: asking the oracle every time" in text
    assert "--target-cost-ratio fails alone" in text
    text = refused(target_accuracy=0.9, target_cost_ratio=0.3, confidence=0.6)
    assert (router / "router.json").read_bytes() == before
    found = re.search(
        r"contradict each other; the nearest that is proven is "
        r"--target-accuracy 0.9 with --target-cost-ratio (\S+)$",
        text,
    )
    value = float(found[1])
    nearest = {"target_accuracy": 0.9, "target_cost_ratio": value}
    point = add_threshold(imported_run, router, **nearest, confidence=0.6)
    assert point.cost_ratio < value


@pytest.mark.parametrize("policy", ["parallel", "sequential"])
def test_several_targets_as_measured(imported_run, router, policy):
    how = {"policy": policy, "confidence": None}
    accurate = add_threshold(imported_run, router, target_accuracy=0.98, **how)
    both = {"target_accuracy": 0.98, "target_cost_ratio": accurate.cost_ratio + 1e-9}
    point = add_threshold(imported_run, router, **both, **how)
    assert (point.threshold, point.accuracy) == (accurate.threshold, accurate.accuracy)
    assert point.promise is None
    tighter = {**both, "target_cost_ratio": accurate.cost_ratio * 0.99}
    with pytest.raises(NotAttainableError, match="contradict each other"):
        add_threshold(imported_run, router, **tighter, **how)
    with pytest.raises(NotAttainableError, match=r"(members alone|cheapest setting) costs?"):
        add_threshold(imported_run, router, target_accuracy=0.5, target_cost_ratio=0.001, **how)
    costs = {"target_cost_ratio": 0.9, "max_usd_per_1000": 1000}
    cheap = add_threshold(imported_run, router, **costs, **how)
    assert cheap.threshold == (
        add_threshold(imported_run, router, target_cost_ratio=0.9, **how).threshold
    )


def test_a_checkpoint_of_before_there_were_several_targets(imported_run, router):
    add_threshold(imported_run, router, max_drop=0.2, name="mine")
    loaded = Router.load(router)
    content = json.loads(loaded.card.to_json())
    for point in content["operating_points"]:
        if point["promise"] is not None:
            assert point["promise"].pop("others") == []
    content.pop("self_sha256")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["self_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    card = type(loaded.card).from_json(json.dumps(content), source="old")
    assert card == loaded.card
    assert card.operating_point("mine").promise.targets == (("max_drop", 0.2),)


def test_a_promise_is_more_careful_than_a_measurement(imported_run, router):
    sure = add_threshold(imported_run, router, max_drop=0.1, confidence=0.99)
    promised = add_threshold(imported_run, router, max_drop=0.1, confidence=0.6)
    found = add_threshold(imported_run, router, max_drop=0.1, confidence=None)
    assert sure.escalation_rate > promised.escalation_rate >= found.escalation_rate


def test_the_nearest_that_is_named_is_attainable(imported_run, router):
    def nearest(match, **target):
        with pytest.raises(NotAttainableError, match=match) as refused:
            add_threshold(imported_run, router, **target)
        return float(
            re.search(r"(?:that|most that) is proven is --\S+ (\S+)$", str(refused.value))[1]
        )

    value = nearest("takes about 598 questions", max_drop=0.005)
    assert add_threshold(imported_run, router, max_drop=value).promise.value == value > 0.05
    value = nearest("not attainable", target_accuracy=0.99)
    assert add_threshold(imported_run, router, target_accuracy=value).accuracy > value
    value = nearest("the cheapest setting costs", target_cost_ratio=0.01)
    assert add_threshold(imported_run, router, target_cost_ratio=value).cost_ratio < value
    value = nearest("the cheapest setting costs", max_usd_per_1000=0.01)
    assert add_threshold(imported_run, router, max_usd_per_1000=value).promise.value == value


@pytest.mark.parametrize("split", ["train", "validation"])
def test_questions_that_the_router_was_trained_on_promise_nothing(imported_run, router, split):
    before = (router / "router.json").read_bytes()
    with pytest.raises(CheckpointError, match=f"it was trained on .* of {split}; take another"):
        add_threshold(imported_run, router, max_drop=0.5, split=split)
    assert (router / "router.json").read_bytes() == before


def test_calibration_questions_may_promise_several_times(imported_run, router):
    """That thresholds were chosen on them before does not tell the router their labels."""
    run = read_labelled_run(imported_run)
    hashes = {
        split: {question_hash(run.queries[i].question)[:16] for i in run.of_split(split)}
        for split in ("train", "validation", "calibration", "test")
    }
    card = Router.load(router).card
    assert set(card.threshold_questions) == hashes["calibration"]
    assert card.fitted_questions == hashes["train"] | hashes["validation"]
    add_threshold(imported_run, router, max_drop=0.2, name="a")
    add_threshold(imported_run, router, max_drop=0.3, name="b")
    add_threshold(imported_run, router, max_drop=0.3, name="c", split="test")
    card = Router.load(router).card
    assert set(card.threshold_questions) == hashes["calibration"] | hashes["test"]
    assert card.fitted_questions == hashes["train"] | hashes["validation"]
    # A point that was measured on training questions does not make them new ones.
    add_threshold(imported_run, router, max_drop=0.3, split="train", confidence=None)
    assert Router.load(router).card.fitted_questions == card.fitted_questions


def test_a_checkpoint_of_an_earlier_version_does_not_tell_them_apart(imported_run, router):
    loaded = Router.load(router)
    loaded.card = replace(loaded.card, threshold_questions=[])
    loaded.save(router)
    with pytest.raises(CheckpointError, match="train again where an earlier version wrote"):
        add_threshold(imported_run, router, max_drop=0.2)
    assert add_threshold(imported_run, router, max_drop=0.3, split="test").promise is not None


def test_costs_want_an_oracle_that_costs_something(tmp_path, router):
    prices = {
        name: replace(cost, price=Price(input=0, output=0) if name == ORACLE else cost.price)
        for name, cost in COSTS.items()
    }
    run = tmp_path / "run"
    table = write_recorded_table(tmp_path / "table.parquet")
    import_recorded([table], members=MEMBERS, oracle=ORACLE, out=run, prices=prices)
    for confidence in (0.95, None):
        with pytest.raises(RunFolderError, match="all its answers are free"):
            add_threshold(run, router, target_cost_ratio=0.5, confidence=confidence)


def test_costs_want_prices():
    known, unknown = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    check_prices(known, known, "a, b")
    for pair in ((known, unknown), (unknown, known)):
        with pytest.raises(RunFolderError, match="every answer of a, b, found some without"):
            check_prices(*pair, "a, b")
