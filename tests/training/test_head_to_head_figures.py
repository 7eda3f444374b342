"""Figures of a rule on a run of eight queries, worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pyramid_moa.training.baselines.rule_run import RuleRun
from pyramid_moa.training.head_to_head_cells import Cell
from pyramid_moa.training.head_to_head_figures import (
    FIGURES,
    LESS_IS_BETTER,
    RELATIVE_COSTS,
    expected_calibration_error,
    relative_curve,
    rule_figures,
    within_folds,
)
from pyramid_moa.training.head_to_head_results import BUDGETS, Part, SeedScores, rule_result

# Eight queries; the vote fails at 0, 1, 2, 3, the oracle at 3 and 7; all agree at 4 to 7.
VOTE = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)
ORACLE = np.array([1, 1, 1, 0, 1, 1, 1, 0], dtype=bool)
AGREE = np.arange(8) >= 4
MEMBERS_COST, ORACLE_COST = 0.2, 1.0
P_FAIL = np.array([0.9, 0.8, 0.6, 0.3, 0.4, 0.1, 0.1, 0.1])
OWN = {"own": np.zeros(8, dtype=np.int64), "p_own_fails": P_FAIL}
ONES = np.ones((1, 8))


def made_up_run():
    member = np.column_stack([VOTE, VOTE, ORACLE, VOTE])
    return RuleRun(
        run=None,
        hashes=tuple("abcdefgh"),
        clusters=np.zeros((8, 2), dtype=int),
        winner=np.zeros(8, dtype=int),
        share=np.where(AGREE, 1.0, 0.5),
        confidence=np.full((8, 2), np.nan),
        cost=np.tile([MEMBERS_COST / 2, MEMBERS_COST / 2, ORACLE_COST], (8, 1)),
        correct=member,
    )


def cell(dial, asked, *, p_fail=P_FAIL, probability=True):
    asked = np.array(asked)
    correct = np.where(asked, ORACLE, VOTE)
    cost = MEMBERS_COST + asked * ORACLE_COST
    return Cell(
        dial=np.array(dial, dtype=float),
        correct=correct,
        cost=cost,
        escalated=asked,
        train_accuracy=correct.mean(axis=1),
        train_cost=cost.mean(axis=1),
        p_fail=p_fail,
        own_fails=~VOTE[: len(p_fail)],
        own=np.zeros(len(p_fail), dtype=np.int64),
        p_own_fails=p_fail,
        is_probability=np.array(probability),
        fell_back=np.array(False),
        seconds=np.array(0.0),
    )


def of_cell(own, *, is_vote=False):
    """A result as if one fold had been trained on the test queries themselves."""
    everything = np.arange(8)
    part = Part(train=everything, test=everything, cell=own, vote=vote_cell())
    return rule_result(made_up_run(), {0: [part]}, is_vote=is_vote)


def vote_cell():
    never, always = np.zeros(8, dtype=bool), np.ones(8, dtype=bool)
    return cell([0.0, 1.0, 2.0], [never, ~AGREE, always], p_fail=1 - AGREE / 1.0, probability=False)


def router_cell():
    asked = [threshold < P_FAIL for threshold in (1.0, 0.7, 0.5, 0.35, -1.0)]
    return cell([0, 0.25, 0.375, 0.5, 1], asked)


@pytest.fixture(scope="module")
def router():
    return of_cell(router_cell())


@pytest.fixture(scope="module")
def figures(router):
    return {k: v[0] for k, v in rule_figures(made_up_run(), router, ONES).items()}


def test_every_figure_is_there(figures):
    assert set(figures) == set(FIGURES)
    assert set(FIGURES) >= LESS_IS_BETTER


def test_accuracy_at_fixed_costs(figures):
    # Asking for 0 and 1 costs .2 + 2/8 and has 6 of 8 right; for 2 as well 7 of 8 at .575.
    assert figures["accuracy_at_cost_0.2"] == pytest.approx(4 / 8)
    assert figures["accuracy_at_cost_0.4"] == pytest.approx(4 / 8 + 2 / 8 * (0.2 / 0.25), abs=0.002)
    assert figures["accuracy_at_cost_0.6"] == pytest.approx(7 / 8)
    assert figures["accuracy_at_cost_0.8"] == pytest.approx(7 / 8)


def test_against_abc(figures):
    # ABC asks for 0 to 3: 7 of 8 right for .7. The router has that for .575.
    assert figures["cost_at_abc_accuracy"] == pytest.approx(0.575 / 0.7)
    assert figures["accuracy_at_abc_accuracy"] == pytest.approx(7 / 8)
    assert figures["cost_at_abc_accuracy_on_curve"] == pytest.approx(0.575 / 0.7, abs=0.01)
    assert figures["accuracy_at_abc_cost"] == pytest.approx(7 / 8)
    assert figures["cost_at_abc_cost"] == pytest.approx(0.575 / 0.7)
    # The oracle has 6 of 8, which asking for 0 and 1 reaches at .45; within a tenth of a point.
    expected = 0.45 - 0.001 * 0.25 / (2 / 8)
    assert figures["cost_ratio_at_parity"] == pytest.approx(expected, abs=0.005)


def test_abc_is_its_own_measure():
    own = rule_figures(made_up_run(), of_cell(vote_cell(), is_vote=True), ONES)
    assert own["cost_at_abc_accuracy"] == pytest.approx([1.0])
    assert own["cost_at_abc_cost"] == pytest.approx([1.0])
    assert own["accuracy_at_abc_cost"] == pytest.approx([7 / 8])
    assert own["failure_auroc"] == pytest.approx([1.0])
    assert np.isnan(own["ece"])  # a share of votes is no probability


def test_areas_and_headroom(figures):
    # Best single: the oracle's 6 of 8; hindsight 7 of 8, which the router reaches.
    assert figures["headroom_captured"] == pytest.approx(1.0)
    assert figures["most_accurate"] == pytest.approx(7 / 8)
    rise = (4 / 8 + 6 / 8) / 2 * 0.25 + (6 / 8 + 7 / 8) / 2 * 0.125
    assert figures["area"] == pytest.approx(rise + 7 / 8 * 0.625, abs=0.002)
    assert figures["aiq"] == pytest.approx((rise + 7 / 8 * 0.625) / 1.2)
    shares, right = [0, 0.25, 0.375, 0.5, 1], np.array([4, 6, 7, 7, 6]) / 8
    expected = (np.trapezoid(right, shares) - 0.5) / 0.25
    assert figures["apgr"] == pytest.approx(expected)
    assert figures["cpt_50"] == pytest.approx(0.125)


def test_failure_figures(figures):
    assert figures["failure_auroc"] == pytest.approx(roc_auc_score(~VOTE, P_FAIL))
    expected = average_precision_score(~VOTE, P_FAIL)
    assert figures["failure_average_precision"] == pytest.approx(expected)
    assert figures["brier"] == pytest.approx(np.mean((P_FAIL - ~VOTE) ** 2))
    # Every distinct score is a bin of its own: .1 .2 .4 .7 .4 off, and .1 three times.
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7 + 0.4 + 0.3) / 8)
    assert figures["ece_in_excess"] == pytest.approx(
        figures["ece"] - expected_calibration_error(P_FAIL)
    )


def test_ranking_is_within_folds():
    fold = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    scores = SeedScores(p_fail=P_FAIL + 5 * (fold == 1), own_fails=~VOTE, **OWN, fold=fold)
    ranked = within_folds(scores, ONES)
    # Fold 0: 3 failures above 1 success; fold 1: 1 failure above 3 successes.
    assert ranked["auroc"] == pytest.approx([1.0])
    assert ranked["precision"] == pytest.approx([1.0])
    single = SeedScores(p_fail=P_FAIL, own_fails=~VOTE, **OWN, fold=np.where(VOTE, 0, 1))
    assert np.isnan(within_folds(single, ONES)["auroc"]).all()


def test_a_calibrated_router_has_no_excess():
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    expected = expected_calibration_error(p)
    assert 0.01 < expected < 0.03
    assert expected_calibration_error(np.zeros(50)) == 0.0


def test_weights_are_repetitions(router):
    """Drawing a query twice is as having it twice."""
    weights = np.array([[1.0] * 8, [2, 0, 1, 1, 1, 1, 2, 0]])
    figures = rule_figures(made_up_run(), router, weights)
    drawn = np.repeat(np.arange(8), weights[1].astype(int))
    auroc = roc_auc_score(~VOTE[drawn], P_FAIL[drawn])
    assert figures["failure_auroc"][1] == pytest.approx(auroc)
    assert figures["most_accurate"][1] == pytest.approx(
        np.where(P_FAIL > 0.5, ORACLE, VOTE)[drawn].mean()
    )


def test_relative_curve(router):
    curve = relative_curve(router, ONES)[0]
    at = dict(zip(RELATIVE_COSTS.tolist(), curve.tolist(), strict=True))
    assert at[1.0] == pytest.approx(0.0, abs=1e-9)
    assert at[0.64] == pytest.approx(-1 / 8, abs=0.01)  # .45: 6 of 8 against 7 of 8


def test_seeds_are_averaged():
    everything = np.arange(8)
    parts = {
        seed: [Part(train=everything, test=everything, cell=own, vote=vote_cell())]
        for seed, own in enumerate([router_cell(), router_cell()])
    }
    result = rule_result(made_up_run(), parts, is_vote=False)
    assert len(result.scores) == 2
    assert result.chosen_correct.shape == (BUDGETS + 4, 8)
    assert result.correct == pytest.approx(of_cell(router_cell()).correct)
