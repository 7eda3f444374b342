"""Runs made up for tests: members of different accuracy that share the questions' difficulty."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyramid_moa.backends import Price
from pyramid_moa.data_prep.labels import label_queries
from pyramid_moa.data_prep.manifest import Manifest, ModelCost, write_manifest
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.splits import assign_splits
from pyramid_moa.grading import load_grader
from pyramid_moa.records import Generation, LogprobStatistics, Query

MEMBERS = ("large", "middle", "small")
MID_ORACLE = "mid-oracle"
ORACLE = "oracle"
HIDDEN_SIZE = 8
HIDDEN_KEY = "layer-1/answer_mean"
PRICES = {
    "large": Price(input=0.3, output=0.5),
    "middle": Price(input=0.2, output=0.3),
    "small": Price(input=0.1, output=0.2),
    "mid-oracle": Price(input=0.9, output=1.5),
    "oracle": Price(input=4.0, output=8.0),
}
COSTS = {
    name: ModelCost(name=name, price=price, active_parameters=1e9 * price.output)
    for name, price in PRICES.items()
}
_ABILITY = {"large": 1.6, "middle": 1.0, "small": 0.3, "mid-oracle": 2.4}
_ORACLE_ACCURACY = 0.96


@dataclass(frozen=True)
class Asked:
    """One question, how hard it is, and what each model made of it."""

    question: str
    gold: str
    difficulty: float
    answers: dict[str, str]
    responses: dict[str, str]


def asked(count: int, *, seed: int = 0, slips: float = 0.5) -> list[Asked]:
    """Sums; whoever fails is off by a little, often by the same amount as others.

    With ``slips`` so many wrong answers, and few right ones, hold an equation that is wrong.
    """
    rng, apart = np.random.default_rng(seed), _apart(seed)
    rows = []
    for number in range(count):
        a, b = int(rng.integers(10, 90)), int(rng.integers(10, 90))
        difficulty = float(rng.normal())
        answers, responses = {}, {}
        for name in (*MEMBERS, ORACLE, MID_ORACLE):
            own = apart if name == MID_ORACLE else rng
            chance = 1 / (1 + np.exp(-2 * (_ABILITY.get(name, 0.0) - difficulty)))
            right = own.random() < (_ORACLE_ACCURACY if name == ORACLE else chance)
            off = 0 if right else int(own.choice([1, 1, 10, 2]))
            answers[name] = str(a + b + off)
            slipped = own.random() < (0.3 * slips if right else slips)
            slip = f" and {a} - {b} = {a - b + 3}" if slipped else ""
            responses[name] = f"So {a} and {b} make {a + b + off}{slip}.\n#### {a + b + off}"
        question = f"Tom has {a} apples and buys {b} more on day {number}. How many has he?"
        rows.append(Asked(question, str(a + b), difficulty, answers, responses))
    return rows


def _apart(seed: int) -> np.random.Generator:
    """What the mid oracle draws from, so that all else is the same with it and without."""
    return np.random.default_rng([seed, 1])


def write_recorded_table(
    path: Path, *, count: int = 300, gold: bool = True, mid_oracle: bool = False
) -> Path:
    """A table of recorded answers, one row an answer; with or without those of a mid oracle."""
    rows = [
        {
            "source": "made up",
            "question_id": f"q{number:03d}",
            "question": row.question,
            "gold": row.gold if gold else None,
            "model": name,
            "response": row.responses[name],
            "answer": row.answers[name],
            "prompt_tokens": 40,
            "completion_tokens": 20 + number % 7,
            "finish_reason": "stop",
        }
        for number, row in enumerate(asked(count))
        for name in _names(mid_oracle)
    ]
    schema = pa.Table.from_pylist(rows).schema
    gold_field = schema.get_field_index("gold")
    pq.write_table(
        pa.Table.from_pylist(rows, schema.set(gold_field, pa.field("gold", pa.string()))), path
    )
    return path


def _names(mid_oracle: bool) -> list[str]:
    return [*MEMBERS, *([MID_ORACLE] if mid_oracle else []), ORACLE]


def write_run(
    path: Path,
    *,
    count: int = 240,
    seed: int = 1,
    failures: bool = True,
    mid_oracle: bool = False,
) -> Path:
    """A run as ``label`` leaves it; hidden states tell how hard each question is.

    With ``failures`` the first member fails now and then, all members at question 7 and 8, and
    the oracle at question 8 and 9. With ``mid_oracle`` there is one more model, that fails at 10;
    all other rows are those of the run without it.
    """
    rng, apart = np.random.default_rng(seed), _apart(seed)
    data = asked(count, seed=seed, slips=0.0)
    queries = list(
        assign_splits(
            [
                Query(query_id=f"q{number:03d}", question=row.question, gold=row.gold)
                for number, row in enumerate(data)
            ]
        )
    )
    directions = {name: rng.normal(size=HIDDEN_SIZE) for name in MEMBERS}
    generations = [
        [
            _generation(query, row, name, directions.get(name), own, failed=failed)
            for number, (query, row) in enumerate(zip(queries, data, strict=True))
            for failed in [failures and _fails(name, number)]
        ]
        for name in _names(mid_oracle)
        for own in [apart if name == MID_ORACLE else rng]
    ]
    folder = RunFolder(path)
    folder.create(queries, part_rows=100)
    for model, own in enumerate(generations):
        for chunk, first in enumerate(range(0, count, 100)):
            folder.write_part(model, chunk, own[first : first + 100])
    grader = load_grader("gsm8k")
    answers = [[row.answer for row in own] for own in generations]
    members = answers[: len(MEMBERS)]
    folder.write_labels(label_queries(queries, members, answers[-1], grader, reference="gold"))
    write_manifest(path, _manifest(queries, mid_oracle=mid_oracle))
    return path


def _fails(name: str, number: int) -> bool:
    if name == ORACLE:
        return number in (8, 9)
    if name == MID_ORACLE:
        return number == 10
    return number in (7, 8) or (name == MEMBERS[0] and number % 17 == 3)


def _generation(query, row, name, direction, rng, *, failed):
    noise = rng.normal(size=HIDDEN_SIZE) * 0.3
    mean = -0.05 - 0.1 * rng.random()
    if failed:
        return Generation(
            query_id=query.query_id,
            model=name,
            correct=False,
            error="prompt too long",
            latency_s=0.0,
            cost_usd=0.0,
        )
    price = PRICES[name]
    prompt, completion = 40, int(rng.integers(10, 30))
    hidden = None
    if direction is not None:
        hidden = {HIDDEN_KEY: (direction * row.difficulty + noise).astype(np.float16)}
    return Generation(
        query_id=query.query_id,
        model=name,
        response=row.responses[name],
        answer=row.answers[name],
        correct=row.answers[name] == row.gold,
        finish_reason="stop" if completion < 28 else "length",
        prompt_tokens=prompt,
        completion_tokens=completion,
        latency_s=0.01,
        cost_usd=(prompt * price.input + completion * price.output) / 1e6,
        logprobs=LogprobStatistics(
            mean=mean, minimum=4 * mean, tail_mean=mean, answer_mean=mean / 2, answer_minimum=mean
        ),
        hidden_states=hidden,
    )


def _manifest(queries, *, mid_oracle: bool) -> Manifest:
    return Manifest(
        dataset="sums",
        dataset_hash="0" * 64,
        reference="gold",
        members=list(MEMBERS),
        mid_oracles=[MID_ORACLE] if mid_oracle else [],
        oracle=ORACLE,
        costs=[COSTS[name] for name in _names(mid_oracle)],
        price_note="made-up prices",
        grader="gsm8k",
        splits="hash",
        pyramid={"made": "up"},
        counts={"queries": len(queries)},
        complete=True,
    )


def quick_config(**changes):
    """A training of a second or two."""
    from pyramid_moa.training.config import NetworkConfig, OptimiserConfig, TrainConfig

    values = {
        "network": NetworkConfig(code=8, units=12, seeds=4, components=4),
        "optimiser": OptimiserConfig(
            max_epochs=20,
            patience=10,
            learning_rate=1e-2,
            averaging=0.9,
            batch_size=64,
            epoch_batches=4,
        ),
    }
    return TrainConfig(**(values | changes))


def import_flags(*tables: str | Path, out: str | Path = "run") -> list[str | Path]:
    """Arguments of ``import`` for such tables: all members and the oracle."""
    member_flags = [flag for name in MEMBERS for flag in ("--member", name)]
    return ["import", *tables, *member_flags, "--oracle", ORACLE, "--out", out]
