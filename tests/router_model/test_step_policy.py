"""Which step is worth most."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.set_scores import SET_COLUMNS
from pyramid_moa.router_model.state_values import (
    Ridge,
    StateValues,
    reachable_sets,
    single_members,
    steps_from,
)
from pyramid_moa.router_model.step_policy import StepPolicy

DIAL = np.array([1.0, 0.1, 0.0])


QUESTION = 3


def constant(subset, *worth):
    """A regression that says the same of everybody."""
    width = SET_COLUMNS if subset else QUESTION
    return Ridge(
        centre=np.zeros(width),
        scale=np.ones(width),
        slopes=np.zeros((width, len(worth))),
        offsets=np.array(worth),
    )


def policy_of(groups, stop, oracle=0.9, later=None):
    """Members a and b; the same expectations in every set, but for ``later``."""
    ridges = {}
    for subset in reachable_sets(groups):
        left = steps_from(subset, groups)
        worth = [later.get(groups[place], 0.0) if later else 0.0 for place in left]
        repeated = [value for value in worth for _ in DIAL]
        ridges[subset] = constant(subset, stop, oracle, *repeated)
    prices = np.array([0.1 * group.bit_count() for group in groups] + [1.0])
    values = StateValues(ridges=ridges, groups=tuple(groups), dial=DIAL, prices=prices)
    return StepPolicy(members=("a", "b"), oracle="o", values=values)


def step(policy, asked=(), *, answered=True, worth=0.1, allowed=None):
    columns = np.zeros((1, SET_COLUMNS if asked else QUESTION))
    return policy.next_step(
        asked, columns, answered=answered, worth_of_a_call=worth, allowed=allowed
    )


def test_what_is_worth_most_is_done():
    policy = policy_of(single_members(2), stop=0.7)
    assert step(policy).models == ("o",)  # .9 - .1 is more than .7
    assert step(policy).worth == pytest.approx(0.8)
    assert step(policy, worth=1.0).models == ()  # and at a dear oracle it is not
    member = policy_of(single_members(2), stop=0.7, later={0b10: 0.95})
    assert step(member).models == ("b",)  # .95 less a tenth of the oracle's price
    assert step(member).worth == pytest.approx(0.94)
    assert step(member, ["b"]).models == ("o",)


def test_the_nearest_setting_is_taken():
    policy = policy_of(single_members(2), stop=0.85)
    assert step(policy, worth=0.08).models == ()
    assert step(policy, worth=0.02).models == ("o",)


def test_where_nothing_can_be_said_the_oracle_is_asked():
    policy = policy_of(single_members(2), stop=0.7, later={0b01: 0.75})
    for answered in (True, False):
        columns = np.full((1, SET_COLUMNS), np.nan)
        chosen = policy.next_step(["a"], columns, answered=answered, worth_of_a_call=0.1)
        assert chosen.models == ("o",)


def test_the_oracle_every_time_unless_a_budget_forbids_it():
    policy = policy_of(single_members(2), stop=0.99)
    assert step(policy, worth=-1.0).models == ("o",)
    assert step(policy, ["a"], worth=-1.0).models == ("o",)
    bound = step(policy, ["a"], worth=-1.0, allowed=lambda models: "o" not in models)
    assert (bound.models, bound.limited) == ((), True)


def test_nothing_is_stopped_with_before_there_is_an_answer():
    policy = policy_of(single_members(2), stop=0.99, later={0b01: 0.5, 0b10: 0.4})
    assert step(policy, answered=False, worth=1.0).models == ("a",)


def test_a_budget_forbids():
    policy = policy_of(single_members(2), stop=0.7, later={0b01: 0.75})
    free = step(policy)
    assert (free.models, free.limited) == (("o",), False)
    bound = step(policy, allowed=lambda models: "o" not in models)
    assert (bound.models, bound.limited) == (("a",), True)
    broke = step(policy, allowed=lambda models: False)
    assert (broke.models, broke.limited) == ((), True)
    nothing = step(policy, answered=False, allowed=lambda models: False)
    assert (nothing.models, nothing.limited) == ((), True)


def test_members_may_be_asked_together():
    groups = [0b01, 0b10, 0b11]
    policy = policy_of(groups, stop=0.5, later={0b11: 0.95, 0b01: 0.6})
    assert step(policy).models == ("a", "b")
    assert step(policy, ["a"]).models == ("o",)  # the rest of a group is not a group


def read(tensors, members):
    return StepPolicy.from_tensors(
        tensors, members=members, oracle="o", question_features=QUESTION, source="x"
    )


def test_written_and_read():
    policy = policy_of([0b01, 0b10, 0b11], stop=0.7, later={0b10: 0.9})
    again = read(policy.tensors(), ["a", "b"])
    assert (again.members, again.oracle) == (policy.members, policy.oracle)
    for asked in ([], ["a"], ["b"], ["a", "b"]):
        assert step(again, asked) == step(policy, asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("dial"), "are not whole"),
        (lambda t: t.pop("3/slopes"), "are not whole"),
        (lambda t: t.update(groups=np.array([1, 2, 8])), "expected groups of 2 members"),
        (lambda t: t.update(groups=np.array([1, 1])), "expected groups of 2 members"),
        (lambda t: t.update(groups=np.array([1])), "do not fit each other"),
        (lambda t: t.update(dial=np.zeros(0)), "do not fit each other"),
        (lambda t: t.update(prices=np.zeros(7)), "do not fit each other"),
        (lambda t: t.update({"0/scale": np.zeros(QUESTION)}), "do not fit each other"),
        (lambda t: t.update({"1/centre": np.zeros(4)}), "do not fit each other"),
        (lambda t: t.update(groups=np.array([1.0, 2.0])), "of other types or sizes: groups"),
        (lambda t: t.update(dial=np.zeros(3, np.float32)), "of other types or sizes: dial"),
        (lambda t: t.update(groups=np.ones(200, np.int64)), "of other types or sizes: groups"),
        (lambda t: t.update({"0/offsets": np.full(8, np.nan)}), "do not fit each other"),
        (lambda t: t.update(more=np.zeros(1)), "do not fit each other"),
    ],
)
def test_what_is_not_whole_is_refused(change, message):
    tensors = policy_of([0b01, 0b10], stop=0.7).tensors()
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        read(tensors, ["a", "b"])


def test_more_members_than_can_be_gone_through_are_refused():
    tensors = policy_of([0b01, 0b10], stop=0.7).tensors()
    with pytest.raises(CheckpointError, match="expected groups of 8 members"):
        read(tensors, list("abcdefgh"))


def test_sets_that_can_be_come_to():
    assert reachable_sets([0b001, 0b110]) == [0b000, 0b001, 0b110, 0b111]
    assert reachable_sets(single_members(2)) == [0, 1, 2, 3]
    policy = policy_of([0b01, 0b10], stop=0.5)
    assert replace(policy.values, groups=(0b11,)).groups == (0b11,)


def test_a_step_is_chosen_in_no_time():
    import time

    groups = reachable_sets(single_members(5))[1:]
    prices = np.ones(len(groups) + 1)
    ridges = {}
    for subset in reachable_sets(groups):
        width = 2 + len(steps_from(subset, groups)) * 51
        ridges[subset] = Ridge(
            centre=np.zeros(8), scale=np.ones(8), slopes=np.ones((8, width)), offsets=np.ones(width)
        )
    values = StateValues(
        ridges=ridges, groups=tuple(groups), dial=np.linspace(1, 0, 51), prices=prices
    )
    policy = StepPolicy(members=tuple("abcde"), oracle="o", values=values)
    columns = np.ones((1, 8))
    times = []
    for _ in range(200):
        started = time.perf_counter()
        policy.next_step([], columns, answered=True, worth_of_a_call=0.1)
        times.append(time.perf_counter() - started)
    assert sorted(times)[20] < 0.0002  # seconds, in a quiet moment
