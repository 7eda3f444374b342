"""A worker of a run on Ray: it opens one model and answers chunks, straight into the run folder."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyramid_moa import __version__
from pyramid_moa.backends import Backend
from pyramid_moa.data_prep.budget import Budget
from pyramid_moa.data_prep.opening import open_model
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.turn import Turn
from pyramid_moa.errors import ConfigError, PyramidError, RunFolderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyramid_moa.data_prep.ray_foreman import Foreman

__all__ = ["ChunkWorker", "Work"]

_REPORT_EVERY_S = 1.0
_ASK_FOR_MONEY_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker is told.

    Attributes:
        run: the run folder.
        mark: name of a file in it, by which a worker knows that it sees the driver's folder.
        pyramid: models, prompt, sampling and grader.
        identity: the pyramid's, as the driver's machine has it.
        version: the driver's version of this package.
        model: index of the model: members, mid oracles, then the oracle.
        on_gpu: whether Ray gives the worker GPUs of its own.
        strict: a failed generation ends the run.
        most_usd: what the run may cost; None for any amount.
    """

    run: Path
    mark: str
    pyramid: Pyramid
    identity: dict[str, Any]
    version: str
    model: int
    on_gpu: bool
    strict: bool
    most_usd: float | None


class ChunkWorker:
    """Answers tasks, each a few chunks; Ray Data makes one a process.

    A task that is tried again, since its worker or node has died, goes on from the journals.
    """

    def __init__(self, work: Work, foreman: "Foreman") -> None:
        """Keep what is needed; nothing is opened here, where an error would be Ray's to report.

        Args:
            work: what to do.
            foreman: of this turn.
        """
        self._work = work
        self._foreman = foreman
        self._backend: Backend | None = None

    def __call__(self, batch: "dict[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        """Answer what is pending in a task.

        Args:
            batch: one task: its number and the indices of its chunks.

        Returns:
            Its number.
        """
        (task,), (chunks,) = batch["task"], batch["chunks"]
        error: Exception | None = None
        try:
            self._answer(int(task), [int(chunk) for chunk in chunks])
        except PyramidError as ours:
            error = ours
        except OSError as found:
            # Libraries' own kinds can't all be sent to another process.
            error = OSError(str(found))
        if error is not None:
            self._foreman.stop(error)
        return {"task": np.asarray([task])}

    def __del__(self) -> None:
        """Ray Data deletes it when the worker has nothing more to do."""
        if self._backend is not None:
            self._backend.close()

    def _answer(self, task: int, chunks: list[int]) -> None:
        work, foreman = self._work, self._foreman
        state = foreman.begin(task)
        if state.error is not None:
            return
        report = _Report(foreman, task)
        budget = (
            Budget(None, spent_usd=0.0)
            if work.most_usd is None
            else _SharedBudget(report, most_usd=work.most_usd, spent_usd=state.spent_usd)
        )
        backend = self._backend = self._backend or self._open()
        turn = Turn(
            RunFolder(work.run),
            work.pyramid,
            work.model,
            budget=budget,
            strict=work.strict,
            halted=report.halted,
        )
        with report.sent(turn, budget):
            turn.run(backend, chunks, report)

    def _open(self) -> Backend:
        """Open the model, once nothing on this machine differs from the driver's."""
        import ray

        work = self._work
        node = ray.util.get_node_ip_address()
        spec = work.pyramid.models[work.model]
        if __version__ != work.version:
            raise ConfigError(
                f"node {node}: expected pyramid-moa {work.version}, as where label was started, "
                f"found {__version__}; install the same version on every node"
            )
        if not (work.run / work.mark).exists():
            raise RunFolderError(
                f"node {node} does not see the run folder {work.run}: workers write into it "
                "themselves, so --out has to be on a file system that all nodes share, under the "
                "same path"
            )
        if _entry(work.pyramid.identity(), work.model) != _entry(work.identity, work.model):
            raise ConfigError(
                f"node {node}: {spec.model}, the folder of model {spec.name!r}, is missing there "
                "or holds another model; put the same one on every node, under the same path"
            )
        if work.on_gpu:
            # Ray shows a worker its own GPUs and no others, counted from 0.
            device = "cuda" if spec.device.startswith("cuda") else spec.device
            spec = replace(spec, devices=[], device=device)
        hidden = work.pyramid.hidden_states_of(work.model)
        return open_model(spec, work.pyramid, hidden_states=hidden)


def _entry(identity: dict[str, Any], model: int) -> object:
    return [*identity["members"], *identity["oracles"]][model]


class _Report:
    """Tells the foreman every second where a task stands, and learns whether to stop.

    Not with every answer: a model of hundreds of answers a second would wait for it.
    """

    def __init__(self, foreman: "Foreman", task: int) -> None:
        self.foreman = foreman
        self.task = task
        self._done = 0
        self._halted = threading.Event()

    def halted(self) -> bool:
        """Whether another worker has ended the run."""
        return self._halted.is_set()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count queries; the note is made by the driver, for all workers."""
        self._done += steps

    @contextmanager
    def sent(self, turn: Turn, budget: Budget) -> Iterator[None]:
        """Send reports as long as the context lasts, and the last one at its end."""
        over = threading.Event()
        thread = threading.Thread(target=self._repeat, args=(over, turn, budget), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._send(turn, budget)

    def _repeat(self, over: threading.Event, turn: Turn, budget: Budget) -> None:
        from ray.exceptions import RayError

        while not over.wait(_REPORT_EVERY_S):
            try:
                self._send(turn, budget)
            except RayError:
                # Without the foreman, on the driver's node, there is no run to go on with.
                self._halted.set()
                return

    def _send(self, turn: Turn, budget: Budget) -> None:
        spent = 0.0 if isinstance(budget, _SharedBudget) else budget.spent_usd
        if self.foreman.report(self.task, done=self._done, failed=turn.failed, spent_usd=spent):
            self._halted.set()


class _SharedBudget(Budget):
    """A limit that all workers of a run keep together."""

    def __init__(self, report: _Report, *, most_usd: float, spent_usd: float) -> None:
        super().__init__(most_usd, spent_usd=spent_usd)
        self._report = report

    def reserve(self, usd: float) -> bool:
        while True:
            answer = self._report.foreman.reserve(self._report.task, usd)
            if answer != "wait" or self._report.halted():
                break
            time.sleep(_ASK_FOR_MONEY_EVERY_S)
        if answer != "granted":
            # Others have spent since this worker's last answer, and the refusal says how much.
            self._spent = self._report.foreman.state().spent_usd
        return answer == "granted"

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        self._spent = self._report.foreman.settle(self._report.task, reserved_usd, cost_usd)
