"""A data set and a pyramid of tiny models, as files, and runs compared."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pyramid_moa.data_prep.labelled_run import LabelledRun, read_labelled_run
from pyramid_moa.data_prep.run_folder import RunFolder
from tiny_model import TinyModels

QUESTIONS = 20
HIDDEN_KEYS = ["layer-1/answer_mean", "layer2/answer_mean"]


def write_questions(path: Path, count: int, **first: str) -> Path:
    """JSONL with golds; ``first`` replaces fields of the first question."""
    rows = [
        {"id": f"q{n}", "question": f"{n} apples and {n % 7} are how many?", "answer": str(n % 10)}
        for n in range(count)
    ]
    rows[0] |= first
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pyramid(path: Path, models: TinyModels, *, max_tokens: int = 6, extra: str = "") -> Path:
    """YAML of two members and an oracle that keeps hidden states."""
    path.write_text(
        f"""
name: tiny
members:
  - {{name: a, model: {models.member_a}, price: {{input: 1, output: 2}}}}
  - {{name: b, model: {models.member_b}, price: {{input: 1, output: 2}}}}
oracles:
  - {{name: o, model: {models.oracle}, price: {{input: 10, output: 20}}}}
sampling: {{max_tokens: {max_tokens}}}
hidden_states: {{layers: [-1, 2], poolings: [answer_mean]}}
price_note: prices made up
{extra}
"""
    )
    return path


def assert_same_run(one: Path, other: Path) -> LabelledRun:
    """Compare two run folders as the design says: all but measured times."""
    left, right = read_labelled_run(one), read_labelled_run(other)
    assert left.manifest == right.manifest
    assert left.queries == right.queries
    assert left.labels == right.labels
    for name in left.manifest.models:
        for row, twin in zip(left.generations[name], right.generations[name], strict=True):
            _assert_same_row(dataclasses.asdict(row), dataclasses.asdict(twin))
    assert left.hidden_states.keys() == right.hidden_states.keys()
    for name, states in left.hidden_states.items():
        assert states.keys() == right.hidden_states[name].keys()
        for key, values in states.items():
            np.testing.assert_allclose(
                values[:].astype(np.float32),
                right.hidden_states[name][key][:].astype(np.float32),
                rtol=1e-3,  # one step of float16, where float32 differed by less than 1e-5
                atol=1e-5,
            )
    return left


def spent(out: Path) -> float:
    """US dollars of all rows of a run folder."""
    folder = RunFolder(out)
    return sum(row.cost_usd for model in range(3) for row in folder.read_generations(model))


def _assert_same_row(row: dict[str, object], twin: dict[str, object]) -> None:
    for key, value in row.items():
        if key in ("latency_s", "hidden_states"):
            continue
        if isinstance(value, float | dict):
            assert value == pytest.approx(twin[key], abs=1e-5), (key, row, twin)
        else:
            assert value == twin[key], (key, row, twin)
