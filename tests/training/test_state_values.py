"""What sets of members are worth."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.router_model.state_values import larger_sets, reachable_sets, single_members
from pyramid_moa.router_model.step_policy import StepPolicy
from pyramid_moa.training.baselines.rule_run import RuleRun, rule_run
from pyramid_moa.training.baselines.stepwise import fit_steps
from pyramid_moa.training.baselines.subset_votes import members_of, subset_vote
from pyramid_moa.training.state_fit import (
    _fit_ridge,
    _left_out,
    fit_later_stops,
    fit_state_values,
)
from pyramid_moa.training.state_walk import walk


@dataclass(frozen=True)
class Votes:
    """Every query of a run, known by its votes alone."""

    data: RuleRun

    @property
    def members(self):
        return self.data.members

    def columns(self, subset):
        if not subset:
            return np.zeros((self.data.n, 0))
        return subset_vote(self.data, subset).features

    def answer(self, subset):
        return subset_vote(self.data, subset).answer if subset else np.full(self.data.n, -1)


class Silent(Votes):
    """Nobody ever answers."""

    def answer(self, subset):
        return np.full(self.data.n, -1)


@pytest.fixture(scope="module")
def data(labelled_run):
    return rule_run(read_labelled_run(labelled_run))


def values_of(data, lambdas, **how):
    evidence = Votes(data)
    dial = np.array(lambdas)
    return fit_steps(evidence, data, np.arange(data.n), dial=dial, penalty=10.0, **how)


def step_of(values, evidence, subset):
    return values.step(evidence.columns(subset), evidence.answer(subset) >= 0, subset)


def test_votes_of_subsets(data):
    assert members_of(0b101) == [0, 2]
    for member in range(3):
        alone = subset_vote(data, 1 << member)
        assert (alone.answer == member).all()
    assert (subset_vote(data, 0b111).answer == data.vote).all()
    pair = subset_vote(data, 0b110)
    # Two that differ tie; the one listed first wins, unless it alone gave no answer.
    first = data.clusters[:, 1] >= 0
    assert (pair.answer[first] == 1).all()


def test_qualities_are_about_the_observed_shares(data):
    values = values_of(data, [0.1])
    for subset in range(1, 8):
        step = step_of(values, Votes(data), subset)
        right = data.correct[np.arange(data.n), subset_vote(data, subset).answer]
        assert step.stop.mean() == pytest.approx(right.mean(), abs=0.03)
        assert step.oracle.mean() == pytest.approx(data.correct[:, data.oracle].mean(), abs=0.03)
        # Whether the vote is right is told apart better than by its mean.
        assert np.mean((step.stop - right) ** 2) < right.var() + 1e-9


def test_steps(data):
    values = values_of(data, [0.0, 200.0])
    start = step_of(values, Votes(data), 0)
    assert np.isneginf(start.stop).all()  # nobody has answered
    assert start.groups == [0, 1, 2]
    assert start.values.shape == (5, 2, data.n)
    # With money no object the best step is worth more than any member; else the cheapest is taken.
    assert (start.values[:, 0].max(axis=0) >= start.values[:, 1].max(axis=0)).all()
    cheapest = int(data.cost[:, :3].mean(axis=0).argmin())
    assert (start.values[:, 1].argmax(axis=0) == 2 + cheapest).all()
    last = step_of(values, Votes(data), 0b111)
    assert last.groups == []
    assert (last.values[:, 1].argmax(axis=0) == 0).all()  # the oracle is too dear


def test_a_dearer_oracle_is_worth_less(data):
    """The unit of lambda is the price of an oracle call, so members become cheap beside it."""
    dear = replace(data, cost=data.cost * [1, 1, 1, 10], _remembered={})
    first, second = (values_of(own, [0.5]).prices for own in (data, dear))
    assert first[-1] == second[-1] == 1.0
    assert second[:3] == pytest.approx(first[:3] / 10)


def test_what_going_on_is_worth_is_told_without_the_query_itself(data):
    evidence, right = Votes(data), data.correct.astype(np.float64)
    columns, targets = evidence.columns(0b011), right[:, :2]
    left_out = _left_out(_fit_ridge(columns, targets, 10.0), columns, targets, 10.0)
    scale = np.where(columns.std(axis=0) > 1e-12, columns.std(axis=0), 1.0)
    design = np.column_stack([np.ones(data.n), (columns - columns.mean(axis=0)) / scale])
    penalties = 10.0 * np.diag([0.0, *np.ones(columns.shape[1])])
    for query in (0, 7, data.n - 1):
        others = np.delete(np.arange(data.n), query)
        gram = design[others].T @ design[others] + penalties
        fitted = np.linalg.solve(gram, design[others].T @ targets[others])
        assert left_out[query] == pytest.approx(design[query] @ fitted, abs=1e-9)


class Noise:
    """Queries of which nothing can be known; two members, right half the time, and an oracle."""

    members = 2

    def __init__(self, rng, n):
        self.n = n
        self.correct = rng.random((n, 3)) < [0.5, 0.5, 0.6]
        self._columns = {subset: rng.normal(size=(n, 8)) for subset in (1, 2, 3)}

    def columns(self, subset):
        return self._columns[subset] if subset else np.zeros((self.n, 0))

    def answer(self, subset):
        return np.full(self.n, (-1, 0, 1, 0)[subset])


def test_what_going_on_is_said_to_be_worth_is_found_on_other_queries():
    """No noise is taken for a reason to go on: in the mean of forty fits, within the error."""
    rng = np.random.default_rng(0)
    prices, dial = np.array([0.1, 3.0, 1.0]), np.array([0.2])  # whom to ask first is no question
    too_much = []
    for _ in range(40):
        seen, others = Noise(rng, 100), Noise(rng, 4000)
        values = fit_state_values(
            seen,
            seen.correct,
            groups=single_members(2),
            prices=prices,
            dial=dial,
            penalty=1.0,
            realised=True,
        )
        said = step_of(values, seen, 0).values[:, 0, 0].max()
        walked = walk(values, others)
        right = np.take_along_axis(others.correct, walked.answer.T, axis=1)
        too_much.append(said - (right[:, 0] - walked.called[0] @ prices * dial[0]).mean())
    error = np.std(too_much) / np.sqrt(len(too_much))
    assert np.mean(too_much) < 2 * error


def test_what_larger_sets_will_be_worth(data):
    """From every set, in the mean, what their answers then are; those of more are not told."""
    evidence, groups = Votes(data), single_members(3)
    later = fit_later_stops(evidence, data.correct, groups=groups, penalty=10.0)
    assert sorted(later) == [0, 1, 2, 3, 4, 5, 6]
    for subset, ridge in later.items():
        larger = larger_sets(subset, reachable_sets(groups))
        told = ridge.predict(evidence.columns(subset))
        for place, one in enumerate(larger):
            right = data.correct[np.arange(data.n), subset_vote(data, one).answer]
            assert told[:, place].mean() == pytest.approx(right.mean())
    # In whatever order the sets were fitted: a policy reads what is told of its own set.
    values = fit_steps(
        evidence, data, np.arange(data.n), dial=np.array([0.0]), penalty=10.0, realised=True
    )
    policy = StepPolicy(members=("a", "b", "c"), oracle="o", values=values, later=later)
    for place, name in enumerate(policy.members):
        fails = policy.expected(evidence.columns(0)[:1], [name], "o").p_ensemble_fails
        assert 1.0 - fails == pytest.approx(data.correct[:, place].mean())
    silent = fit_later_stops(Silent(data), data.correct, groups=groups, penalty=10.0)
    assert (silent[0].predict(evidence.columns(0)) == 0).all()


def test_a_set_without_an_answer_is_never_stopped_with(data):
    evidence = Silent(data)
    values = fit_steps(
        evidence, data, np.arange(data.n), dial=np.array([100.0]), penalty=10.0, realised=True
    )
    choices = walk(values, evidence)
    assert (choices.answer == data.oracle).all()
    assert choices.called[..., data.oracle].all()
