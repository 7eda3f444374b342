"""Random members: who is asked, and what is then right."""

import pytest
import torch

from pyramid_moa.router_model.features import NO_ANSWER, NOT_ASKED
from pyramid_moa.router_model.network import UNKNOWN
from pyramid_moa.training.draws import (
    all_members,
    draw,
    draw_members,
    draw_strangers,
)
from pyramid_moa.training.examples import Examples

COUNT = 4000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("members", [1, 2, 3, 6, 8, 30])
def test_who_is_asked(members):
    drawn = draw_members(members, COUNT, seeded())
    many = members > 8
    places = 6 if many else members
    assert drawn.shape == (COUNT, places)
    sizes = (drawn >= 0).sum(1)
    assert set(sizes.tolist()) == set(range(2 if many else 1, places + 1))
    for row, size in zip(drawn.tolist(), sizes.tolist(), strict=True):
        asked, empty = row[:size], row[size:]
        assert asked == sorted(set(asked))  # nobody twice, in rising order
        assert set(asked) <= set(range(members))
        assert set(empty) <= {-1}
    # Everybody has the same chance.
    counts = torch.bincount(drawn[drawn >= 0], minlength=members).float()
    assert float(counts.min() / counts.max()) > 0.8


def test_half_of_the_draws_from_a_small_pyramid_ask_everybody():
    drawn = draw_members(4, COUNT, seeded())
    everybody = float((drawn >= 0).all(1).float().mean())
    assert everybody == pytest.approx(0.5 + 0.5 / 4, abs=0.03)


def test_nine_members_are_drawn_two_to_six_at_a_time():
    sizes = (draw_members(9, COUNT, seeded()) >= 0).sum(1)
    assert (int(sizes.min()), int(sizes.max())) == (2, 6)
    for size in range(2, 7):
        assert float((sizes == size).float().mean()) == pytest.approx(1 / 5, abs=0.03)


@pytest.mark.parametrize("members", [3, 8])
def test_the_seed_decides(members):
    one, again, other = (draw_members(members, 200, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    strangers = [draw_strangers(COUNT, seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(strangers[0], strangers[1])
    assert not torch.equal(strangers[0], strangers[2])
    assert float(strangers[0].float().mean()) == pytest.approx(0.25, abs=0.03)


def four_members():
    """Query 0: x y x -; query 1: - z z y. Right are y in query 0 and z in query 1."""
    return Examples(
        answers=torch.arange(8.0).view(2, 4, 1),
        relations=torch.arange(32.0).view(2, 4, 4, 1),
        clusters=torch.tensor([[0, 1, 0, NO_ANSWER], [NO_ANSWER, 1, 1, 3]]),
        question=torch.tensor([[10.0], [20.0]]),
        right=torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]),
        oracle_right=torch.tensor([1.0, 0.0]),
        hidden=(),
        questions=("first", "second"),
    )


def test_everybody_at_the_own_place():
    data = four_members()
    index, nobody = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool)
    drawn = draw(data, torch.zeros(2, 0, 3), index, all_members(data, 2), nobody)
    assert torch.equal(drawn.inputs.answers, data.answers)
    assert torch.equal(drawn.inputs.relations, data.relations)
    assert torch.equal(drawn.inputs.clusters, data.clusters)
    assert torch.equal(drawn.inputs.question, data.question)
    assert drawn.inputs.members.tolist() == [[0, 1, 2, 3]] * 2
    assert drawn.target.tolist() == [2, 2]  # the answers that begin at place 1
    assert drawn.oracle_right.tolist() == [1.0, 0.0]


def test_some_of_them():
    data = four_members()
    index = torch.tensor([1, 0, 1, 0, 1])
    members = torch.tensor([[2, 3, -1], [0, 2, 3], [0, 1, 2], [1, -1, -1], [0, 3, -1]])
    strangers = torch.tensor([False, False, True, False, False])
    components = torch.arange(24.0).view(2, 4, 3)
    drawn = draw(data, components, index, members, strangers)
    assert drawn.inputs.clusters.tolist() == [
        [0, 1, NOT_ASKED],
        [0, 0, NO_ANSWER],
        [NO_ANSWER, 1, 1],
        [0, NOT_ASKED, NOT_ASKED],
        [NO_ANSWER, 1, NOT_ASKED],
    ]
    # Nobody who is asked is right in rows 1 and 4.
    assert drawn.target.tolist() == [1, 0, 2, 1, 0]
    assert drawn.inputs.members.tolist() == [
        [2, 3, UNKNOWN],
        [0, 2, 3],
        [UNKNOWN] * 3,
        [1, UNKNOWN, UNKNOWN],
        [0, 3, UNKNOWN],
    ]
    assert drawn.inputs.answers[0, :2, 0].tolist() == [6.0, 7.0]
    assert float(drawn.inputs.relations[1, 0, 2, 0]) == float(data.relations[0, 0, 3, 0])
    assert torch.equal(drawn.inputs.components[1], components[0, [0, 2, 3]])
    assert drawn.inputs.question[:, 0].tolist() == [20.0, 10.0, 20.0, 10.0, 20.0]


def test_an_answer_that_is_missing_is_never_right():
    data = four_members()
    data.right[0, 3] = 1.0  # nonsense in the labels
    nobody = torch.zeros(1, dtype=torch.bool)
    drawn = draw(data, torch.zeros(2, 0, 3), torch.tensor([0]), torch.tensor([[0, 3]]), nobody)
    assert drawn.target.tolist() == [0]
