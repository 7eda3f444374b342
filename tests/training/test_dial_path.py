"""The settings that a promise is looked for among."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.dial_path import ALWAYS, NEVER, cost_cap, threshold_path, try_thresholds
from pyramid_moa.training.replay import replay, score_run
from synthetic import write_run


@pytest.fixture(scope="module")
def card(trained):
    return Router.load(trained).card


def thresholds(path):
    return np.array([point.threshold for point in path.points])


def test_from_always_to_never_along_the_validation_curve(card):
    path = threshold_path(card.validation_curve, 200)
    found = thresholds(path)
    assert (found[0], found[-1]) == (ALWAYS, NEVER)
    assert np.all(np.diff(found) >= 0)
    assert (path.plan.lost[0], path.plan.gained[0]) == (0.0, 0.0)
    assert path.plan.accuracy[0] == card.validation_curve[-1]["accuracy"]
    assert path.plan.accuracy[-1] == card.validation_curve[0]["accuracy"]
    told = path.plan.accuracy[0] + path.plan.gained - path.plan.lost
    assert path.plan.accuracy == pytest.approx(told)


def test_a_curve_of_an_earlier_version_has_the_same_settings(card):
    old = [
        {key: value for key, value in row.items() if key not in ("lost", "gained")}
        for row in card.validation_curve
    ]
    path, new = threshold_path(old, 200), threshold_path(card.validation_curve, 200)
    assert path.points == new.points
    assert path.plan.lost - path.plan.gained == pytest.approx(new.plan.lost - new.plan.gained)


def test_a_router_that_has_met_no_pyramid_has_settings_too():
    path = threshold_path([], 0)
    found = thresholds(path)
    assert (found[0], found[-1]) == (ALWAYS, NEVER)
    assert np.all(np.diff(found) > 0)
    assert path.plan.start_within_drop(1000, 0.01) == 1


def test_settings_come_to_what_evaluation_says(imported_run, trained, tmp_path):
    """Also where members and oracle fail."""
    for folder in (imported_run, write_run(tmp_path / "run")):
        run, router = read_labelled_run(folder), Router.load(trained)
        positions = list(range(0, len(run.queries), 2))
        scores = score_run(run, router, positions)
        path = threshold_path(router.card.validation_curve, 200)
        path = replace(path, points=path.points[::9])
        tried = try_thresholds(run, positions, scores, path)
        for place, point in enumerate(path.points):
            rows = replay(run, positions, scores, point)
            assert np.array_equal(tried.correct[place], rows.final_correct)
            assert np.array_equal(tried.cost[place], rows.final_cost_usd)
            assert np.array_equal(tried.escalated[place], rows.escalated)
            assert tried.right[place] == rows.final_correct.sum()
            drop = rows.oracle_correct.sum() - rows.final_correct.sum()
            assert tried.lost[place] - tried.gained[place] == drop
        assert tried.escalated[0].all()
        assert tried.lost[0] == 0


def test_costs_are_bounded_by_those_of_other_questions(imported_run):
    run = read_labelled_run(imported_run)
    positions = run.of_split("calibration")
    cap = cost_cap(run, positions)
    others = sorted(set(range(300)) - set(positions))
    dearest = max(run.generations["oracle"][index].cost_usd for index in others)
    assert cap.oracle_usd == pytest.approx(2 * dearest)
    assert "2 times the most of 250 others" in cap.told
    with pytest.raises(RunFolderError, match=r"50 questions or more of other splits.*found 0"):
        cost_cap(run, list(range(300)))
