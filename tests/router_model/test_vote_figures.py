"""The votes of a batch as tensors, against the vote of one question."""

import random

import pytest
import torch

from pyramid_moa.grading import vote
from pyramid_moa.router_model.features import NO_ANSWER, NOT_ASKED
from pyramid_moa.router_model.vote_figures import (
    QUERY_FIGURES,
    VOTE_FIGURES,
    query_figures,
    same_answers,
    vote_figures,
    vote_places,
)


def equal(one, other):
    return one == other


def clusters_of(answers):
    return [NO_ANSWER if c is None else c for c in vote(answers, equal).clusters]


def drawn_answers(generator, members):
    return [generator.choice([None, "x", "y", "z"]) for _ in range(members)]


@pytest.mark.parametrize("members", range(1, 8))
def test_the_majority_is_the_votes_ties_included(members):
    generator = random.Random(members)
    rows = [drawn_answers(generator, members) for _ in range(200)]
    rows = [answers for answers in rows if any(answers)]
    found = vote_places(torch.tensor([clusters_of(answers) for answers in rows])).tolist()
    for answers, place in zip(rows, found, strict=True):
        assert place == vote(answers, equal).winner, answers
    counts = [sorted(map(a.count, {*a} - {None}), reverse=True) for a in rows]
    ties = [len(count) > 1 and count[0] == count[1] for count in counts]
    assert any(ties) or members == 1


def test_nobody_answered_is_the_first_place():
    assert vote_places(torch.tensor([[NO_ANSWER, NOT_ASKED, NO_ANSWER]])).tolist() == [0]


@pytest.mark.parametrize("members", range(1, 8))
def test_of_some_members_the_clusters_are_as_if_they_alone_had_been_asked(members):
    generator = random.Random(members)
    for _ in range(200):
        answers = drawn_answers(generator, members)
        chosen = sorted(generator.sample(range(members), generator.randint(1, members)))
        everybody = clusters_of(answers)
        found = same_answers(torch.tensor([[everybody[k] for k in chosen]]))
        assert found[0].tolist() == clusters_of([answers[k] for k in chosen])


def test_who_was_not_asked_stays_so():
    clusters = torch.tensor([[NOT_ASKED, 5, NO_ANSWER, 5, NOT_ASKED, 2]])
    assert same_answers(clusters).tolist() == [[NOT_ASKED, 1, NO_ANSWER, 1, NOT_ASKED, 5]]


def test_figures_of_three_against_one_by_hand():
    """Members 0, 1, 3 say one thing, 2 another, 4 nothing; skills 1, 0, -1, 2, 0."""
    votes = torch.tensor([[3.0, 0.0, 1.0, 0.0, 0.0]])
    total = torch.tensor([[5.0]])
    skills = torch.tensor([[1.0, 0.0, -1.0, 2.0, 0.0]])
    behind = torch.zeros(1, 5, 5)
    behind[0, [0, 1, 3], 0] = 1.0
    behind[0, 2, 2] = 1.0
    figures = vote_figures(votes, total, skills, behind)
    assert figures.shape == (1, 5, VOTE_FIGURES)
    most = [3 / 5, 1 / 5, 2 / 5, 3 / 5, 1, 2 / 5, 0, 3 / 3, -1 / 3, 1, 0, 1]
    assert figures[0, 0].tolist() == pytest.approx(most)
    fewest = [1 / 5, 3 / 5, -2 / 5, 1 / 5, 1, 2 / 5, 0, -1 / 3, 3 / 3, -1, 1, 0]
    assert figures[0, 2].tolist() == pytest.approx(fewest)
    query = query_figures(votes, total, skills)
    assert query.shape == (1, QUERY_FIGURES)
    entropy = -(0.6 * torch.log(torch.tensor(0.6)) + 0.2 * torch.log(torch.tensor(0.2)))
    expected = [3 / 5, 1 / 5, float(entropy), 2 / 5, 1, 0, 2 / 5, 4 / 5]
    assert query[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_rival_of_a_tied_answer_has_as_many_votes():
    votes = torch.tensor([[2.0, 2.0, 0.0, 0.0]])
    figures = vote_figures(votes, torch.tensor([[4.0]]), torch.zeros(1, 4), torch.zeros(1, 4, 4))
    assert figures[0, 0, :3].tolist() == pytest.approx([1 / 2, 1 / 2, 0])
