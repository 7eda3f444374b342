"""Stored answers and scores to what the gate would have done."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.policy import OperatingPoint, Scores
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.replay import check_fit, replay, score_run

POINT = OperatingPoint(name="half", threshold=0.5, target="")


def scored(*values):
    return [Scores(p_ensemble_fails=p, p_oracle_right=None) for p in values]


@pytest.fixture(scope="module")
def run(labelled_run):
    return read_labelled_run(labelled_run)


def test_every_column(run):
    positions = [0, 7, 9, 3]
    rows = replay(run, positions, scored(0.4, 1.0, 0.9, 0.5), POINT)
    assert rows.query_ids == ("q000", "q007", "q009", "q003")
    assert rows.escalated.tolist() == [False, True, True, False]
    assert rows.members == ("large", "middle", "small")
    assert rows.models_called[1] == ("large", "middle", "small", "oracle")
    assert rows.models_called[0] == ("large", "middle", "small")
    assert rows.golds == tuple(run.queries[i].gold for i in positions)
    assert rows.vote_answer[1] is None
    assert rows.member_answers[3][0] is None  # it failed there
    assert np.isnan(rows.p_oracle_right).all()
    assert rows.reference == "gold"
    assert rows.price_note == "made-up prices"
    assert rows.failed_generations == 3 + 1 + 1
    # Question 9: the oracle was asked in vain, so the ensemble's answer stands.
    assert rows.final_answer[2] == run.labels[9].vote_answer
    assert rows.final_correct[2] == run.labels[9].vote_correct
    assert rows.final_answer[1] == run.labels[7].oracle_answer
    members = sum(run.generations[name][0].cost_usd for name in rows.members)
    assert rows.final_cost_usd[0] == pytest.approx(members)
    assert rows.final_cost_usd[1] == pytest.approx(run.generations["oracle"][7].cost_usd)
    row = run.generations["large"][0]
    flops = 2 * 0.5e9 * (row.prompt_tokens + row.completion_tokens)
    assert rows.member_flops[0, 0] == pytest.approx(flops)
    assert (rows.member_flops[1] == 0).all()  # all failed: nothing was computed
    assert rows.member_latency_s[0, 0] == 0.01


def test_a_mid_oracle_that_nobody_asks_costs_nothing(run, three_tier_run):
    scores = scored(0.4, 1.0, 0.9, 0.5)
    rows = replay(run, [0, 7, 9, 10], scores, POINT)
    three = replay(read_labelled_run(three_tier_run), [0, 7, 9, 10], scores, POINT)
    assert POINT.policy == "parallel"
    assert three.models_called == rows.models_called
    assert three.final_cost_usd.tolist() == rows.final_cost_usd.tolist()
    assert three.final_answer == rows.final_answer
    assert three.final_correct.tolist() == rows.final_correct.tolist()
    assert three.failed_generations == rows.failed_generations


def test_the_choice_is_the_ensembles_answer(run):
    """A minority that is right, accepted; and one that is wrong, where the oracle is asked."""
    positions = _of_two_minds(run)
    scores = [
        Scores(p_ensemble_fails=p, p_oracle_right=0.9, p_vote_fails=0.75, choice=choice)
        for p, choice in ((0.2, positions[0][1]), (0.9, positions[1][1]))
    ]
    rows = replay(run, [index for index, _ in positions], scores, POINT)
    assert rows.p_ensemble_fails.tolist() == [0.2, 0.9]
    assert rows.p_vote_fails.tolist() == [0.75, 0.75]
    for row, (index, choice) in enumerate(positions):
        own = run.generations[run.manifest.members[choice]][index]
        assert rows.ensemble_answer[row] == own.answer != run.labels[index].vote_answer
        assert rows.ensemble_correct[row] == own.correct != rows.vote_correct[row]
        assert rows.vote_answer[row] == run.labels[index].vote_answer
        assert rows.vote_correct[row] == run.labels[index].vote_correct
    assert rows.escalated.tolist() == [False, True]
    assert rows.final_answer[0] == rows.ensemble_answer[0]
    assert rows.final_correct[0] == rows.ensemble_correct[0]
    assert rows.final_answer[1] == run.labels[positions[1][0]].oracle_answer


def _of_two_minds(run):
    """Queries with a member that is right where the majority is not, or the other way round."""
    found = []
    for index, label in enumerate(run.labels):
        for place, name in enumerate(run.manifest.members):
            row = run.generations[name][index]
            if row.answer is not None and row.correct != label.vote_correct:
                found.append((index, place))
                break
    right = [pair for pair in found if not run.labels[pair[0]].vote_correct]
    wrong = [pair for pair in found if run.labels[pair[0]].vote_correct]
    return [right[0], wrong[0]]


def test_an_oracle_that_fails_leaves_the_choice(run):
    choice = next(
        place
        for place, name in enumerate(run.manifest.members)
        if run.generations[name][9].answer is not None
    )
    score = Scores(p_ensemble_fails=0.9, p_oracle_right=0.9, choice=choice)
    rows = replay(run, [9], [score], POINT)
    own = run.generations[run.manifest.members[choice]][9]
    assert rows.escalated.tolist() == [True]
    assert rows.final_answer == (own.answer,)
    assert rows.p_vote_fails.tolist() == [0.9]  # nobody says: as of the ensemble


def test_without_a_choice_it_is_the_majoritys(run):
    rows = replay(run, [0, 7], scored(0.4, 0.4), POINT)
    assert rows.ensemble_answer == (run.labels[0].vote_answer, None)
    assert rows.ensemble_correct.tolist() == [run.labels[0].vote_correct, False]


def test_members_in_another_order_fit_where_no_hidden_states_are_read(trained, imported_run):
    run = read_labelled_run(imported_run)
    manifest = replace(run.manifest, members=["small", "large"])
    check_fit(replace(run, manifest=manifest), Router.load(trained))


def test_scores_are_the_gates(run, trained_on_hidden):
    router = Router.load(trained_on_hidden)
    scores = score_run(run, router, [5, 8])
    assert scores[0] == router.score(run.queries[5].question, run.member_answers(5))
    assert scores[1].p_ensemble_fails == 1.0  # nobody answered


def test_without_gold_the_oracles_answer_is_the_reference(run):
    manifest = replace(run.manifest, reference="oracle")
    rows = replay(replace(run, manifest=manifest), [0, 1], scored(0.1, 0.2), POINT)
    assert rows.reference == "oracle"
    assert rows.golds == tuple(run.labels[i].oracle_answer for i in (0, 1))


def test_what_does_not_fit_is_named_at_once(run, trained_on_hidden, imported_run):
    router = Router.load(trained_on_hidden)
    check_fit(run, router)
    other = read_labelled_run(imported_run)
    manifest = replace(other.manifest, members=["middle", "large", "small"], grader="text")
    with pytest.raises(CheckpointError) as caught:
        check_fit(replace(other, manifest=manifest), router)
    message = str(caught.value)
    assert "those of large, middle, small; the run has middle, large, small" in message
    assert "grader: the router was trained with gsm8k, the run has text" in message
    assert "hidden states layer-1/answer_mean: the run has none" in message
