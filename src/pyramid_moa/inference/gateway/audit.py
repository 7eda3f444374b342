"""Whether accepted answers are what the oracle would have said: a few of them are asked after."""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from pyramid_moa.backends import Completion, Failure
from pyramid_moa.data_prep.graded import graded_generation
from pyramid_moa.inference.course import Rules
from pyramid_moa.inference.gateway.promise_watch import PromiseWatch, watches_of
from pyramid_moa.inference.gateway.settings import AuditSettings
from pyramid_moa.inference.gateway.tracing import stage
from pyramid_moa.inference.gateway.upstream import Upstream
from pyramid_moa.records import Decision, Generation, Query
from pyramid_moa.router_model.policy import OperatingPoint

__all__ = ["Audit", "AuditCount", "wilson_interval"]

_log = logging.getLogger("pyramid_moa.gateway")
# Two-sided 95 %.
_Z = 1.959964
# Stakes on "differs", in units of the chance that it does not pay; small ones find small drifts.
_BETS = (0.5, 2.0, 8.0)
_MOST_AT_STAKE = 0.9
_LEVEL = 0.05
# More than enough, and still a number.
_PLENTY = 100.0
# No router is surer than that of anything.
_LEAST = 1e-4


@dataclass(kw_only=True)
class AuditCount:
    """What audits have found so far.

    Attributes:
        agree: answers equal to the oracle's.
        differ: others, those to which the oracle gave no answer included.
        failed: the oracle could not be asked.
        left_out: drawn, whether accepted or not, while as many audits were under way as may be.
        believed: sum over those that agree or differ of the probability that ensemble or oracle
            is wrong, as the router had it: they can differ no more often than that.
        cost_usd: what asking has cost.
        log_wealth: what bets on answers that differ more often than believed have made of 1, by
            ``_BETS``; natural logarithms.
        has_drifted: answers differ more often than the router's probabilities allow, or once did.
            That is ever so of a router whose probabilities hold with a probability of at most 0.05,
            however often it is looked at: the mean of fair bets is seldom ever so large (Ville's
            inequality; Waudby-Smith and Ramdas 2024).
        promises: by operating point, how its promise stands.
    """

    agree: int = 0
    differ: int = 0
    failed: int = 0
    left_out: int = 0
    believed: float = 0.0
    cost_usd: float = 0.0
    log_wealth: tuple[float, ...] = (0.0,) * len(_BETS)
    has_drifted: bool = False
    promises: dict[str, PromiseWatch] = field(default_factory=dict)

    def compare(self, *, agrees: bool, believed: float | None) -> None:
        """Count an answer that was compared with the oracle's.

        Args:
            agrees: whether both are equal.
            believed: probability, as the router has it, that they are not, at most; None for the
                vote rule, which promises nothing that could be broken.
        """
        if agrees:
            self.agree += 1
        else:
            self.differ += 1
        if believed is None:
            return
        self.believed += believed
        # Each bet is fair, or worse, where answers differ no more often than believed.
        surprise = float(not agrees) - believed
        self.log_wealth = tuple(
            wealth + math.log1p(min(bet, _MOST_AT_STAKE / believed) * surprise)
            for wealth, bet in zip(self.log_wealth, _BETS, strict=True)
        )
        wealth = sum(math.exp(min(own, _PLENTY)) for own in self.log_wealth)
        if wealth / len(self.log_wealth) >= 1 / _LEVEL:
            self.has_drifted = True

    @property
    def audited(self) -> int:
        """Answers that were compared."""
        return self.agree + self.differ

    @property
    def disagreement(self) -> tuple[float, float, float]:
        """Share of accepted answers that differ from the oracle's, with its 95 % interval.

        What the ensemble gives up in accuracy against the oracle is at most that.
        """
        low, high = wilson_interval(self.differ, self.audited)
        return (self.differ / self.audited if self.audited else math.nan), low, high

    @property
    def alarms(self) -> dict[str, str]:
        """What whoever serves ought to know, by a name of each alarm; it stays until a reload."""
        found = {}
        if self.has_drifted:
            share, low, high = self.disagreement
            found["drift"] = (
                "accepted answers differ from the oracle's more often than the router's "
                f"probabilities allow ({share:.3f}, 95 % interval {low:.3f} to {high:.3f}, of "
                f"{self.audited}): the questions are no longer those of the training; label some "
                "of them and train again"
            )
        for watch in self.promises.values():
            if watch.broken:
                found[f"promise {watch.point}"] = (
                    f"the promise no longer holds for these questions: {watch.told}; label some of "
                    "them and find the point again"
                )
        return found


def wilson_interval(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if not of:
        return 0.0, 1.0
    share, spread = hits / of, _Z * _Z / of
    middle = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


class Audit:
    """Asks the oracle for a chosen share of what was accepted, when the answer has gone out.

    Attributes:
        count: what was found.
    """

    def __init__(
        self,
        settings: AuditSettings,
        oracle: Upstream,
        *,
        judges: Executor,
        deadline_s: float,
        points: list[OperatingPoint],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begin with nothing audited.

        Args:
            settings: how many.
            oracle: is asked.
            judges: where answers are compared.
            deadline_s: seconds for one answer.
            points: of the checkpoint, with what they promise.
            draw: a number from 0 to 1 for each answer.
        """
        self.count = AuditCount(promises=watches_of(points))
        self._settings = settings
        self._oracle = oracle
        self._judges = judges
        self._deadline_s = deadline_s
        self._draw = draw
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned: set[str] = set()

    def consider(self, rules: Rules, question: str, decision: Decision) -> None:
        """Audit a decision, perhaps, in the background.

        Args:
            rules: what decided.
            question: its text.
            decision: on answers that were sampled as in training; of others neither the router's
                probabilities nor a promise says anything, and clients could choose them.
        """
        if self._draw() >= self._settings.share:
            return
        # Nor is a promise, or a probability, about fewer models than were wanted; where it was the
        # oracle that failed, this leaves out what its failing in an audit does.
        if any(row.error is not None for row in decision.generations):
            return
        # Users' requests come first: where the oracle is slow, audits are left out, not put off.
        # All that was drawn is then, or those that cost nothing would count for more.
        if len(self._tasks) >= self._settings.max_concurrency:
            self.count.left_out += 1
            return
        if decision.escalated:
            # Drawn like the others, so that they are shares of all; its answer is known to be the
            # oracle's, or to be another.
            if (watch := self._watch(rules, decision)) is not None:
                watch.add(differs=decision.outvoted)
                self._warn()
            return
        if decision.answer is None:
            return
        task = asyncio.ensure_future(self._ask(rules, question, decision))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._warned:
            _log.warning(
                "with this checkpoint its audits end, and the alarm that they gave: %s",
                ", ".join(sorted(self._warned)),
            )

    async def _ask(self, rules: Rules, question: str, decision: Decision) -> None:
        with stage("audit") as audited:
            agrees = await self._compare(rules, question, decision)
            audited.note(agrees=agrees)

    async def _compare(self, rules: Rules, question: str, decision: Decision) -> bool | None:
        """Whether the oracle says the same; None where it could not be asked."""
        loop = asyncio.get_running_loop()
        prompt, sampling = rules.pyramid.prompt.render(question), rules.pyramid.sampling
        outcome = await self._oracle.ask(prompt, sampling, until=loop.time() + self._deadline_s)
        compare = partial(_compared, rules, question, decision, outcome)
        row, agrees = await loop.run_in_executor(self._judges, compare)
        self.count.cost_usd += row.cost_usd or 0.0
        if row.error is not None:
            self.count.failed += 1
            return None
        believed = None
        if decision.p_oracle_right is not None:
            fails = decision.p_ensemble_fails + 1.0 - decision.p_oracle_right
            believed = min(1.0, max(fails, _LEAST))
        self.count.compare(agrees=agrees, believed=believed)
        if (watch := self._watch(rules, decision)) is not None:
            watch.add(differs=not agrees)
        self._warn()
        return agrees

    def _watch(self, rules: Rules, decision: Decision) -> PromiseWatch | None:
        """The watch over what was promised of a decision; none is where the point had no say."""
        watch = self.count.promises.get(rules.point.name)
        kept = watch is not None and rules.point.promise == watch.promise
        return None if not kept or decision.budget_exhausted or decision.degraded else watch

    def _warn(self) -> None:
        """Say of each alarm once that it is on."""
        for name, said in self.count.alarms.items():
            if name not in self._warned:
                self._warned.add(name)
                _log.warning("%s", said)


def _compared(
    rules: Rules, question: str, decision: Decision, outcome: Completion | Failure
) -> tuple[Generation, bool]:
    query = Query(query_id="audit", question=question)
    row = graded_generation(query, rules.pyramid.oracle, outcome, rules.grader)
    agrees = row.answer is not None and rules.grader.equal(str(decision.answer), row.answer)
    return row, agrees
