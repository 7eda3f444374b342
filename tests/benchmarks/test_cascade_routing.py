"""What the authors' cascade routing is given, and how its choices are counted."""

from types import SimpleNamespace

import numpy as np
import pytest
from cascade_routing import expected_correctness, their_choices

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.baselines.rule_run import rule_run


@pytest.fixture(scope="module")
def data(labelled_run):
    return rule_run(read_labelled_run(labelled_run))


class Router:
    """Asks the cheapest member; while lambda is small the oracle too, whose answer it gives."""

    def __init__(self, *, models, quality_computer, **_):
        self.models = models

    def predict(self, questions, answers):
        ((*members, oracle),) = answers
        if members[0] is None:
            return [self.models[0]]
        return [self.models[-1] if oracle is None and self.lambdas[0] < 1 else None]

    def select_answer(self, questions, answers):
        return [self.models[-1 if answers[0][-1] else 0]]


def test_every_call_is_paid_for_and_the_answer_given_is_judged(data):
    train, test = np.arange(0, 160), np.arange(160, 240)
    theirs = SimpleNamespace(
        router=Router,
        quality=lambda *_: SimpleNamespace(fit_covariances=lambda *_: None),
        cost=lambda mean: mean,
    )
    correct, cost = their_choices(data, train, test, theirs, np.array([2.0, 0.5]))
    cheapest = data.cost[train, :-1].mean(axis=0).argmin()
    assert (correct[0] == data.correct[test, cheapest]).all()
    assert cost[0] == pytest.approx(data.cost[test, cheapest])
    assert (correct[1] == data.correct[test, data.oracle]).all()
    assert cost[1] == pytest.approx(data.cost[test, cheapest] + data.cost[test, data.oracle])


def test_what_members_say_moves_the_estimates_and_the_oracles_answer_does_not(data):
    train, test = np.arange(0, 160), np.arange(160, 240)
    models = [2, 0, 1, data.oracle]
    of = expected_correctness(data, train, models)
    nobody, everybody = frozenset(), frozenset((0, 1, 2))

    def error(answered):
        own = np.array([of(position, answered) for position in test])
        return float(np.square(own - data.correct[test][:, models]).mean())

    assert of(0, nobody).shape == (4,)
    assert error(everybody) < 0.8 * error(nobody)
    assert (of(200, everybody | {3}) == of(200, everybody)).all()
