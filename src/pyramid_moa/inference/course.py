"""The course of one query: which models to ask now, what they answered, and the decision.

It runs no model and keeps no clock but the one it is told of: whoever drives it does, the gate in
batches and a server one by one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyramid_moa.backends import Completion, Failure
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.grading import Grader
from pyramid_moa.inference.budget import Budget, expected_calls
from pyramid_moa.inference.decisions import build_decision
from pyramid_moa.records import Decision, Query
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.route import Belief, Guide, Route
from pyramid_moa.router_model.router import Router

__all__ = ["Course", "Rules"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What all queries of a gate have in common.

    Attributes:
        pyramid: models, prompt, grader and prices.
        router: scores answers; None for the vote rule.
        point: the operating point.
        grader: finds and compares answers.
    """

    pyramid: Pyramid
    router: Router | None
    point: OperatingPoint
    grader: Grader

    @property
    def guide(self) -> Guide:
        """What decides the way of a query."""
        return Guide(
            tiers=self.pyramid.tiers,
            point=self.point,
            equal=self.grader.equal,
            router=self.router,
        )


class Course:
    """One query on its way.

    Attributes:
        query: what is asked.
    """

    def __init__(self, rules: Rules, query: Query, *, budget: Budget | None = None) -> None:
        """Choose the first step.

        Args:
            rules: of the gate.
            query: what is asked; its gold answer is not looked at.
            budget: its limits.

        Raises:
            ConfigError: the budget limits the time, and that of a model is not known.
        """
        # Gold is for evaluation; a gate that saw it could not be trusted.
        self.query = Query(query_id=query.query_id, question=query.question)
        self._rules = rules
        self._spent_usd = self._spent_s = 0.0
        self._members_s = self._oracle_s = 0.0
        self._budget = budget or Budget()
        typical = rules.router.card.typical_calls if rules.router is not None else {}
        self._expected = expected_calls(rules.pyramid, typical, query.question)
        self._budget.check(self._expected)
        started = time.perf_counter()
        self._route = Route(rules.guide, query.question, allowed=self._has_room)
        self._router_s = time.perf_counter() - started

    @property
    def wanted(self) -> tuple[str, ...]:
        """Models to ask now, all at once; nobody once the decision stands."""
        return self._route.wanted

    def receive(self, outcomes: Mapping[str, Completion | Failure], *, seconds: float) -> None:
        """Take what the wanted models answered.

        Args:
            outcomes: by name, of everybody in ``wanted``; one that was given up is a failure.
            seconds: that waiting for them took.
        """
        started = time.perf_counter()
        pyramid, oracle = self._rules.pyramid, self._rules.pyramid.oracle.name
        generations = {
            name: graded_generation(
                self.query, pyramid.spec(name), outcomes[name], self._rules.grader
            )
            for name in self.wanted
        }
        rows = generations.values()
        self._spent_usd += sum(row.cost_usd or 0.0 for row in rows)
        self._spent_s += max(row.latency_s or 0.0 for row in rows)
        if oracle in generations:
            self._oracle_s += seconds
        else:
            self._members_s += seconds
        self._route.receive(generations)
        self._router_s += time.perf_counter() - started

    @property
    def belief(self) -> Belief | None:
        """What is believed of the answers so far; None before there are any."""
        return self._route.belief

    @property
    def decision(self) -> Decision:
        """Of a query that wants nobody any more."""
        assert not self.wanted
        return build_decision(
            self._rules.pyramid,
            self.query.query_id,
            self._route,
            self._rules.point,
            rule="vote" if self._rules.router is None else "router",
            members_s=self._members_s,
            router_s=self._router_s,
            oracle_s=self._oracle_s,
        )

    def _has_room(self, groups: Sequence[Sequence[str]]) -> bool:
        return self._budget.leaves_room(
            groups, self._expected, spent_usd=self._spent_usd, spent_s=self._spent_s
        )
