"""``label`` over a replayed pyramid for more and more queries: time, memory, and a finished resume.

Three members and an oracle replay what real models answered to GSM8K (their questions come up again
and again under new ids), so that nothing but labelling is measured. Each run is the command itself,
in a process of its own; its peak memory is what the system says of it. Start-up (the interpreter,
reading the recorded table once a model) is what the same command takes for ten queries, measured
before each run, and is taken off.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Scale", "measure_scale"]

MEMBERS = ("gemma-2-9b-it", "Qwen2-7B-Instruct", "Meta-Llama-3-8B-Instruct")
ORACLE = "gpt-4o-2024-08-06"
_TABLE = Path("recorded") / "zeroeval.parquet"
_ROWS_AT_ONCE = 4096
_FEW = 10


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What labelling so many queries took.

    Attributes:
        queries: how many.
        label_s: seconds of each run of the command, without its start-up.
        peak_mb: of each run.
        resume_s: seconds of ``--resume`` on the finished run.
    """

    queries: int
    label_s: list[float]
    peak_mb: list[float]
    resume_s: float

    def row(self) -> str:
        """A line of the table."""
        each = [1e6 * seconds / self.queries for seconds in self.label_s]
        return (
            f"| {self.queries:,} | {median(each):.0f} ({min(each):.0f} to {max(each):.0f}) | "
            f"{max(self.peak_mb):.0f} | {self.resume_s:.1f} |"
        )


def measure_scale(data: Path, folder: Path, *, counts: list[int], repeats: int) -> list[Scale]:
    """Label so many queries each.

    Args:
        data: folder of the recorded answers.
        folder: for questions and runs, which are removed again.
        counts: numbers of queries.
        repeats: runs of each but the largest, which runs once.
    """
    pyramid = _write_pyramid(folder / "replay.yaml", data / _TABLE)
    few = _write_questions(folder / "few.parquet", data / _TABLE, _FEW)
    found = []
    for count in counts:
        questions = _write_questions(folder / f"questions-{count}.parquet", data / _TABLE, count)
        run = folder / f"run-{count}"
        timings = []
        for _ in range(1 if count == max(counts) else repeats):
            start_s, _ = _timed(_command(few, pyramid, folder / "few"))
            shutil.rmtree(folder / "few")
            shutil.rmtree(run, ignore_errors=True)
            seconds, peak = _timed(_command(questions, pyramid, run))
            timings.append((seconds - start_s, peak))
        resume_s, _ = _timed([*_command(questions, pyramid, run), "--resume"])
        shutil.rmtree(run)
        questions.unlink()
        found.append(
            Scale(
                queries=count,
                label_s=[seconds for seconds, _ in timings],
                peak_mb=[peak for _, peak in timings],
                resume_s=resume_s,
            )
        )
        print(found[-1].row(), flush=True)
    return found


def _command(questions: Path, pyramid: Path, run: Path) -> list[str]:
    command = [sys.executable, "-m", "pyramid_moa", "label", "--dataset", str(questions)]
    return [*command, "--pyramid", str(pyramid), "--out", str(run)]


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 1e3


def _write_pyramid(path: Path, table: Path) -> Path:
    entries = [
        f'  - {{name: {name}, backend: recorded, model: "{table.resolve()}::{name}"}}\n'
        for name in (*MEMBERS, ORACLE)
    ]
    path.write_text(f"members:\n{''.join(entries[:-1])}oracles:\n{entries[-1]}")
    return path


def _write_questions(path: Path, table: Path, count: int) -> Path:
    rows = pq.read_table(table, columns=["model", "question", "gold"]).to_pylist()
    known = [(row["question"], row["gold"]) for row in rows if row["model"] == ORACLE]
    schema = pa.schema([(name, pa.string()) for name in ("id", "question", "answer")])
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, count, _ROWS_AT_ONCE):
            numbers = range(first, min(count, first + _ROWS_AT_ONCE))
            asked = [known[number % len(known)] for number in numbers]
            columns = [
                [f"q{number}" for number in numbers],
                [question for question, _ in asked],
                [gold for _, gold in asked],
            ]
            file.write_table(pa.table(columns, schema=schema))
    return path
