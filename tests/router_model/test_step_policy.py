"""Which step is worth most."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.set_scores import SET_COLUMNS
from pyramid_moa.router_model.state_values import (
    Ridge,
    StateValues,
    larger_sets,
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


def no_oracle(groups):
    return all("o" not in models for models in groups)


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
    bound = step(policy, ["a"], worth=-1.0, allowed=no_oracle)
    assert (bound.models, bound.limited) == ((), True)


def test_nothing_is_stopped_with_before_there_is_an_answer():
    policy = policy_of(single_members(2), stop=0.99, later={0b01: 0.5, 0b10: 0.4})
    assert step(policy, answered=False, worth=1.0).models == ("a",)


def test_a_budget_forbids():
    policy = policy_of(single_members(2), stop=0.7, later={0b01: 0.75})
    free = step(policy)
    assert (free.models, free.limited) == (("o",), False)
    bound = step(policy, allowed=no_oracle)
    assert (bound.models, bound.limited) == (("a",), True)
    broke = step(policy, allowed=lambda groups: False)
    assert (broke.models, broke.limited) == ((), True)
    nothing = step(policy, answered=False, allowed=lambda groups: False)
    assert (nothing.models, nothing.limited) == ((), True)


def planned(ends, *, groups=(0b01, 0b10), **how):
    """The same policy, which also knows how right the answers of larger sets will be."""
    policy = policy_of(list(groups), **how)
    ridges = {}
    for subset in reachable_sets(groups):
        if larger := larger_sets(subset, reachable_sets(groups)):
            ridges[subset] = constant(subset, *(ends[one] for one in larger))
    return replace(policy, later=ridges)


def money(budget, **prices):
    """A budget of which nothing is spent."""
    return lambda groups: sum(prices[name] for group in groups for name in group) <= budget


def test_what_the_oracle_needs_is_not_spent_on_members():
    """Member a, and then the oracle, would be best; there is money for one of them."""
    prices = {"a": 1, "b": 1, "o": 10}
    how = {"stop": 0.2, "oracle": 0.9, "later": {0b01: 0.99, 0b10: 0.95}}
    policy = planned({0b01: 0.6, 0b10: 0.5, 0b11: 0.7}, **how)
    free = step(policy, worth=0.0)
    assert (free.models, free.limited) == (("a",), False)
    enough = step(policy, worth=0.0, allowed=money(11, **prices))
    assert (enough.models, enough.worth, enough.limited) == (("a",), free.worth, False)
    short = step(policy, worth=0.0, allowed=money(10, **prices))
    assert (short.models, short.worth, short.limited) == (("o",), 0.9, True)
    # Where members alone are as good they are asked.
    sure = planned({0b01: 0.6, 0b10: 0.5, 0b11: 0.95}, **how)
    both = step(sure, worth=0.0, allowed=money(10, **prices))
    assert (both.models, both.worth) == (("a",), 0.95)
    unplanned = replace(policy, later={})  # as checkpoints of earlier versions
    assert step(unplanned, worth=0.0, allowed=money(10, **prices)).models == ("a",)


def test_without_the_oracle_a_step_is_worth_the_best_set_that_is_affordable():
    prices = {"a": 1, "b": 2, "o": 10}
    how = {"stop": 0.2, "oracle": 0.9, "later": {0b01: 0.99, 0b10: 0.95}}
    policy = planned({0b01: 0.5, 0b10: 0.6, 0b11: 0.8}, **how)
    both = step(policy, worth=0.1, allowed=money(3, **prices))
    assert both.models == ("a",)
    assert both.worth == pytest.approx(0.8 - 0.1 * 0.2)  # two calls at a tenth of the oracle's
    one = step(policy, worth=0.1, allowed=money(2, **prices))
    assert one.models == ("b",)  # a is as cheap, and there is no money for both
    assert one.worth == pytest.approx(0.6 - 0.1 * 0.1)
    dear = step(policy, ["a"], worth=1.0, allowed=money(2, **prices))
    assert dear.models == ("b",)  # .8 less .1 is more than .2
    kept = step(planned({0b01: 0.5, 0b10: 0.6, 0b11: 0.25}, **how), ["a"], worth=1.0)
    assert kept.models == ("b",)
    kept = step(
        planned({0b01: 0.5, 0b10: 0.6, 0b11: 0.25}, **how),
        ["a"],
        worth=1.0,
        allowed=money(2, **prices),
    )
    assert (kept.models, kept.limited) == ((), True)


def test_time_is_planned_with_as_groups_run():
    """Both together take one second, one after the other two."""

    def seconds(budget):
        return lambda groups: sum(9 if "o" in models else 1 for models in groups) <= budget

    policy = planned(
        {0b01: 0.5, 0b10: 0.6, 0b11: 0.8}, groups=(0b01, 0b10, 0b11), stop=0.2, oracle=0.9
    )
    assert step(policy, worth=0.0, allowed=seconds(1)).models == ("a", "b")
    assert step(policy, worth=0.0, allowed=seconds(1)).worth == 0.8


def test_what_nobody_can_say_is_not_waited_for():
    policy = planned({0b01: 0.5, 0b10: 0.6, 0b11: 0.8}, stop=0.2)
    columns = np.full((1, SET_COLUMNS), np.nan)
    chosen = policy.next_step(
        ["a"], columns, answered=True, worth_of_a_call=0.1, allowed=money(1, a=1, b=1, o=10)
    )
    assert (chosen.models, chosen.limited) == ((), True)


def test_what_is_to_be_expected_before_anybody_is_asked():
    policy = planned({0b01: 0.5, 0b10: 0.6, 0b11: 1.2}, stop=0.2, oracle=0.9)
    columns = np.zeros((1, QUESTION))
    scores = policy.expected(columns, ["b"], "o")
    assert (scores.p_ensemble_fails, scores.p_oracle_right) == (pytest.approx(0.4), 0.9)
    assert policy.expected(columns, ["a", "b"], "o").p_ensemble_fails == 0.0
    assert replace(policy, later={}).expected(columns, ["b"], "o") is None


def test_sets_that_a_set_can_grow_into():
    assert larger_sets(0b01, reachable_sets([0b01, 0b10])) == [0b11]
    assert larger_sets(0, reachable_sets([0b01, 0b10])) == [0b01, 0b10, 0b11]
    # The two are asked together or not at all.
    assert larger_sets(0b001, reachable_sets([0b001, 0b110])) == [0b111]
    assert larger_sets(0b111, reachable_sets([0b001, 0b110])) == []


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


def test_what_is_planned_with_is_written_and_read():
    policy = planned({0b01: 0.6, 0b10: 0.5, 0b11: 0.7}, stop=0.2, later={0b01: 0.99})
    again = read(policy.tensors(), ["a", "b"])
    bound = {"worth": 0.0, "allowed": money(10, a=1, b=1, o=10)}
    assert step(again, **bound) == step(policy, **bound)
    assert step(again, **bound).models == ("o",)
    for damage in (
        lambda t: t.pop("later/1/slopes"),
        lambda t: t.update({"later/0/offsets": np.zeros(2)}),
        lambda t: t.update({"later/3/offsets": np.zeros(2)}),
    ):
        tensors = policy.tensors()
        damage(tensors)
        with pytest.raises(CheckpointError, match="damaged"):
            read(tensors, ["a", "b"])


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


def test_a_step_at_one_setting_is_that_of_the_whole_dial():
    rng = np.random.default_rng(0)
    groups, dial = tuple(reachable_sets(single_members(3))[1:]), np.linspace(1, 0, 5)
    ridges = {}
    for subset in reachable_sets(groups):
        width = 2 + len(steps_from(subset, groups)) * len(dial)
        ridges[subset] = Ridge(
            centre=rng.normal(size=4),
            scale=np.full(4, 2.0),
            slopes=rng.normal(size=(4, width)),
            offsets=rng.normal(size=width),
        )
    prices = rng.random(len(groups) + 1)
    values = StateValues(ridges=ridges, groups=groups, dial=dial, prices=prices)
    columns, answered = rng.normal(size=(7, 4)), rng.random(7) < 0.5
    columns[0] = np.nan
    for subset in ridges:
        whole = values.step(columns, answered, subset)
        for setting in range(len(dial)):
            one = values.at_setting(subset, setting).step(columns, answered, subset)
            assert one.groups == whole.groups
            np.testing.assert_allclose(one.values[:, 0], whole.values[:, setting], rtol=1e-12)
            np.testing.assert_allclose(one.oracle, whole.oracle, rtol=1e-12)
