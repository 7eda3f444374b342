"""Labelling on Ray Data: a model's chunks are shared out among workers, here or on a cluster.

The driver keeps the run folder's lock, the money and the count; what the models answer never passes
through it. A worker or node that dies costs the answers that were under way there: Ray Data gives
its task to another worker, which goes on from the journals.
"""

import logging
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pyramid_moa import __version__
from pyramid_moa.atomic_files import temporary_mark
from pyramid_moa.backends import ModelSpec
from pyramid_moa.data_prep.budget import Budget
from pyramid_moa.data_prep.open_chunk import OpenChunk
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.data_prep.ray_foreman import RemoteForeman
from pyramid_moa.data_prep.ray_worker import ChunkWorker, Work
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.errors import BackendError, ConfigError, import_extra
from pyramid_moa.progress import Progress

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["ray_engine"]

# So many chunks at most make a task: in one stream, so that a model is kept busy across their
# borders; and so many tasks at least for each worker, so that all end at about the same time.
_CHUNKS_OF_A_TASK = 8
_TASKS_OF_A_WORKER = 4
_SHOW_EVERY_S = 1.0
# What passes through Ray are numbers of chunks; its own default is a third of the memory.
_OBJECT_STORE_BYTES = 128 * 2**20
_LOCAL_SETTINGS = {
    # Nobody is told that Ray was used, unless the user says so.
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray's own processes have to say goes into their files. A local run needs none of it.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Otherwise Ray warns of a default that it is going to change, which makes no difference here.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class AnswerChunks(Protocol):
    """Has one model answer what is pending in some chunks."""

    def __call__(
        self,
        folder: RunFolder,
        pyramid: Pyramid,
        model: int,
        chunks: Sequence[int],
        *,
        budget: Budget,
        strict: bool,
    ) -> None:
        """Answer, or raise what ``label`` raises."""
        ...


def ray_engine(workers: int | None = None) -> AbstractContextManager[AnswerChunks]:
    """Prepare labelling on Ray: the cluster at RAY_ADDRESS, or one on this machine.

    Args:
        workers: for each model; None for as many as the cluster has room for, and one for a model
            that is reached over HTTP, where ``max_concurrency`` is the bound.

    Returns:
        A context: Ray runs inside it. Where Ray runs already it is joined, and left alone after.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: ``workers`` is not a number of workers.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: expected 1 or more, found {workers}")
    for module in ("ray", "ray.data"):
        import_extra(module, extra="ray", purpose="label --engine ray")
    return _engine(workers)


@contextmanager
def _engine(workers: int | None) -> Iterator[AnswerChunks]:
    import ray

    def answer(
        folder: RunFolder,
        pyramid: Pyramid,
        model: int,
        chunks: Sequence[int],
        *,
        budget: Budget,
        strict: bool,
    ) -> None:
        turn = _RayTurn(folder=folder, pyramid=pyramid, model=model, budget=budget, strict=strict)
        turn.run(chunks, workers=workers)

    # Ray's notices of dead workers and nodes go to standard output, which belongs to results.
    with redirect_stdout(sys.stderr), _only_errors(logging.getLogger("ray.data")):
        if ray.is_initialized():
            yield answer
            return
        with _settings(_LOCAL_SETTINGS):
            _start(workers)
            try:
                yield answer
            finally:
                ray.shutdown()


def _start(workers: int | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if not address or address == "local":
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, workers) if workers else None,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS: expected host:port of a cluster that this machine is a node of, or "
            f"auto, found {address!r}; Ray's client does not carry data sets: run label on a node"
        )
    try:
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BackendError(
            f"RAY_ADDRESS: no Ray cluster can be joined at {address!r} from this machine ({reason})"
            "; start one there and join it here with `ray start`, or unset RAY_ADDRESS for a local "
            "one",
            can_retry=True,
        ) from error


@dataclass(frozen=True, kw_only=True)
class _RayTurn:
    """One model's turn on the cluster."""

    folder: RunFolder
    pyramid: Pyramid
    model: int
    budget: Budget
    strict: bool

    @property
    def spec(self) -> ModelSpec:
        return self.pyramid.models[self.model]

    def run(self, chunks: Sequence[int], *, workers: int | None) -> None:
        """Answer what is pending in some chunks."""
        gpus = _gpus_of_a_worker(self.spec)
        count = min(workers or _room(self.spec, gpus), len(chunks))
        foreman = RemoteForeman.start(
            most_usd=self.budget.most_usd, spent_usd=self.budget.spent_usd
        )
        try:
            with temporary_mark(self.folder.path) as mark:
                tasks = self._tasks(_shared_out(chunks, count), foreman, mark.name, count, gpus)
                total = self.folder.count_queries(chunks)
                with (
                    Progress(f"label {self.spec.name}", total=total) as progress,
                    _shown(foreman, progress),
                ):
                    for _ in tasks.iter_rows():
                        pass
            state = foreman.state()
        finally:
            foreman.close()
        self.budget.settle(0.0, state.spent_usd - self.budget.spent_usd)
        self._tidy(chunks)
        if state.error is not None:
            raise state.error

    def _tasks(
        self,
        tasks: list[list[int]],
        foreman: RemoteForeman,
        mark: str,
        workers: int,
        gpus: int,
    ) -> "Dataset":
        """A row for each task that has been answered, as they come."""
        import pyarrow as pa
        import ray.data

        work = Work(
            run=self.folder.path.resolve(),
            mark=mark,
            pyramid=self.pyramid,
            identity=self.pyramid.identity(),
            version=__version__,
            model=self.model,
            on_gpu=gpus > 0,
            strict=self.strict,
            most_usd=self.budget.most_usd,
        )
        # A block each, without a task of Ray's to read it: with all CPUs taken by workers it would
        # never run.
        rows = ray.data.from_arrow(
            [pa.table({"task": [n], "chunks": [chunks]}) for n, chunks in enumerate(tasks)]
        )
        rows.context.enable_progress_bars = False
        rows.context.print_on_execution_start = False
        # Dead workers start again and their tasks are tried again, however often: Ray Data's own
        # defaults. An error in our code ends the run.
        return rows.map_batches(
            ChunkWorker,
            fn_constructor_args=(work, foreman),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            # Ray Data takes the one or the other.
            num_gpus=gpus or None,
            num_cpus=None if gpus else 1,
        )

    def _tidy(self, chunks: Sequence[int]) -> None:
        """Put right what dead workers have left half-written."""
        self.folder.clean()
        left = [n for n in chunks if self.folder.journal_path(self.model, n).exists()]
        for chunk, queries in self.folder.read_chunks(left):
            # A node that was cut off may have written a last row after the part was whole.
            OpenChunk(self.folder, self.model, chunk, queries)


def _shared_out(chunks: Sequence[int], workers: int) -> list[list[int]]:
    """Tasks of as many chunks as is good for so many workers."""
    size = math.ceil(len(chunks) / (workers * _TASKS_OF_A_WORKER))
    size = min(size, _CHUNKS_OF_A_TASK)
    return [list(chunks[first : first + size]) for first in range(0, len(chunks), size)]


def _is_served(spec: ModelSpec) -> bool:
    return spec.backend == "openai" or spec.port is not None


def _gpus_of_a_worker(spec: ModelSpec) -> int:
    """GPUs that a worker needs of this cluster."""
    import ray

    if _is_served(spec) or not ray.cluster_resources().get("GPU"):
        return 0
    if spec.backend == "vllm":
        return spec.tensor_parallel_size
    return 0 if spec.device == "cpu" else 1


def _room(spec: ModelSpec, gpus: int) -> int:
    """Workers that the cluster has room for, a served model's apart, for which one is enough."""
    import ray

    if _is_served(spec):
        return 1
    kind, needed = ("GPU", gpus) if gpus else ("CPU", 1)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(int(node.get(kind, 0)) // needed for node in nodes)
    if room == 0:
        most = max((int(node.get(kind, 0)) for node in nodes), default=0)
        raise ConfigError(
            f"model {spec.name!r}: a worker needs {needed} {kind}s of one node, and no node of the "
            f"Ray cluster has more than {most}; start such a node, or give --workers to wait for it"
        )
    return room


@contextmanager
def _shown(foreman: RemoteForeman, progress: Progress) -> Iterator[None]:
    """Show what the workers report while the driver waits for whole tasks."""
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(foreman, progress, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _show(foreman: RemoteForeman, progress: Progress, over: threading.Event) -> None:
    from ray.exceptions import RayError

    shown, last = 0, False
    while not last:
        last = over.wait(_SHOW_EVERY_S)
        try:
            state = foreman.state()
        except RayError:
            return  # the driver's own question fails as well, and says why
        # A task that is tried again counts from its beginning again.
        progress.advance(
            max(0, state.done - shown), note=f"{state.failed} failed, {state.spent_usd:.4f} USD"
        )
        shown = max(shown, state.done)


@contextmanager
def _only_errors(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _settings(wanted: dict[str, str]) -> Iterator[None]:
    """Set environment variables that the user has not set, as long as the context lasts."""
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
