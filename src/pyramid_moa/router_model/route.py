"""One query's way through the pyramid, without any model being run: who is asked next, until when.

Evaluation walks it with stored generations and the gate with live ones, so that both decide alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyramid_moa.grading import Vote, vote
from pyramid_moa.records import Generation
from pyramid_moa.router_model.policy import (
    OperatingPoint,
    Scores,
    goes_up,
    outvotes,
    vote_scores,
)
from pyramid_moa.router_model.router import Router
from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.router_model.step_policy import Allowed, StepPolicy

__all__ = ["Belief", "Guide", "Route", "is_outvoted"]


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed of a query once some have answered.

    Attributes:
        vote: the plurality among them.
        scores: what the router, or the vote rule, makes of it.
        of_set: what the worth of further steps is read from; None for the vote rule.
        models: whose answers were read, in order.
    """

    vote: Vote
    scores: Scores
    of_set: SetScores | None
    models: tuple[str, ...]

    @property
    def supporter(self) -> str | None:
        """Who stands for the ensemble's answer: the first-listed behind it; None for nobody."""
        if self.vote.winner is None:
            return None
        choice = self.scores.choice
        return self.models[self.vote.winner if choice is None else choice]


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What decides the way of every query.

    Attributes:
        tiers: names of models: the members, each mid oracle, the oracle. A parallel policy asks the
            members at once and then the oracle; mid oracles are asked by the sequential one, which
            knows what their answers are worth.
        point: the operating point.
        equal: whether two answers are equal.
        router: scores answers; None for the vote rule.
    """

    tiers: Sequence[Sequence[str]]
    point: OperatingPoint
    equal: Callable[[str, str], bool]
    router: Router | None = None

    @property
    def oracle(self) -> str:
        """Name of the last tier's one model."""
        return self.tiers[-1][0]

    @property
    def steps(self) -> StepPolicy | None:
        """The values that a sequential policy goes by; None for a parallel one."""
        if self.point.policy == "parallel":
            return None
        assert self.router is not None
        assert self.router.steps is not None
        return self.router.steps

    def believe(self, question: str, generations: Mapping[str, Generation]) -> Belief:
        """Score what some models answered.

        Args:
            question: its text.
            generations: of those that were asked, by name, members and mid oracles in their order.
        """
        models = tuple(generations)
        if self.router is None:
            result = vote([row.answer for row in generations.values()], self.equal)
            return Belief(vote=result, scores=vote_scores(result.share), of_set=None, models=models)
        reading = self.router.read(question, generations)
        return Belief(
            vote=reading.vote, scores=reading.scores, of_set=reading.of_set, models=models
        )


def is_outvoted(
    oracle: Generation,
    own: str | None,
    scores: Scores,
    point: OperatingPoint,
    equal: Callable[[str, str], bool],
) -> bool:
    """Whether the ensemble's answer is kept against the oracle's.

    Args:
        oracle: what the oracle said; a call that failed is no answer that could be outvoted.
        own: the ensemble's answer, None where it gave none.
        scores: of the ensemble's answer.
        point: with its margin.
        equal: whether two answers are equal.
    """
    if point.outvote is None or own is None or oracle.error is not None:
        return False
    if oracle.answer is None:
        return True
    return not equal(own, oracle.answer) and outvotes(scores, point.outvote)


class Route:
    """The way of one query.

    Attributes:
        wanted: models to ask now, all at once; nobody once the query is at its end.
        generations: of everybody asked so far, by name.
        path: who was asked together, in order.
        belief: of the members' answers so far; None before there are any.
        limited: whether a budget forbade what would otherwise have been done.
    """

    def __init__(self, guide: Guide, question: str, *, allowed: Allowed | None = None) -> None:
        """Choose the first step.

        Args:
            guide: what decides.
            question: the query's text.
            allowed: whether there is a budget for asking some groups one after another; for all
                there are where it is left out.
        """
        self._guide, self._question = guide, question
        self._allowed = allowed
        self.generations: dict[str, Generation] = {}
        self.path: list[tuple[str, ...]] = []
        self.belief: Belief | None = None
        self.limited = False
        self.wanted = self._first()

    def receive(self, generations: Mapping[str, Generation]) -> None:
        """Take the answers of those that were wanted, and choose the next step.

        Args:
            generations: of everybody in ``wanted``, by name; a failed one has an error.
        """
        self.path.append(self.wanted)
        self.generations.update({name: generations[name] for name in self.wanted})
        asked_oracle = self._guide.oracle in self.wanted
        order = [name for tier in self._guide.tiers[:-1] for name in tier]
        known = {name: self.generations[name] for name in order if name in self.generations}
        if known and not asked_oracle:
            self.belief = self._guide.believe(self._question, known)
        if not self.escalated:
            self.wanted = self._next(known)
        elif asked_oracle and self.degraded and not known:
            self.wanted = self._affordable(self._guide.tiers[0])
        else:
            self.wanted = ()

    @property
    def escalated(self) -> bool:
        """Whether the oracle was asked."""
        return self._guide.oracle in self.generations

    @property
    def degraded(self) -> bool:
        """Whether the oracle was asked and failed."""
        row = self.generations.get(self._guide.oracle)
        return row is not None and row.error is not None

    @property
    def outvoted(self) -> bool:
        """Whether the ensemble's answer is kept although the oracle gave another one."""
        row = self.generations.get(self._guide.oracle)
        if row is None or self.belief is None or self.belief.supporter is None:
            return False
        own = self.generations[self.belief.supporter].answer
        return is_outvoted(row, own, self.belief.scores, self._guide.point, self._guide.equal)

    @property
    def answered_by(self) -> str | None:
        """Whose text is the final one; None where nobody gave any."""
        if self.escalated and not self.degraded and not self.outvoted:
            return self._guide.oracle
        return self.belief.supporter if self.belief is not None else None

    def _first(self) -> tuple[str, ...]:
        if self._guide.steps is not None:
            return self._step([])
        everybody, oracle = self._guide.tiers[0], self._guide.oracle
        if self._has_room([everybody, [oracle]]):
            return tuple(everybody)
        members = self._affordable(everybody)
        if members and not self._has_room([members, [oracle]]) and self._oracle_instead(members):
            self.limited = True
            return (oracle,)
        return members or self._affordable([oracle])

    def _oracle_instead(self, members: Sequence[str]) -> bool:
        """Whether to leave out members after whom the oracle would be too dear, and to ask it.

        That is where the point would go up, could it see no more than the question. Where nothing
        is known of the question the members are asked.
        """
        router, oracle = self._guide.router, self._guide.oracle
        if router is None or router.steps is None or not self._has_room([[oracle]]):
            return False
        columns = router.question_columns(self._question)
        expected = router.steps.expected(columns, members, oracle)
        return expected is not None and goes_up(expected, self._guide.point)

    def _next(self, known: Mapping[str, Generation]) -> tuple[str, ...]:
        if self._guide.steps is not None:
            return self._step(list(known))
        if self.belief is not None and not goes_up(self.belief.scores, self._guide.point):
            return ()
        return self._affordable([self._guide.oracle])

    def _affordable(self, names: Sequence[str]) -> tuple[str, ...]:
        """As many as there is a budget for, in their order."""
        chosen: list[str] = []
        for name in names:
            if self._has_room([[*chosen, name]]):
                chosen.append(name)
        self.limited = self.limited or len(chosen) < len(names)
        return tuple(chosen)

    def _has_room(self, groups: Sequence[Sequence[str]]) -> bool:
        return self._allowed is None or self._allowed(groups)

    def _step(self, known: list[str]) -> tuple[str, ...]:
        steps, router = self._guide.steps, self._guide.router
        assert steps is not None
        assert router is not None
        if self.belief is None:
            columns, answered = router.question_columns(self._question), False
        else:
            assert self.belief.of_set is not None
            columns = self.belief.of_set.columns
            answered = self.belief.supporter is not None
        chosen = steps.next_step(
            known,
            columns,
            answered=answered,
            worth_of_a_call=self._guide.point.threshold,
            allowed=self._allowed,
        )
        self.limited = self.limited or chosen.limited
        return chosen.models
