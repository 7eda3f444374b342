"""What the workers of a run on Ray share: the money, the count, and whether to go on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pyramid_moa.data_prep.budget import Budget

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["SILENT_S", "Foreman", "Granted", "RemoteForeman", "State"]

Granted = Literal["granted", "refused", "wait"]

# A worker says every second that it is there. One that has been silent for so long is dead: what
# was set aside for it is free again.
SILENT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class State:
    """How a model's turn stands.

    Attributes:
        done: queries that are answered.
        failed: failed generations among those asked in this turn.
        spent_usd: what the run has cost.
        error: the first error of a worker, which ends the turn.
    """

    done: int
    failed: int
    spent_usd: float
    error: Exception | None


@dataclass(kw_only=True)
class _Task:
    """The latest try at one task."""

    heard: float
    done: int = 0
    failed: int = 0
    spent_usd: float = 0.0
    # For each answer under way. Not their sum: what rounding leaves of one would look like money.
    set_aside_usd: list[float] = field(default_factory=list)


class Foreman:
    """Every worker of a turn talks to it.

    A task is some chunks. It may be begun again, where its worker or node has died.
    """

    def __init__(
        self,
        *,
        most_usd: float | None,
        spent_usd: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a turn.

        Args:
            most_usd: what the whole run may cost; None for any amount.
            spent_usd: what it has cost so far.
            clock: seconds.
        """
        self._budget = Budget(most_usd, spent_usd=spent_usd)
        self._clock = clock
        self._tasks: dict[int, _Task] = {}
        self._error: Exception | None = None

    def begin(self, task: int) -> State:
        """Begin a task; what an earlier try at it had set aside is free again."""
        if task in self._tasks:
            self._free(self._tasks[task])
        self._tasks[task] = _Task(heard=self._clock())
        return self.state()

    def reserve(self, task: int, usd: float) -> Granted:
        """Set aside what an answer may cost at most.

        Returns:
            ``refused`` where the task's own answers under way, once they are paid, may make room,
            and where nobody's can; ``wait`` where those of others may.
        """
        own = self._tasks[task]
        own.heard = self._clock()
        if self._error is not None:
            return "refused"
        for other in self._tasks.values():
            if other.heard < self._clock() - SILENT_S:
                self._free(other)
        if self._budget.reserve(usd):
            own.set_aside_usd.append(usd)
            return "granted"
        # Whoever has answers under way has to take them before it may wait, or all would wait for
        # each other.
        waits = not own.set_aside_usd and any(other.set_aside_usd for other in self._tasks.values())
        return "wait" if waits else "refused"

    def settle(self, task: int, reserved_usd: float, cost_usd: float) -> float:
        """Put what an answer has cost in the place of what was set aside; what is spent now."""
        own = self._tasks[task]
        own.heard = self._clock()
        if reserved_usd in own.set_aside_usd:
            own.set_aside_usd.remove(reserved_usd)
        else:
            reserved_usd = 0.0  # the task was thought dead, and it is free already
        self._budget.settle(reserved_usd, cost_usd)
        return self._budget.spent_usd

    def report(self, task: int, *, done: int, failed: int, spent_usd: float) -> bool:
        """Take note of where a task stands.

        Args:
            task: its number.
            done: its queries that are answered.
            failed: failed generations of this try.
            spent_usd: what this try has cost, where there is no limit and so nothing to settle.

        Returns:
            Whether to stop.
        """
        own = self._tasks[task]
        self._budget.settle(0.0, spent_usd - own.spent_usd)
        own.heard = self._clock()
        own.done, own.failed, own.spent_usd = done, failed, spent_usd
        return self._error is not None

    def stop(self, error: Exception) -> None:
        """End the turn of all workers; the first error is the one that counts."""
        self._error = self._error or error

    def state(self) -> State:
        """How the turn stands."""
        tasks = self._tasks.values()
        return State(
            done=sum(task.done for task in tasks),
            failed=sum(task.failed for task in tasks),
            spent_usd=self._budget.spent_usd,
            error=self._error,
        )

    def _free(self, task: _Task) -> None:
        self._budget.settle(sum(task.set_aside_usd), 0.0)
        task.set_aside_usd.clear()


class RemoteForeman(Foreman):
    """A foreman in a process of its own, as the driver and the workers reach it."""

    def __init__(self, actor: "ActorHandle[Any]") -> None:
        """Keep the handle, which may be sent to workers.

        Args:
            actor: of a ``Foreman``.
        """
        self._actor = actor

    @classmethod
    def start(cls, *, most_usd: float | None, spent_usd: float) -> Self:
        """Start one, on the driver's node: its death ends the run anyway."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(here, soft=False)
        kind: Any = ray.remote(Foreman).options(num_cpus=0, scheduling_strategy=strategy)
        return cls(kind.remote(most_usd=most_usd, spent_usd=spent_usd))

    def close(self) -> None:
        """End its process."""
        import ray

        ray.kill(self._actor)

    def begin(self, task: int) -> State:
        """As ``Foreman`` does."""
        return cast("State", self._ask("begin", task))

    def reserve(self, task: int, usd: float) -> Granted:
        """As ``Foreman`` does."""
        return cast("Granted", self._ask("reserve", task, usd))

    def settle(self, task: int, reserved_usd: float, cost_usd: float) -> float:
        """As ``Foreman`` does."""
        return cast("float", self._ask("settle", task, reserved_usd, cost_usd))

    def report(self, task: int, *, done: int, failed: int, spent_usd: float) -> bool:
        """As ``Foreman`` does."""
        answer = self._ask("report", task, done=done, failed=failed, spent_usd=spent_usd)
        return cast("bool", answer)

    def stop(self, error: Exception) -> None:
        """As ``Foreman`` does."""
        self._ask("stop", error)

    def state(self) -> State:
        """As ``Foreman`` does."""
        return cast("State", self._ask("state"))

    def _ask(self, method: str, *arguments: object, **named: object) -> object:
        """Ask and wait.

        Raises:
            RayError: its process or node is gone.
        """
        import ray

        return cast("object", ray.get(getattr(self._actor, method).remote(*arguments, **named)))
