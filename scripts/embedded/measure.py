"""Measure the embedded models on held-out questions and write their cards.

    python scripts/embedded/measure.py --runs build/embedded

Every model answers the same 1,000 questions of the test split in the natural mix of steps. The
figures go into each model's README.md and, for the tests, into ``models.json``; how the members
agree goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from answering import answers
from card import card
from export import DESTINATION
from recipes import RECIPES
from safetensors import safe_open

from pyramid_moa.data_prep.word_problems import make_problems

if TYPE_CHECKING:
    from pyramid_moa.data_prep.word_problems import WordProblem

__all__ = ["QUESTIONS", "SEED", "measure"]

QUESTIONS = 1_000
SEED = 77_001


def accuracy_by(keys: list[Any], right: list[bool]) -> dict[str, float]:
    """Return the share of right answers for every key, in the order of the keys."""
    hits, counts = Counter[Any](), Counter(keys)
    for key, is_right in zip(keys, right, strict=True):
        hits[key] += is_right
    return {str(key): round(hits[key] / counts[key], 3) for key in sorted(counts)}


def measure(folder: Path, problems: list[WordProblem]) -> tuple[dict[str, Any], list[str]]:
    """Return a model's entry of ``models.json``, and its answers."""
    given = answers(folder, problems)
    right = [answer == p.answer for answer, p in zip(given, problems, strict=True)]
    weights = folder / "model.safetensors"
    with safe_open(weights, "pt") as tensors:
        names = tensors.keys()
        parameters = sum(tensors.get_tensor(name).numel() for name in names)
    entry = {
        "sha256": sha256(weights.read_bytes()).hexdigest(),
        "parameters": parameters,
        "accuracy": round(sum(right) / len(right), 3),
        "accuracy_by_steps": accuracy_by([p.steps for p in problems], right),
        "accuracy_by_scenario": accuracy_by([p.scenario for p in problems], right),
    }
    return entry, given


def agreement(given: dict[str, list[str]], problems: list[WordProblem]) -> str:
    """Describe how often the members agree, and how often they are right when they do."""
    members = [given[name] for name in given if name.startswith("member")]
    counts, hits, votes = Counter[int](), Counter[int](), 0
    for *row, problem in zip(*members, problems, strict=True):
        # The first of the most frequent answers wins, as in the pyramid's own vote.
        answer, count = Counter(row).most_common(1)[0]
        counts[count] += 1
        hits[count] += answer == problem.answer
        votes += answer == problem.answer
    lines = [f"majority {votes / len(problems):.3f}"]
    lines += [
        f"{count} of {len(members)} agree on {counts[count] / len(problems):.3f}, "
        f"right {hits[count] / counts[count]:.3f}"
        for count in sorted(counts, reverse=True)
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure every model and write cards and models.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=DESTINATION)
    parser.add_argument("--runs", type=Path, default=Path("build/embedded"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    problems = make_problems(split="test", count=QUESTIONS, seed=SEED)
    entries: dict[str, dict[str, Any]] = {}
    given: dict[str, list[str]] = {}
    for name in RECIPES:
        entries[name], given[name] = measure(arguments.models / name, problems)
        training = json.loads((arguments.runs / name / "training.json").read_text("utf-8"))
        text = card(RECIPES[name], entries[name], training, questions=QUESTIONS, seed=SEED)
        (arguments.models / name / "README.md").write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name} {json.dumps(entries[name])}\n")
    models = json.dumps(entries, indent=2) + "\n"
    (arguments.models / "models.json").write_text(models, encoding="utf-8")
    sys.stdout.write(agreement(given, problems) + "\n")


if __name__ == "__main__":
    main()
