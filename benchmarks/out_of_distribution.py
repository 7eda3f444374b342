"""Which questions a router leaves alone: those of its kind, which it should not, and all others.

    python benchmarks/out_of_distribution.py --data ../shared/data --out build/strangers.json

What a training keeps of its questions is fitted to the embedded pyramid's word problems and, where
they are there, to GSM8K's training questions. Then it is asked about their own test questions,
about each other's, about competition mathematics (MATH, level 5) and programs (CRUXEval), and about
what else people ask (other_questions.yaml). Nothing is chosen on any of them: the threshold is that
of the fit. Takes seconds; no model runs.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.training.known_questions_fit import fit_known_questions

OTHERS = Path(__file__).with_name("other_questions.yaml")
WORD_PROBLEMS = "word-problems?train=1500&test=500&seed=0"
_RECORDED = {"MATH, level 5": "math-l5.parquet", "CRUXEval": "crux.parquet"}


def kinds_of(data: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Questions to fit to, and those to ask about, by their kind."""
    rows = load_queries(WORD_PROBLEMS).queries
    trained, asked = {}, {}
    name = "word problems"
    trained[name] = [row.question for row in rows if row.split != "test"]
    asked[name] = [row.question for row in rows if row.split == "test"]
    gsm8k = data / "gsm8k"
    if gsm8k.is_dir():
        for split, kinds in (("train", trained), ("test", asked)):
            lines = (gsm8k / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            kinds["GSM8K"] = [json.loads(line)["question"] for line in lines]
    for kind, table in _RECORDED.items():
        if (data / "recorded_other" / table).is_file():
            asked[kind] = _questions(data / "recorded_other" / table)
    return trained, {**asked, **yaml.safe_load(OTHERS.read_text(encoding="utf-8"))}


def _questions(table: Path) -> list[str]:
    import pyarrow.parquet as pq

    column = pq.read_table(table, columns=["question"])["question"]
    return sorted(set(column.to_pylist()))


def measure(
    trained: Mapping[str, Sequence[str]], asked: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """For each fit, of each kind the share that is left alone and what that takes."""
    fits = {}
    for name, questions in trained.items():
        started = time.process_time()
        known = fit_known_questions(questions)
        assert known is not None, f"{name}: too few questions"
        fitted_s = time.process_time() - started
        rows, seconds = {}, []
        for kind, texts in asked.items():
            distances = []
            for text in texts:
                started = time.process_time()
                distances.append(known.distance(text))
                seconds.append(time.process_time() - started)
            values = np.array([distance.value for distance in distances])
            parts = [distance.part for distance in distances if distance.value > 1]
            rows[kind] = {
                "questions": len(texts),
                "left_alone": float((values > 1).mean()),
                "median_distance": float(np.median(values)),
                "parts": {part: parts.count(part) for part in sorted(set(parts))},
            }
        fits[name] = {
            "questions": known.questions,
            "promised": known.false_alarms,
            "fit_cpu_s": fitted_s,
            "distance_cpu_us": {
                "p50": float(np.percentile(seconds, 50)) * 1e6,
                "p99": float(np.percentile(seconds, 99)) * 1e6,
            },
            "kinds": rows,
        }
    return fits


def table_of(fits: Mapping[str, Any]) -> str:
    """The same as a table."""
    names = list(fits)
    lines = [
        f"| asked about | questions | {' | '.join(f'fitted to {name}' for name in names)} |",
        f"| --- | --- | {' | '.join('---' for _ in names)} |",
    ]
    for kind, row in fits[names[0]]["kinds"].items():
        cells = []
        for name in names:
            own = fits[name]["kinds"][kind]
            cells.append(f"{100 * own['left_alone']:.1f} % ({own['median_distance']:.2f})")
        lines.append(f"| {kind} | {row['questions']} | {' | '.join(cells)} |")
    for name in names:
        fit, taken = fits[name], fits[name]["distance_cpu_us"]
        lines.append(
            f"{name}: {fit['questions']} questions, {100 * fit['promised']:.2f} % promised; "
            f"fitted in {fit['fit_cpu_s']:.1f} s of processor; a distance takes "
            f"{taken['p50']:.0f} us (p99 {taken['p99']:.0f})"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=None, help="JSON of the figures")
    options = parser.parse_args()
    fits = measure(*kinds_of(options.data))
    sys.stdout.write("share left alone (median distance; 1 is the threshold)\n")
    sys.stdout.write(f"{table_of(fits)}\n")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(fits, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
