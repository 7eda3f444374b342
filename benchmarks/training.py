"""How long training takes, and how much memory.

    python benchmarks/training.py --cases wide steps

wide    `pyramid-moa train` on a run of 7,500 questions whose three members have hidden states of
        4,096 numbers, from the run folder to the checkpoint.
steps   fitting alone on 10, 100 and 300 thousand questions with such hidden states in
        memory-mapped files: time a step of the optimiser, and the largest anonymous memory
        (RssAnon).

Questions, answers and vectors are made up; the members' states tell how hard a question is. Every
measurement runs in a process of its own. The largest case writes 7.4 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

__all__ = ["write_run"]

MEMBERS, WIDTH = 3, 4096
_QUESTIONS = 7_500
_SIZES = (10_000, 100_000, 300_000)
_EPOCHS = 3


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["wide", "steps"], choices=["wide", "steps"])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES))
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        case, folder = options.child
        print(json.dumps(_wide(Path(folder)) if case == "wide" else _steps(Path(folder))))
        return
    if "wide" in options.cases:
        _measure("wide", _QUESTIONS)
    if "steps" in options.cases:
        for size in options.sizes:
            _measure("steps", size)


def _measure(case: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case == "wide":
            write_run(folder / "run", count)
        else:
            _write_vectors(folder, count)
        command = [sys.executable, __file__, "--child", case, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"{case}: {count} questions: {done.stdout.splitlines()[-1]}", flush=True)


def _hardness(count: int) -> "np.ndarray":
    return np.random.default_rng(0).normal(size=count)


def _rows(number: int, hardness: "np.ndarray") -> "np.ndarray":
    """Hidden states of some questions: noise, and a direction along which hard ones lie."""
    rng = np.random.default_rng([1, number])
    direction = rng.normal(size=WIDTH) / 8  # weak in each number, plain in all together
    # Noise repeats after a while: to draw all of it would take longer than what is measured.
    noise = rng.normal(size=(1000, WIDTH)).astype(np.float16)
    rows = noise[np.arange(len(hardness)) % 1000]
    return (rows + hardness[:, None] * direction).astype(np.float16)


def _write_vectors(folder: Path, count: int) -> None:
    hardness = _hardness(count)
    np.save(folder / "hardness.npy", hardness)
    for number in range(MEMBERS):
        path = folder / f"member{number}.npy"
        out = np.lib.format.open_memmap(path, mode="w+", dtype="f2", shape=(count, WIDTH))
        for first in range(0, count, 10_000):
            out[first : first + 10_000] = _rows(number, hardness[first : first + 10_000])
        out.flush()


def write_run(path: Path, count: int) -> None:
    """A run folder as ``label`` leaves it."""
    from pyramid_moa.backends import Price
    from pyramid_moa.data_prep.labels import label_queries
    from pyramid_moa.data_prep.manifest import Manifest, ModelCost, write_manifest
    from pyramid_moa.data_prep.run_folder import RunFolder
    from pyramid_moa.data_prep.splits import assign_splits
    from pyramid_moa.grading import load_grader
    from pyramid_moa.records import Generation, Query

    hardness = _hardness(count)
    rng = np.random.default_rng(2)
    queries = list(
        assign_splits(
            [
                Query(
                    query_id=f"q{i}", question=f"What is {i} plus {i % 97}?", gold=str(i + i % 97)
                )
                for i in range(count)
            ]
        )
    )
    names = [*(f"member{number}" for number in range(MEMBERS)), "oracle"]
    folder = RunFolder(path)
    folder.create(queries, part_rows=500)
    generations = []
    for number, name in enumerate(names):
        ability = 3.0 if name == "oracle" else 1.2 - 0.3 * number
        states = None if name == "oracle" else _rows(number, hardness)
        own = []
        for i, query in enumerate(queries):
            right = rng.random() < 1 / (1 + np.exp(hardness[i] - ability))
            answer = query.gold if right else str(i + int(rng.integers(100, 103)))
            own.append(
                Generation(
                    query_id=query.query_id,
                    model=name,
                    response=f"{i} + {i % 97} = {answer}. The answer is {answer}.",
                    answer=answer,
                    correct=right,
                    finish_reason="stop",
                    prompt_tokens=20,
                    completion_tokens=15,
                    latency_s=0.1,
                    cost_usd=1e-3 if name == "oracle" else 1e-4,
                    hidden_states=None if states is None else {"layer-1/answer_mean": states[i]},
                )
            )
        generations.append(own)
        for chunk, first in enumerate(range(0, count, 500)):
            folder.write_part(number, chunk, own[first : first + 500])
    grader = load_grader("gsm8k")
    answers = [[row.answer for row in own] for own in generations]
    folder.write_labels(label_queries(queries, answers[:-1], answers[-1], grader, reference="gold"))
    price = Price(input=1.0, output=1.0)
    write_manifest(
        path,
        Manifest(
            dataset="made-up",
            dataset_hash="0" * 64,
            reference="gold",
            members=names[:-1],
            oracle="oracle",
            costs=[ModelCost(name=name, price=price, active_parameters=1e9) for name in names],
            price_note="made-up prices",
            grader="gsm8k",
            splits="hash",
            pyramid={"made": "up"},
            counts={"queries": count},
            complete=True,
        ),
    )


def _wide(folder: Path) -> dict[str, float]:
    from pyramid_moa.training.train import train

    with _Memory() as memory:
        started = time.perf_counter()
        router = train(folder / "run", folder / "checkpoint")
        seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "rss_anon_mb": memory.most_mb,
        "failure_auroc": router.card.validation["failure_auroc"],
        "agreement_auroc": router.card.validation["agreement_auroc"],
    }


def _steps(folder: Path) -> dict[str, float]:
    """Fit on examples whose hidden states stay in their files."""
    from dataclasses import replace

    from lightning.pytorch.callbacks import Callback

    from pyramid_moa.training import fit
    from pyramid_moa.training.config import TrainConfig
    from pyramid_moa.training.examples import Examples

    hardness = torch.from_numpy(np.load(folder / "hardness.npy"))
    count = len(hardness)
    draw = torch.Generator().manual_seed(0)
    odds = 1.0 - hardness[:, None] + torch.zeros(MEMBERS)
    right = (torch.rand(count, MEMBERS, generator=draw) < torch.sigmoid(odds)).float()
    # Right answers are equal to each other, wrong ones to none.
    first = right.argmax(1, keepdim=True).expand(-1, MEMBERS)
    clusters = torch.where(right > 0, first, torch.arange(MEMBERS))
    examples = Examples(
        answers=torch.randn(count, MEMBERS, 45, generator=draw),
        relations=torch.randn(count, MEMBERS, MEMBERS, 3, generator=draw),
        clusters=clusters,
        question=torch.randn(count, 16, generator=draw),
        right=right,
        oracle_right=(torch.rand(count, generator=draw) < 0.95).float(),
        hidden=tuple(
            np.load(folder / f"member{number}.npy", mmap_mode="c") for number in range(MEMBERS)
        ),
        questions=tuple(str(number) for number in range(count)),
    )
    steps: list[float] = []

    class Clock(Callback):
        """Time from the beginning of a step to its end."""

        def on_train_batch_start(self, *_: object) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, *_: object) -> None:
            steps.append(time.perf_counter() - self.started)

    # Fitting builds its trainer itself, and nobody but this script wants a clock in it.
    build = fit.pl.Trainer
    fit.pl.Trainer = lambda **values: build(  # type: ignore[assignment, misc]
        **{**values, "callbacks": [*values["callbacks"], Clock()]}
    )
    config = TrainConfig()
    config = replace(config, optimiser=replace(config.optimiser, max_epochs=_EPOCHS))
    with _Memory() as memory:
        started = time.perf_counter()
        fit.fit_network(examples, config)
        seconds = time.perf_counter() - started
    return {
        "step_ms": round(1000 * float(np.median(steps)), 2),
        "step_ms_p90": round(1000 * float(np.quantile(steps, 0.9)), 2),
        "steps": len(steps),
        "seconds": round(seconds, 1),
        "rss_anon_mb": memory.most_mb,
    }


class _Memory:
    """Largest anonymous memory while it is entered: pages of mapped files do not count."""

    def __enter__(self) -> "_Memory":
        self.most_mb = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.most_mb = max(self.most_mb, int(line.split()[1]) // 1024)


if __name__ == "__main__":
    main()
