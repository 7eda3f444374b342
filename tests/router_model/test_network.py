"""The network: neither order nor number of members matters, unknown values do no harm."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softmax

from pyramid_moa.router_model.features import NO_ANSWER, NOT_ASKED
from pyramid_moa.router_model.network import (
    HEADS,
    UNKNOWN,
    NetworkInputs,
    NetworkShape,
    RouterNetwork,
    chosen_places,
    head_logits,
)
from pyramid_moa.router_model.vote_figures import same_answers

MEMBERS = 4


def network(hidden=(), **changes):
    sizes = {
        "answer_features": 5,
        "relation_features": 2,
        "question_features": 3,
        "members": MEMBERS,
        "hidden_sizes": hidden,
        "components": 3,
        "code": 4,
        "units": 6,
        "seeds": 2,
    }
    made = RouterNetwork(NetworkShape(**(sizes | changes))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
        made.skills.normal_(generator=generator)
        made.habits.normal_(generator=generator)
        made.calibration.copy_(torch.tensor([[1.2, 0.1], [0.9, -0.2], [1.1, 0.3]]))
    return made


def inputs(count=60, *, seed=0, members=MEMBERS, kinds=(NO_ANSWER, NOT_ASKED), components=0):
    """Random queries; the answers of those who were not asked are unknown."""
    generator = torch.Generator().manual_seed(seed)
    relations = torch.randn(count, members, members, 2, generator=generator)
    relations = relations + relations.transpose(1, 2)
    relations[:, range(members), range(members)] = torch.nan
    answers = torch.randn(count, members, 5, generator=generator)
    answers[torch.rand(answers.shape, generator=generator) < 0.2] = torch.nan
    drawn = torch.randint(min([0, *kinds]), members, (count, members), generator=generator)
    clusters = same_answers(drawn)
    clusters[:, 0] = torch.where(clusters[:, 0] < 0, 0, clusters[:, 0])
    clusters = same_answers(clusters)
    absent = clusters == NOT_ASKED
    answers[absent] = torch.nan
    relations[absent] = torch.nan
    relations.transpose(1, 2)[absent] = torch.nan
    return NetworkInputs(
        answers=answers,
        relations=relations,
        clusters=clusters,
        question=torch.randn(count, 3, generator=generator),
        members=torch.arange(members).expand(count, -1).clone(),
        components=torch.randn(count, members, 3, generator=generator)
        if components
        else torch.zeros(count, 0, 3),
    )


def places(given, order, **changes):
    """The same queries with their members in another order, or with some of them only."""
    order = torch.as_tensor(order)
    moved = NetworkInputs(
        answers=given.answers[:, order],
        relations=given.relations[:, order][:, :, order],
        clusters=same_answers(given.clusters[:, order]),
        question=given.question,
        members=given.members[:, order],
        components=given.components[:, order] if given.components.shape[1] else given.components,
    )
    return replace(moved, **changes)


def by_member(right, clusters):
    """Probability of each member's own answer, 0 where it has none: [B, M]."""
    own = right.gather(1, clusters.clamp(min=0))
    return torch.where(clusters < 0, 0.0, own)


def untied(given):
    """Where one answer has more votes than every other."""
    votes = torch.stack([(given.clusters == c).sum(1) for c in range(MEMBERS)], dim=1)
    return (votes == votes.amax(1, keepdim=True)).sum(1) == 1


@pytest.mark.parametrize("hidden", [(), (6,) * MEMBERS])
def test_probabilities_of_all_heads(hidden):
    with torch.no_grad():
        out, right = network(hidden).probabilities(inputs(components=len(hidden)))
    assert out.shape == (60, len(HEADS))
    assert right.shape == (60, MEMBERS)
    assert bool(((out > 0) & (out < 1)).all())
    assert out.std(0).min() > 0.01


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)])
@pytest.mark.parametrize("hidden", [(), (6,) * MEMBERS])
def test_the_order_of_members_does_not_matter(order, hidden):
    made, given = network(hidden), inputs(components=len(hidden))
    moved = places(given, order)
    with torch.no_grad():
        out, right = made.probabilities(given)
        other, others_right = made.probabilities(moved)
    fails, oracle = HEADS.index("ensemble_fails"), HEADS.index("oracle_right")
    assert torch.allclose(out[:, [fails, oracle]], other[:, [fails, oracle]], atol=1e-6)
    assert torch.allclose(
        by_member(right, given.clusters)[:, list(order)],
        by_member(others_right, moved.clusters),
        atol=1e-6,
    )
    # Of as many votes the first listed wins: only there the order decides who the majority is.
    clear = untied(given)
    assert 10 < int(clear.sum()) < 60
    assert torch.allclose(out[clear], other[clear], atol=1e-6)


def test_who_the_members_are_does_matter():
    made, given = network(), inputs()
    with torch.no_grad():
        one, _ = made.probabilities(given)
        other, _ = made.probabilities(replace(given, members=given.members.flip(1)))
    assert not torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("hidden", [(), (6,) * MEMBERS])
@pytest.mark.parametrize("absent", range(MEMBERS))
def test_a_member_that_was_not_asked_might_not_be_there(absent, hidden):
    made, given = network(hidden), inputs(components=len(hidden))
    given.clusters[:, absent] = NOT_ASKED
    silent = replace(given, clusters=same_answers(given.clusters))
    left = [place for place in range(MEMBERS) if place != absent]
    short = places(silent, left)
    with torch.no_grad():
        out, right = made.probabilities(silent)
        other, others_right = made.probabilities(short)
    assert torch.allclose(out, other, atol=1e-6)
    assert torch.allclose(right[:, left], others_right, atol=1e-6)
    assert not right[:, absent].any()


def test_what_stands_at_an_empty_place_does_not_matter():
    made, given = network(), inputs()
    empty = given.clusters == NOT_ASKED
    assert empty.any()
    with torch.no_grad():
        out, right = made.probabilities(given)
        for members in (given.members, torch.where(empty, UNKNOWN, given.members)):
            noisy = replace(
                given,
                answers=torch.where(empty[..., None], 7.0, given.answers),
                relations=torch.where(
                    empty[:, :, None, None] | empty[:, None, :, None], -3.0, given.relations
                ),
                members=members,
            )
            other, others_right = made.probabilities(noisy)
            assert torch.equal(out, other)
            assert torch.equal(right, others_right)


@pytest.mark.parametrize("extra", [1, 3])
def test_more_empty_places_do_not_matter(extra):
    made, given = network(), inputs(members=3)

    def padded(values, dims, fill):
        for dim in dims:
            shape = list(values.shape)
            shape[dim] = extra
            values = torch.cat([values, torch.full(shape, fill, dtype=values.dtype)], dim=dim)
        return values

    longer = NetworkInputs(
        answers=padded(given.answers, [1], torch.nan),
        relations=padded(given.relations, [1, 2], torch.nan),
        clusters=padded(given.clusters, [1], NOT_ASKED),
        question=given.question,
        members=padded(given.members, [1], UNKNOWN),
        components=given.components,
    )
    with torch.no_grad():
        out, right = made.probabilities(given)
        other, others_right = made.probabilities(longer)
    assert torch.allclose(out, other, atol=1e-6)
    assert torch.allclose(right, others_right[:, :3], atol=1e-6)


def test_one_network_shares_one_out_among_nobody_and_the_answers():
    made, given = network(seeds=1), inputs()
    with torch.no_grad():
        logits = made.logits(given)
        out, right = made.probabilities(given)
    share = softmax(logits.candidates, dim=-1)[0]
    assert logits.candidates.shape == (1, 60, 1 + MEMBERS)
    assert torch.allclose(share.sum(1), torch.ones(60), atol=1e-6)
    begins = given.clusters == torch.arange(MEMBERS)
    assert not right[~begins].any()
    assert bool((right[begins] > 0).all())
    # The calibrated failure of the best is that of what the best leaves to the others.
    slope, offset = made.calibration[0]
    expected = torch.sigmoid(torch.logit(1 - right.amax(1)) * slope + offset)
    assert torch.allclose(out[:, 0], expected, atol=1e-5)


def test_where_nobody_answered_nobody_is_right():
    given = inputs(8)
    given.clusters[:4] = NO_ANSWER
    given.clusters[4:] = NOT_ASKED
    made = network()
    made.calibration.copy_(torch.tensor([[1.0, 0.0]] * len(HEADS)))
    with torch.no_grad():
        out, right = made.probabilities(given)
    assert not right.any()
    assert bool((out[:, :2] > 0.999).all())
    assert bool(torch.isfinite(out).all())


def test_the_heads_of_one_query_by_hand():
    """Members 1 and 2 agree; the answer of member 0 is believed more."""
    right = torch.tensor([[0.1, 0.6, 0.3, 0.0]])
    oracle = torch.logit(torch.tensor([[[0.5, 0.9]], [[0.7, 0.9]]]))
    logits = head_logits(right, oracle, torch.tensor([[0, 1, 1]]))
    assert torch.sigmoid(logits)[0].tolist() == pytest.approx(
        [1 - 0.6, 1 - 0.3, 0.1 * 0.6 + 0.9 * 0.9], abs=1e-6
    )


@pytest.mark.parametrize("members", [MEMBERS, 0])
def test_strangers_are_scored(members):
    made, given = network(members=members), inputs()
    strange = replace(given, members=torch.full_like(given.members, UNKNOWN))
    with torch.no_grad():
        out, _ = made.probabilities(strange)
        moved, _ = made.probabilities(places(strange, (3, 2, 1, 0)))
    assert bool(torch.isfinite(out).all())
    assert torch.allclose(out[:, 0], moved[:, 0], atol=1e-6)
    if members:
        # What is known of members has no part in it.
        made.skills.fill_(3.0)
        made.habits.fill_(3.0)
        with torch.no_grad():
            made.member_code.fill_(3.0)
            again, _ = made.probabilities(strange)
        assert torch.equal(out, again)


@pytest.mark.parametrize("hidden", [(), (6,) * MEMBERS])
def test_nothing_known_gives_finite_numbers_and_gradients(hidden):
    made, given = network(hidden), inputs(components=len(hidden))
    made.train()
    for answers, relations in (
        (given.answers, given.relations),
        (torch.full_like(given.answers, torch.nan), torch.full_like(given.relations, torch.nan)),
    ):
        made.zero_grad()
        blind = replace(given, answers=answers, relations=relations)
        out, right = made.probabilities(blind)
        assert bool(torch.isfinite(out).all())
        assert bool(torch.isfinite(right).all())
        logits = made.logits(blind)
        targets = torch.zeros(2 * 60, dtype=torch.long)
        loss = torch.nn.functional.cross_entropy(logits.candidates.flatten(0, 1), targets)
        (loss + logits.oracle.square().mean()).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
        assert made.read.weight.grad.any()


def test_inputs_far_out_are_cut():
    made, given = network(), inputs()
    with torch.no_grad():
        far, _ = made.probabilities(replace(given, answers=given.answers.sign() * 1e9))
        farther, _ = made.probabilities(replace(given, answers=given.answers.sign() * 1e12))
    assert torch.equal(far, farther)


def test_fitted_statistics_are_of_known_values():
    made, given = network(), inputs(400)
    answers = given.answers * torch.tensor([1.0, 10.0, 0.0, 1.0, 1.0]) + 3
    answers[..., 4] = torch.nan
    made.fit_inputs(answers, given.relations, given.question)
    known = ~answers[..., 1].isnan()
    assert float(made.answer_mean[1]) == pytest.approx(
        float(answers[..., 1][known].mean()), abs=1e-3
    )
    assert float(made.answer_scale[1]) == pytest.approx(
        float(answers[..., 1][known].std(correction=0)), rel=1e-3
    )
    assert float(made.answer_scale[2]) == 1.0  # a constant says nothing
    assert (float(made.answer_mean[4]), float(made.answer_scale[4])) == (0.0, 1.0)  # never known
    assert torch.allclose(made.question_mean, given.question.mean(0), atol=1e-6)
    pairs = given.relations.flatten(0, 2)
    assert torch.allclose(made.relation_mean, pairs.nanmean(0), atol=1e-5)


def test_habits_and_skills_of_known_members():
    made, given = network(), inputs(400)
    made.fit_inputs(given.answers, given.relations, given.question)
    answers = given.answers.clone()
    answers[:, 1] += 5.0
    answers[:, 2] = torch.nan
    right = torch.zeros(400, MEMBERS)
    right[:300, 0] = 1.0
    made.fit_members(answers, given.members, right)
    assert torch.allclose(made.habits[1], answers[:, 1].nanmean(0), atol=1e-4)
    assert torch.equal(made.habits[2], made.answer_mean)  # none of its answers is known
    assert made.skills[0] > 1.0 + made.skills[1]
    assert torch.isfinite(made.skills).all()
    nobody = torch.full_like(given.members, UNKNOWN)
    made.fit_members(answers, nobody, right)
    assert torch.equal(made.habits[0], made.answer_mean)


@pytest.mark.parametrize(("count", "size"), [(40, 6), (1, 6), (0, 6), (2, 6), (30, 2), (60, 1500)])
def test_hidden_states_become_uncorrelated_components(count, size):
    made = network(hidden=(size,))
    states = torch.randn(max(count, 1), size, generator=torch.Generator().manual_seed(1))
    states = states[:count] * torch.linspace(5, 0.5, size)
    states = torch.cat([states, torch.zeros(3, size)])  # who failed has none
    made.fit_hidden([states], torch.Generator().manual_seed(0))
    reduced = made.reduce([states])[:, 0]
    assert reduced.shape == (count + 3, 3)
    assert torch.allclose(made.reduce_rows([states], count + 3)[:, 0], reduced, atol=1e-6)
    assert not reduced[-3:].any()
    assert bool(torch.isfinite(reduced).all())
    if count >= 30:
        rank = min(3, size)
        spread = torch.cov(reduced[:-3, :rank].T)
        assert torch.allclose(spread, torch.eye(rank), atol=0.2)


def test_without_hidden_states_there_are_no_components():
    made = network()
    assert made.reduce_rows((), 7).shape == (7, 0, 3)
    assert made.reduce(()).shape[1:] == (0, 3)


def test_scores_do_not_hang_on_company():
    """One by one, as the router scores; a batch may round otherwise, but not by more."""
    made = network(hidden=(6,) * MEMBERS)
    given = inputs(9)
    hidden = [torch.randn(9, 6) for _ in range(MEMBERS)]
    made.fit_hidden(hidden, torch.Generator().manual_seed(0))
    parts = [getattr(given, n) for n in ("answers", "relations", "clusters", "question")]
    with torch.no_grad():
        together, right = made(*parts, *hidden)
        direct, _ = made.probabilities(replace(given, components=made.reduce(hidden)))
        assert torch.equal(together, direct)
        for row in range(9):
            alone, own = made(*(part[row : row + 1] for part in (*parts, *hidden)))
            assert torch.allclose(alone[0], together[row], atol=1e-6)
            assert torch.allclose(own[0], right[row], atol=1e-6)


def test_a_drawn_network_is_the_same_for_the_same_generator():
    first, second = network(), network()
    first.reset(torch.Generator().manual_seed(3))
    second.reset(torch.Generator().manual_seed(3))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not first.member_code.any()  # members are alike to begin with
    assert first.read.weight.std() > 0
    second.reset(torch.Generator().manual_seed(4))
    assert not torch.equal(first.read.weight, second.read.weight)


def test_a_place_without_an_answer_is_chosen_only_where_nobody_gave_one():
    clusters = torch.tensor([[NO_ANSWER, 1, 2], [NO_ANSWER, 1, 1], [NO_ANSWER] * 3])
    right = torch.tensor([[0.0, 0.2, 0.7], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert chosen_places(right, clusters).tolist() == [2, 1, 0]
