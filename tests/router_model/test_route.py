"""Ways through the pyramid, step after step."""

from dataclasses import replace

import numpy as np
import pytest

from pyramid_moa.records import Generation
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.route import Guide, Route
from pyramid_moa.router_model.state_values import (
    Ridge,
    StateValues,
    larger_sets,
    reachable_sets,
    single_members,
    steps_from,
)
from pyramid_moa.router_model.step_policy import StepPolicy

TIERS = [["a", "b", "c"], ["oracle"]]
NEVER = OperatingPoint(name="never", threshold=1.0, target="")


def said(model, answer, error=None):
    return Generation(query_id="q", model=model, answer=answer, response=answer, error=error)


def give(route, **answers):
    route.receive(
        {
            name: said(name, answer, None if answer is not None else "gone")
            for name, answer in answers.items()
        }
    )


def vote_route(point=None, **how):
    point = point or OperatingPoint(name="vote", threshold=1e-9, target="")
    return Route(Guide(tiers=TIERS, point=point, equal=str.__eq__), "What?", **how)


def test_the_vote_rule():
    route = vote_route()
    assert route.wanted == ("a", "b", "c")
    give(route, a="5", b="5", c="6")
    assert route.wanted == ("oracle",)
    give(route, oracle="7")
    assert route.wanted == ()
    assert (route.answered_by, route.escalated, route.outvoted) == ("oracle", True, False)
    assert route.path == [("a", "b", "c"), ("oracle",)]


def test_content_with_the_members():
    route = vote_route()
    give(route, a="6", b="5", c="5")
    route = vote_route(NEVER)
    give(route, a="6", b="5", c="5")
    assert route.wanted == ()
    assert (route.answered_by, route.escalated) == ("b", False)


def test_an_oracle_in_vain():
    route = vote_route()
    give(route, a="6", b="5", c="5")
    give(route, oracle=None)
    assert route.degraded
    assert route.answered_by == "b"
    nobody = vote_route()
    give(nobody, a=None, b=None, c=None)
    assert nobody.wanted == ("oracle",)
    give(nobody, oracle=None)
    assert nobody.answered_by is None


def test_no_budget_for_the_oracle():
    route = vote_route(allowed=lambda groups: all("oracle" not in models for models in groups))
    give(route, a="6", b="5", c="5")
    assert (route.wanted, route.limited, route.answered_by) == ((), True, "b")


def calls(number):
    """A budget of so many calls in all."""
    return lambda groups: sum(len(models) for models in groups) <= number


def test_members_do_not_spend_what_the_oracle_needs():
    assert vote_route(allowed=calls(4)).wanted == ("a", "b", "c")
    # The vote rule knows nothing of a question: the members may agree.
    assert vote_route(allowed=calls(3)).wanted == ("a", "b", "c")
    few = vote_route(NEVER, allowed=calls(2))
    assert (few.wanted, few.limited) == (("a", "b"), True)


def test_what_is_known_of_other_members_says_nothing(stepwise):
    point = OperatingPoint(name="p", threshold=0.0, target="")
    steps = stepwise.router.steps
    for others in ({"members": ("x", "y", "z")}, {"oracle": "another"}):
        later = {0: steps.values.ridges[0]}
        stepwise.router.steps = replace(steps, later=later, **others)
        route = Route(replace(stepwise, point=point), "What?", allowed=calls(3))
        assert route.wanted == ("a", "b", "c")


@pytest.mark.parametrize(
    ("rule", "threshold", "wanted"),
    [
        ("failure", 0.2, ("oracle",)),
        ("failure", 0.4, ("a", "b", "c")),
        ("gain", 0.1, ("oracle",)),
        ("gain", 0.3, ("a", "b", "c")),
    ],
)
def test_the_question_says_whether_members_or_the_oracle_are_the_better_buy(
    stepwise, rule, threshold, wanted
):
    """All three are expected to be right at 0.7, the oracle at 0.9; there is room for either."""
    point = OperatingPoint(name="p", threshold=threshold, target="", rule=rule)
    router = stepwise.router
    first = router.steps.values.ridges[0]
    right = [0.7 if one == 0b111 else 0.1 for one in larger_sets(0, router.steps.values.ridges)]
    width = len(first.centre)
    ridge = replace(first, slopes=np.zeros((width, len(right))), offsets=np.array(right))
    first.offsets[1] = 0.9
    router.steps = replace(router.steps, later={0: ridge})
    route = Route(replace(stepwise, point=point), "What?", allowed=calls(3))
    assert route.wanted == wanted


def outvoting(router, *, margin, oracle_right, answer="7"):
    """A route whose ensemble is believed as the router does, the oracle as it is told."""
    point = OperatingPoint(name="p", threshold=-1.0, target="", outvote=margin)
    route = Route(Guide(tiers=TIERS, point=point, equal=str.__eq__, router=router), "What?")
    give(route, a="5", b="5", c="6")
    scores = replace(route.belief.scores, p_ensemble_fails=0.2, p_oracle_right=oracle_right)
    route.belief = replace(route.belief, scores=scores)
    give(route, oracle=answer)
    return route


def test_a_sure_ensemble_outvotes_an_unsure_oracle(make_router):
    router = make_router()
    kept = outvoting(router, margin=0.5, oracle_right=0.6)
    assert kept.outvoted
    assert kept.answered_by in ("a", "b", "c")
    own = kept.generations[kept.belief.supporter].answer
    assert not outvoting(router, margin=0.5, oracle_right=0.6, answer=own).outvoted  # they agree
    assert not outvoting(router, margin=0.5, oracle_right=0.8).outvoted
    assert not outvoting(router, margin=None, oracle_right=0.1).outvoted
    gone = outvoting(router, margin=0.5, oracle_right=0.1, answer=None)
    assert gone.degraded  # a call that failed is no answer that could be outvoted
    assert not gone.outvoted


@pytest.fixture
def stepwise(make_router):
    """A router that asks c, then a, then the oracle, unless the answers are to be trusted."""
    router = make_router()
    groups = single_members(3)
    order = {0: 0b100, 0b100: 0b001}
    ridges = {}
    for subset in reachable_sets(groups):
        left = [groups[place] for place in steps_from(subset, groups)]
        wanted = order.get(subset)
        worth = [0.5, 0.3 if wanted else 0.9, *(0.9 if g == wanted else 0.1 for g in left)]
        width = len(router.question_columns("What?")[0]) if subset == 0 else 8
        ridges[subset] = Ridge(
            centre=np.zeros(width),
            scale=np.ones(width),
            slopes=np.zeros((width, len(worth))),
            offsets=np.array(worth),
        )
    values = StateValues(
        ridges=ridges,
        groups=tuple(groups),
        dial=np.array([0.1]),
        prices=np.array([0.1, 0.1, 0.1, 1.0]),
    )
    router.steps = StepPolicy(members=("a", "b", "c"), oracle="oracle", values=values)
    point = OperatingPoint(name="s", threshold=0.1, target="", policy="sequential")
    return Guide(tiers=TIERS, point=point, equal=str.__eq__, router=router)


def test_step_by_step(stepwise):
    route = Route(stepwise, "What?")
    assert route.wanted == ("c",)
    assert route.belief is None
    give(route, c="5")
    assert route.wanted == ("a",)
    assert route.belief.models == ("c",)
    give(route, a="5")
    assert route.belief.models == ("a", "c")  # in the order of the pyramid, not of the asking
    assert route.wanted == ("oracle",)
    give(route, oracle="7")
    assert route.wanted == ()
    assert route.path == [("c",), ("a",), ("oracle",)]
    assert route.answered_by == "oracle"


def test_members_are_asked_where_an_oracle_asked_first_fails(stepwise):
    guide = replace(stepwise, point=replace(stepwise.point, threshold=-1.0))
    route = Route(guide, "What?")
    assert route.wanted == ("oracle",)
    give(route, oracle=None)
    assert route.wanted == ("a", "b", "c")
    give(route, a="5", b="5", c="6")
    assert route.wanted == ()
    assert route.degraded
    assert route.answered_by in ("a", "b", "c")
    fine = Route(guide, "What?")
    give(fine, oracle="7")
    assert (fine.wanted, fine.answered_by) == ((), "oracle")


def test_a_member_that_fails_was_asked_all_the_same(stepwise):
    route = Route(stepwise, "What?")
    give(route, c=None)
    assert route.wanted == ("a",)
    assert route.belief.supporter is None
    give(route, a="5")
    assert route.belief.supporter == "a"


def test_a_budget_turns_the_way(stepwise):
    route = Route(stepwise, "What?", allowed=lambda groups: groups == [("b",)])
    assert route.wanted == ("b",)
    assert route.limited
    give(route, b="5")
    assert route.wanted == ()
    assert route.answered_by == "b"
    broke = Route(stepwise, "What?", allowed=lambda groups: False)
    assert (broke.wanted, broke.answered_by, broke.limited) == ((), None, True)
